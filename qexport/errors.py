"""Errors that qexport raises on purpose; each message names the object, the value and the remedy."""

from collections.abc import Collection, Sequence

SHOWN_NAMES = 8
LONGEST_LINE = 2000


class QexportError(ValueError):
    """Wrong usage or input that cannot be used. The command line prints it as one line and exits 2."""

    exit_code = 2


class CheckFailed(QexportError):
    """A check did not hold: a mismatch, a corrupt set, a failed simulation. Exit code 1."""

    exit_code = 1


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: Python 3.11 makes a RuntimeError of it while it makes some classes."""
    behind = error and (error.__cause__ or error.__context__)
    return isinstance(error, KeyboardInterrupt) or (behind is not None and interrupted(behind))


def few(names: Collection[object], none: str = "none", between: str = ", ", most: int = SHOWN_NAMES) -> str:
    """Some names in a message, which is a line; of many the first ones, and how many more there are."""
    shown = between.join([" ".join(str(name).split()) for name, _ in zip(names, range(most), strict=False)])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown or none


def near(name: str, names: Sequence[str]) -> list[str]:
    """The names with those first that are most like `name`, or hold it: what it may have been meant to be."""
    import difflib  # here, because only errors need it

    alike = difflib.get_close_matches(name, names, SHOWN_NAMES, 0.4) if len(names) <= 10_000 else []
    alike += [other for other in names if name and name in other and other not in alike]
    return [*alike, *(other for other in names if other not in alike)]


def meant(name: str, names: Collection[str]) -> str:
    """The end of a message that refuses a name: which other one may have been meant, where one is nearly the same."""
    import difflib  # here, because only errors need it

    alike = difflib.get_close_matches(name, names, 1, 0.8) if name not in names else []
    return f"; did you mean '{alike[0]}'?" if alike else ""


def short(line: str) -> str:
    """A line of a message, cut where something in it is very long, such as a name that was given."""
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[:LONGEST_LINE]} ... ({len(line):,} characters)"
