"""The command line: one file for each command, loaded when it is called, and what the commands share.

Others use `main`, the program. Only commands import frontends and train, inside functions.
"""

import sys

from qexport.errors import interrupted

try:
    from qexport.core.signals import undisturbed

    with undisturbed():
        from qexport.cli.common.program import main
except BaseException as error:  # nothing of the program is there yet that could say it
    if not interrupted(error):
        raise
    sys.stderr.write("qexport: error: interrupted\n")
    sys.exit(130)

__all__ = ["main"]
