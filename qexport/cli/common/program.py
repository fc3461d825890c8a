"""The program: its commands, loaded when called, and what becomes of its errors and of its standard streams."""

import atexit
import gc
import importlib
import io
import os
import re
import signal
import sys
from collections import UserDict
from pathlib import Path
from typing import Any, NoReturn

import click

from qexport import __version__
from qexport.core.signals import undisturbed
from qexport.errors import QexportError, interrupted, short

FOLDER = Path(__file__).parent.parent  # each command stands in the file of its name; its docstring is the summary


def summaries() -> dict[str, str]:
    """The commands by name, with the line that stands in the list of commands."""
    import ast

    files = sorted(FOLDER.glob("[!_]*.py"))
    return {file.stem: ast.get_docstring(ast.parse(file.read_bytes())) or "" for file in files}


class _Commands(UserDict[str, click.Command]):
    """The commands by name; the file of a command is imported when the command is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            raise KeyError(name)
        gc.disable()  # imports leave no garbage, and the search for it takes a fifth of their time
        try:
            with undisturbed():
                command: click.Command = importlib.import_module(f"qexport.cli.{name}").command
        finally:
            gc.enable()
        return command


class _Stream(io.FileIO):
    """A standard stream that goes on in silence when its reader has gone (`| head`): checks decide the exit code."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not isinstance(error, BrokenPipeError):
                raise
            return len(memoryview(data))


def _open_streams() -> None:
    """Make stdout and stderr take every name, outlive their readers, and lead nowhere where the caller closed them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # a file opened later must not get the number of the stream
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if number == 0 else "w"))
        elif number and stream is getattr(sys, f"__{name}__"):
            kept = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            raw = io.BufferedWriter(_Stream(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", **kept))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Program(click.Group):
    """Turns our own errors, click's, the system's and the unexpected into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print an empty line
            raise click.Abort from None

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        try:
            _open_streams()
            status = super().main(*args, **(kwargs | {"standalone_mode": False}))
            sys.stdout.flush()
            sys.exit(status if isinstance(status, int) else 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "qexport"
            message = re.sub(r"\s*\n\s*", " ", error.format_message())  # choices are listed line by line
            _fail(f"{message.rstrip('.')}; see {command} --help", error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        except QexportError as error:
            _fail(str(error), error.exit_code)
        except MemoryError as error:
            _fail(f"out of memory: {error}; choose smaller sizes or fewer images", 2)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}; check the path, its permissions and the room on the disk", 2)
        except Exception as error:
            if interrupted(error):
                _fail("interrupted", 130)
            _fail(f"internal: {_one_line(error)}; this is a fault of qexport, please report it with {_record()}", 3)
        finally:
            atexit.unregister(_end_at_once)
            atexit.register(_end_at_once)  # the last that is registered is the first that runs

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(summaries().items()))


def _end_at_once() -> None:
    """Let Ctrl-C end the process without a word: all is done, and what libraries clean up would print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _record() -> str:
    """Where the traceback of the error at hand was written, in words."""
    import tempfile
    import traceback

    text = f"qexport {__version__}, Python {sys.version}, {sys.platform}\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="qexport-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError as error:
        return f"its traceback, which could not be written ({error.strerror or error})"
    return file.name


def _fail(message: str, code: int) -> NoReturn:
    click.echo("\n".join(map(short, f"qexport: error: {message}".split("\n"))), err=True)
    sys.exit(code)


@click.group(
    cls=Program,
    commands=_Commands({file.stem: click.Command(file.stem) for file in sorted(FOLDER.glob("[!_]*.py"))}),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="qexport")
def main() -> None:
    """Test vectors of quantized network layers that an RTL engineer can trust.

    \b
    qexport train --data cifar10/                   train a 4-bit network
    qexport dump --layer 33 --out vectors/          write a layer's vector set
    qexport verify vectors/features_33              check every file of it
    qexport simulate vectors/features_33            run its self-checking bench
    qexport show vectors/features_33 weight.hex:5   what a word holds

    Exit codes: 0 all checks held, 1 a check failed, 2 wrong usage or input that cannot be used, 3 a fault of qexport.
    """
