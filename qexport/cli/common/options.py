"""Arguments and options that several commands share, each written once."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("is empty; give a path", param, ctx)
        return super().convert(value, param, ctx)


def path_type() -> click.Path:
    return _Path(path_type=Path)


def together(*options: Decorator) -> Decorator:
    """Several options as one, in the order of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


folder_argument = click.argument("folder", type=path_type())
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result for machines.")


def out_option(what: str) -> Decorator:
    return click.option("--out", "target", type=path_type(), required=True, help=what)


def dut_options(what: str = "Your module instead of the set's dut.sv; give it again for further files.") -> Decorator:
    return together(
        click.option("--dut", type=path_type(), multiple=True, help=what),
        click.option("--top", help="Your module's name, where it is not 'dut'."),
    )


param_option = click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="Parameter of your module, generic of your entity."
)
reset_option = click.option(
    "--reset", metavar="PORT",
    help="Your reset: active low where its name says so (rst_n), else high; PORT:low, PORT:high say it.  "
    "[default: rst]",
)  # fmt: skip
clock_options = together(click.option("--clock", metavar="PORT", help="Your clock.  [default: clk]"), reset_option)


def design_options(what: str = "Your module instead of the set's dut.sv", own_clock: bool = True) -> Decorator:
    """What a user's design is, given to the command as `design`; empty without --dut.

    `own_clock`: False where the command itself has --clock and takes it too, which may be a path in a hierarchy.
    """

    from qexport.bench.design import REFUSED

    def gather(command: Callable[..., Any]) -> Callable[..., Any]:
        from qexport.bench.design import Design

        @functools.wraps(command)
        def gathered(
            *arguments: Any,
            dut: tuple[Path, ...],
            top: str | None,
            includes: tuple[Path, ...],
            defines: tuple[str, ...],
            params: tuple[str, ...],
            ties: tuple[str, ...],
            clock: str | None,
            reset: str | None,
            allow: tuple[str, ...],
            **options: Any,
        ) -> Any:
            check_top(top, dut)
            about = {
                "include": includes,
                "define": defines,
                "param": params,
                "tie": ties,
                "clock": clock if own_clock else None,
                "reset": reset,
                "allow": allow,
            }
            check_given(dut, about)
            port = (clock or "clk").rpartition(".")[2]
            design = Design.read(
                dut, top=top or "dut", includes=includes, defines=defines, params=pairs("--param", params),
                ties=pairs("--tie", ties), clock=port, reset=reset or "rst", allow=allow,
            )  # fmt: skip
            return command(*arguments, design=design, **options, **({} if own_clock else {"clock": clock}))

        return gathered

    options = together(
        dut_options(f"{what}: Verilog, VHDL, or file lists (*.f); give it again for further files."),
        click.option("--include", "includes", type=path_type(), multiple=True, help="Folder of your included files."),
        click.option("--define", "defines", multiple=True, metavar="NAME[=VALUE]", help="Macro of your files."),
        param_option,
        click.option(
            "--tie", "ties", multiple=True, metavar="PORT=VALUE",
            help="Extra port of your module: an input's value, or 'open' for an output.",
        ),
        clock_options if own_clock else reset_option,
        click.option(
            "--allow", type=click.Choice(list(REFUSED)), multiple=True,
            help="What your design may do beside computing; it stands in the verdict.",
        ),
    )  # fmt: skip
    return lambda command: options(gather(command))


def check_given(dut: tuple[Path, ...], about: Mapping[str, object]) -> None:
    """What is said of a design, by the option's name, needs one."""
    if not dut and (lost := [f"--{name}" for name, value in about.items() if value]):
        raise click.UsageError(f"{', '.join(lost)} belongs to --dut")


def pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE by name."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or name in found:
            raise click.UsageError(f"{option} {text!r} is {'given twice' if sign else 'not NAME=VALUE'}")
        found[name] = value
    return found


def simulator_option(what: str = "auto takes Verilator, else Icarus.") -> Decorator:
    from qexport.sim.registry import SIMULATORS

    choice = click.Choice(["auto", *SIMULATORS])
    return click.option("--simulator", type=choice, default="auto", show_default=True, help=what)


def seed_option(what: str, default: int | None = 0) -> Decorator:
    shown = default is not None
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=default, show_default=shown, help=what)


class _Seconds(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            raise click.UsageError(f"{param.opts[0] if param else 'value'} nan is not a number of seconds", ctx)
        return seconds


def seconds_type() -> click.FloatRange:
    return _Seconds(0, min_open=True)


def time_limit_option(what: str) -> Decorator:
    from qexport.sim.supervisor import TIME_LIMIT

    return click.option("--time-limit", type=seconds_type(), default=TIME_LIMIT, show_default=True, help=what)


def check_top(top: str | None, dut: tuple[Path, ...]) -> None:
    if top is not None and not dut:
        raise click.UsageError("--top belongs to --dut")
    if top is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", top):
        raise click.UsageError(f"--top {top!r} is not the name of a module")


network_options = together(
    click.option(
        "--checkpoint",
        help="A trained network's file, or 'builtin'. Default: result/vgg16_quant_gradual, else the shipped one.",
    ),
    *(
        click.option(f"--{what}-bits", type=click.IntRange(2, 8), help="Default: what the checkpoint says, else 4.")
        for what in ("weight", "act")
    ),
    click.option(
        "--side", type=click.IntRange(1, 1024),
        help="That of the checkpoint's pictures.  [default: what it says, else 32]",
    ),
)  # fmt: skip
data_options = together(
    click.option(
        "--data", type=path_type(), default="data", show_default=True,
        help="Folder with cifar-10-batches-py, or with train/<class> and test/<class>.",
    ),
    click.option("--download", is_flag=True, help="Fetch CIFAR-10 into --data first."),
)  # fmt: skip
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")


def hardware_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a hardware does behind the accumulator, as one argument `hardware`; None where nothing is stated."""
    from qexport.core.rescale import MAX_SHIFT, Hardware

    names = ("round", "mul_bits", "shift_max", "per_tensor", "power_of_two")

    @functools.wraps(command)
    def gathered(*arguments: Any, **options: Any) -> Any:
        stated = {name: value for name in names if (value := options.pop(name)) not in (None, False)}
        return command(*arguments, hardware=Hardware(**stated) if stated else None, **options)

    return together(
        click.option(
            "--round", type=click.Choice(["half_up", "half_even", "floor", "half_away"]),
            help="How the hardware's right shift rounds, in place of the network's own rounding.",
        ),
        click.option("--mul-bits", type=click.IntRange(2, 62), help="Bits of the hardware's signed multiplier."),
        click.option("--shift-max", type=click.IntRange(0, MAX_SHIFT), help="The hardware's largest right shift."),
        click.option("--per-tensor", is_flag=True, help="One multiplier and shift for all channels."),
        click.option("--power-of-two", is_flag=True, help="The hardware only shifts."),
    )(gathered)  # fmt: skip
