"""Errors that qexport raises on purpose; each message names the object, the value and the remedy."""


class QexportError(ValueError):
    """Wrong usage or input that cannot be used. The command line prints it as one line and exits 2."""

    exit_code = 2


class CheckFailed(QexportError):
    """A check did not hold: a mismatch, a corrupt set, a failed simulation. Exit code 1."""

    exit_code = 1
