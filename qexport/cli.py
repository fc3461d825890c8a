"""The command line: parse, call, print."""

import importlib.util
import io
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from qexport import __version__
from qexport.bench.cocotb_bench import render_cocotb
from qexport.bench.rtl import PARTS, render_rtl
from qexport.bench.stub import STYLES, render_stub
from qexport.build.blind_spots import Stored, blind_spots
from qexport.build.dump import Dump, dump, dump_all, plan
from qexport.build.images import DEFAULT_SHARE, choose_images
from qexport.build.show import dissect
from qexport.build.verify import Fault, verify, verify_index
from qexport.core.capture import Capture, CaptureFile, LayerCapture
from qexport.core.codes import Formats
from qexport.core.geometry import ConvGeometry
from qexport.core.intformat import IntFormat
from qexport.core.operations.conv2d import accumulator_bounds
from qexport.core.operations.registry import AXES, operation
from qexport.core.reference import MEAN_BAR
from qexport.core.strength import STAGES, compared, measure, percent, strength_text
from qexport.errors import CheckFailed, QexportError
from qexport.findings.diagnose import Diagnosis, diagnose
from qexport.findings.explain import Explanation, explain, steps_csv
from qexport.findings.shrink import BUDGET, shrink_actual, shrink_dut
from qexport.findings.waves import read_wave
from qexport.findings.words import Actual, read_actual
from qexport.layout.formats.registry import FORMATS
from qexport.layout.memory import Layout, Memory
from qexport.layout.order import BIT_AXIS, TILE_AXIS
from qexport.layout.paths import MANIFEST
from qexport.layout.tiling import Tiling, describe_index
from qexport.layout.toml import LayoutError, layout_errors, layout_text, load_layout, preset_names, preset_purpose
from qexport.sets.folder import find_sets
from qexport.sets.index import INDEX
from qexport.sets.manifest import Manifest, capture_of, read_manifest
from qexport.sets.staging import write_new_folders
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.tools import WAVES
from qexport.sim.verdict import Verdict
from qexport.trust.selftest import CHECKERS, SAMPLE, FileMutant, Selftest, selftest
from qexport.trust.selftest import Table as SelftestTable


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Program's to judge; rich would exit with 1


out = _Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
SHOWN_FAULTS = 10


class Program(click.Group):
    """Turns our own errors, click's and the system's into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has gone (`| head`); nothing is left to say, nothing has failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the console cannot show is no error
                stream.reconfigure(errors="backslashreplace")
        try:
            status = super().main(*args, **(kwargs | {"standalone_mode": False}))
            sys.exit(status if isinstance(status, int) else 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "qexport"
            message = re.sub(r"\s*\n\s*", " ", error.format_message())  # choices are listed line by line
            _fail(f"{message.rstrip('.')}; see {command} --help", error.exit_code)
        except click.Abort:
            _fail("interrupted", 130)
        except QexportError as error:
            _fail(str(error), error.exit_code)
        except MemoryError as error:
            _fail(f"out of memory: {error}; choose smaller sizes or fewer images", 2)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}; check the path, its permissions and the room on the disk", 2)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"qexport: error: {message}", err=True)
    sys.exit(code)


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("is empty; give a path", param, ctx)
        return super().convert(value, param, ctx)


def _path() -> _Path:
    return _Path(path_type=Path)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result for machines.")


def _emit(as_json: bool, result: Any, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        show()


def _table(*columns: str, right: int = 0) -> Table:
    """A table of which the last `right` columns hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="right" if at >= len(columns) - right else "left")
    return table


def _print(table: Table) -> None:
    """Print a table; where nobody watches, without the blanks that fill its lines."""
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows:
        table.add_row(key, escape(value))
    return table


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="qexport")
def main() -> None:
    """Test vectors of quantized network layers that an RTL engineer can trust.

    \b
    qexport train --data cifar10/                               train a 4-bit network
    qexport dump --layer 33 --out vectors/                      write a layer's vector set
    qexport verify vectors/features_33                          check every file of it
    qexport simulate vectors/features_33                        run its self-checking bench
    qexport show vectors/features_33 weight.hex:5               what a word holds

    Exit codes: 0 all checks held, 1 a check failed, 2 wrong usage or input that cannot be used.
    """


def _golden_text(manifest: Manifest) -> str:
    golden = manifest.golden
    if golden.mean_abs is None:
        return "exact integer convolution; the capture holds no PyTorch output to compare with"
    return (
        f"exact; against PyTorch's output: mean difference {golden.mean_abs:.1e}, below {MEAN_BAR:g}; "
        f"maximum {golden.max_abs:.1e}, below {golden.tolerance:.2g}"
    )


def _layer_text(layer: ConvGeometry) -> str:
    kernel = f"{layer.kernel[0]}x{layer.kernel[1]}"
    return f"{layer.name} ({layer.kind} {layer.in_channels} to {layer.out_channels}, {kernel})"


def _accumulator_text(manifest: Manifest) -> str:
    a = manifest.formats.accumulator
    return f"{a.observed[0]}..{a.observed[1]} seen, {a.bounds[0]}..{a.bounds[1]} possible: {a.bits} signed bits"


def _needs_torch() -> None:
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            raise QexportError(f"{package} is not installed; pip install 'qexport[torch]', or start from --capture")


def _needs_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise QexportError("matplotlib is not installed; pip install 'qexport[plot]'")


def _bits_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for what in ("act", "weight"):
        bits = click.IntRange(2, 8)
        command = click.option(f"--{what}-bits", type=bits, help="Default: what the checkpoint says, else 4.")(command)
    return command


checkpoint_option = click.option(
    "--checkpoint",
    help="A trained network's file, or 'builtin'. Default: result/vgg16_quant_gradual, else the shipped one.",
)


def _load_network(checkpoint: str | None, weight_bits: int | None, act_bits: int | None) -> Any:
    _needs_torch()
    from qexport.frontends.vgg import checkpoint as checkpoints

    if checkpoint is None:
        path = checkpoints.default_path()
    else:
        path = checkpoints.BUILTIN if checkpoint == "builtin" else Path(checkpoint)
    return checkpoints.load(path, weight_bits, act_bits)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr; yields what tells it that more is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda done: progress.advance(bar, done)


@dataclass(frozen=True)
class _Auto:
    """Pictures are chosen so that `share` percent of the weight errors show in the tensor `stage`."""

    stage: str
    share: float


@contextmanager
def _network_captures(
    layer: str | None,
    network: Any,
    data: Path | None,
    wanted: Sequence[int] | int | _Auto,
    dry_run: bool,
    as_json: bool,
) -> Iterator[list[tuple[Capture, int]]]:
    """Captures of one layer or of all (None) and their numbers of images; on a dry run without the codes.

    Says what is taken, on stderr where stdout is for machines.
    """
    from qexport.frontends.vgg import capture as capturing
    from qexport.frontends.vgg import data as pictures

    source = pictures.SamplePictures() if data is None else pictures.open_split(data, "test")
    if isinstance(wanted, int) and not 1 <= wanted <= len(source):
        raise QexportError(f"images: {wanted} is outside 1..{len(source)}, the pictures of this source")
    layers = capturing.layer_facts(network.model) if layer is None else [capturing.choose_layer(network.model, layer)]
    if isinstance(wanted, _Auto):
        chosen = layers[0]
        choice = choose_images(
            chosen.geometry,
            chosen.formats,
            chosen.conv.weight_codes().numpy(),
            wanted.stage,
            wanted.share,
            len(source),
            lambda batch: capturing.input_codes(network, chosen, pictures.read(source, batch)),
        )
        click.echo(f"{choice}", err=as_json)
        wanted = choice.images
    indices = list(range(wanted)) if isinstance(wanted, int) else list(wanted)
    taken = f"layer {layers[0].geometry.name}, {layers[0].shape}, kernel 3x3," if layer else f"{len(layers)} layers"
    click.echo(
        f"{taken} of {network.path} (sha256 {network.sha256[:12]}), pictures {_ranges(indices)} of "
        f"{data or 'the shipped samples'}",
        err=as_json,
    )
    read = pictures.read(source, indices)
    if dry_run:
        yield [
            (LayerCapture(f.geometry, f.formats, f.conv.weight_codes().numpy(), f.blank_input()), len(indices))
            for f in layers
        ]
        return
    with tempfile.TemporaryDirectory(prefix="qexport-") as scratch:
        with _progress("pictures", len(indices)) as advance:
            captured = capturing.capture_layers(network, layers, read, indices, Path(scratch), advance)
        different, codes = sum(one.float32_differences for one in captured), sum(one.codes for one in captured)
        click.echo(f"float32 pass: {different} of {codes} input codes differ from float64's", err=as_json)
        yield [(CaptureFile(one.path), len(indices)) for one in captured]


def _ranges(indices: Sequence[int]) -> str:
    """'0,1,2,3', or '0..255' for many that follow each other."""
    if len(indices) > 8 and list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return f"{indices[0]}..{indices[-1]}"
    return ",".join(map(str, indices))


def _read_indices(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    parts = value.split(",")
    if not all(re.fullmatch(r" *[0-9]{1,9} *", part) for part in parts):
        raise click.BadParameter(f"'{value}' is no list of picture indices such as 3,17", ctx, param)
    return [int(part) for part in parts]


def _read_images(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", value):
        raise click.BadParameter(f"'{value}' is neither a number of pictures nor 'auto'", ctx, param)
    return int(value)


@main.command(name="dump")
@click.option("--layer", help="Index (33), name (features.33) or shape (8x8) of a quantized convolution.")
@checkpoint_option
@_bits_options
@click.option("--data", type=_path(), help="CIFAR-10; its test pictures. Default: the pictures that ship.")
@click.option(
    "--images", metavar="N|auto", callback=_read_images,
    help="How many pictures, from the first on; auto: few of them that reach --strength.  [default: 4]",
)  # fmt: skip
@click.option(
    "--strength", "share", type=click.FloatRange(0, 100, min_open=True),
    help="Of --images auto: the percentage of single-bit weight errors that must show in what the layout compares."
    f"  [default: {DEFAULT_SHARE}]",
)  # fmt: skip
@click.option(
    "--indices", metavar="I,J,...", callback=_read_indices, help="Which pictures, counted from 0 in the data's order."
)
@click.option("--capture", type=_path(), help="Instead of a network: a layer's codes, capture.safetensors.")
@click.option("--all", "every", is_flag=True, help="Every quantized layer: one set for each, and index.json.")
@click.option("--layout", default="default", show_default=True, help="A preset's name or a layout file (TOML).")
@click.option("--out", "folder", type=_path(), required=True, help="Folder for the sets' folders, made when missing.")
@click.option("--force", is_flag=True, help="Replace another set of this layer.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print files, words and bytes.")
@json_option
def dump_command(
    layer: str | None,
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    data: Path | None,
    images: int | str | None,
    share: float | None,
    indices: list[int] | None,
    capture: Path | None,
    every: bool,
    layout: str,
    folder: Path,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a layer's vector set: memory files, bench, manifest; verified before it appears.

    \b
    qexport dump --layer 33 --out vectors/
    qexport dump --layer 8x8 --checkpoint model_best.pth.tar --data cifar10/ --indices 3,17 --out vectors/
    qexport dump --layer 33 --data cifar10/ --images auto --strength 99.5 --out vectors/
    qexport dump --all --images 16 --layout stream_nhwc64 --out vectors/ --dry-run
    qexport dump --capture capture.safetensors --out vectors/
    qexport dump --capture capture.safetensors --layout ws8x8 --out vectors/ --force
    qexport dump --capture capture.safetensors --layout my_array.toml --out vectors/
    """
    if [layer is not None, capture is not None, every].count(True) != 1:
        raise click.UsageError("give one of --layer and --all (from a network) and --capture (from a file)")
    if images is not None and indices is not None:
        raise click.UsageError("give either --images or --indices")
    chosen = load_layout(layout)
    with ExitStack() as stack:
        captures: list[tuple[Capture, int]]
        if capture is not None:
            unused = {"--checkpoint": checkpoint, "--weight-bits": weight_bits, "--act-bits": act_bits, "--data": data,
                      "--images": images, "--strength": share, "--indices": indices}  # fmt: skip
            given = [name for name, value in unused.items() if value is not None]
            if given:
                raise click.UsageError(f"{', '.join(given)} belongs to --layer; a capture holds its codes already")
            read = CaptureFile(capture)
            captures = [(read, read.images)]
        else:
            wanted = _wanted_pictures(images, share, indices, chosen, every)
            network = _load_network(checkpoint, weight_bits, act_bits)
            captures = stack.enter_context(_network_captures(layer, network, data, wanted, dry_run, as_json))
        if dry_run:
            _emit_plan(captures, chosen, as_json)
            return
        index = None
        if every:
            with _progress("layers", len(captures)) as advance:
                dumps, index = dump_all((one for one, _ in captures), chosen, folder, force, advance)
        else:
            dumps = [dump(captures[0][0], chosen, folder, force)]
    results = [_dump_result(done) for done in dumps]
    result = results[0] if index is None else {"index": str(index), "sets": results}
    _emit(as_json, result, lambda: _show_set(dumps[0]) if index is None else _show_sets(dumps, index))
    for done in dumps:
        for line in done.kept:
            click.echo(f"qexport: {line}", err=True)
        for warning in done.manifest.warnings:
            where = f"{done.manifest.layer.name}: " if every else ""
            click.echo(f"qexport: warning: {where}{warning}", err=True)


def _wanted_pictures(
    images: int | str | None, share: float | None, indices: list[int] | None, layout: Layout, every: bool
) -> Sequence[int] | int | _Auto:
    """Which pictures the options ask for."""
    if images == "auto":
        if every:
            raise click.UsageError("--images auto belongs to --layer, because each layer needs its own pictures")
        stages = compared(layout.memories)
        if not stages:
            raise QexportError(
                f"images: layout '{layout.name}' stores none of {', '.join(STAGES)}, in which errors are counted; "
                "give a number"
            )
        return _Auto(next(iter(stages)), DEFAULT_SHARE if share is None else share)
    if share is not None:
        raise click.UsageError("--strength belongs to --images auto")
    if indices is not None:
        return indices
    return images if isinstance(images, int) else 4


def _emit_plan(captures: Sequence[tuple[Capture, int]], layout: Layout, as_json: bool) -> None:
    """What a dump would write."""
    rows = [
        (capture.layer.name, stream.memory.name, stream.tiling.files, stream.tiling.files * stream.tiling.words,
         stream.size)
        for capture, images in captures
        for stream in plan(operation(capture, layout.array.get(TILE_AXIS)), layout, images)
    ]  # fmt: skip
    totals = [sum(row[at] for row in rows) for at in (2, 3, 4)]  # type: ignore[misc]

    def show() -> None:
        table = _table("layer", "memory", "files", "words", "bytes", right=3)
        for name, memory, *numbers in [*rows, ("all", "", *totals)]:
            table.add_row(escape(str(name)), escape(str(memory)), *(f"{number:,}" for number in numbers))
        _print(table)
        out.print("\nNothing was written. Beside these stand the capture, the bench and the manifest.")
        out.print("Bytes of decimals are the most that there can be.")

    names = ("layer", "memory", "files", "words", "bytes")
    listed = [dict(zip(names, row, strict=True)) for row in rows]
    _emit(as_json, {"memories": listed, **dict(zip(names[2:], totals, strict=True))}, show)


def _dump_result(done: Dump) -> dict[str, Any]:
    manifest = done.manifest
    return {
        "set": str(done.folder),
        "unchanged": done.unchanged,
        "files": manifest.file_count,
        "golden": {"mean_abs": manifest.golden.mean_abs, "max_abs": manifest.golden.max_abs},
        "strength": msgspec.to_builtins(manifest.strength),
        "warnings": list(manifest.warnings),
    }


def _strength_line(manifest: Manifest) -> str:
    return strength_text(manifest.strength, manifest.memories)


def _share(manifest: Manifest) -> str:
    """The share of weight errors that show in the first tensor that the set compares."""
    weight = manifest.strength.weight
    return next((percent(getattr(weight, stage), weight.flips) for stage in compared(manifest.memories)), "-")


def _show_set(done: Dump) -> None:
    manifest = done.manifest
    table = _table("memory", "tensor", "files", "words", "word bits", "first file")
    for m in manifest.memories:
        words = sum(file.words for file in m.files)
        table.add_row(m.name, m.tensor, str(len(m.files)), str(words), str(m.word_bits), escape(m.files[0].path))
    _print(table)
    out.print()
    rows = [
        ("layer", _layer_text(manifest.layer)),
        ("layout", manifest.layout.name),
        ("accumulator", _accumulator_text(manifest)),
        ("golden", _golden_text(manifest)),
        ("strength", _strength_line(manifest)),
        ("set", f"{done.folder} ({manifest.file_count} files{', unchanged' if done.unchanged else ''})"),
    ]
    _print(_pairs(rows))


def _show_sets(dumps: Sequence[Dump], index: Path) -> None:
    table = _table("set", "in x out", "files", "accumulator bits", "max difference", "tolerance", "strength")
    for done in dumps:
        m = done.manifest
        difference = "-" if m.golden.max_abs is None else f"{m.golden.max_abs:.1e}"
        table.add_row(
            escape(str(done.folder)),
            f"{m.layer.in_channels}x{m.layer.out_channels}",
            str(m.file_count),
            str(m.formats.accumulator.bits),
            difference,
            f"{m.golden.tolerance:.2g}",
            _share(m),
        )
    _print(table)
    unchanged = sum(done.unchanged for done in dumps)
    out.print(f"\n{len(dumps)} sets{f', {unchanged} unchanged' * bool(unchanged)}, listed in {escape(str(index))}")


@main.command(name="verify")
@click.argument("folder", type=_path())
@json_option
def verify_command(folder: Path, as_json: bool) -> None:
    """Check a set, or every set in a folder: hashes, stray files, every code against the golden.

    \b
    qexport verify vectors/features_33
    """
    results: list[tuple[Path, Manifest | None, list[Fault]]] = []
    unusable: dict[Path, QexportError] = {}
    for path in find_sets(folder):
        try:
            results.append((path, *verify(path)))
        except QexportError as error:
            unusable[path] = error
    if faults_of_index := verify_index(folder):
        results.append((folder / INDEX, None, faults_of_index))
    failed = [path for path, _, faults in results if faults]

    def show() -> None:
        for path, manifest, faults in results:
            if manifest and not faults:
                out.print(f"{escape(str(path))}: ok, {manifest.file_count} files; {_golden_text(manifest)}")
                continue
            out.print(f"{escape(str(path))}: {len(faults)} fault(s)")
            for fault in faults[:SHOWN_FAULTS]:
                out.print(f"  {escape(str(fault))}")
            if len(faults) > SHOWN_FAULTS:
                out.print(f"  ... and {len(faults) - SHOWN_FAULTS} more")

    listed: list[dict[str, Any]] = [
        {"set": str(path), "faults": [fault.as_json() for fault in faults]} for path, _, faults in results
    ]
    listed += [{"set": str(path), "error": str(error)} for path, error in unusable.items()]
    _emit(as_json, {"ok": not failed and not unusable, "sets": listed}, show)
    if failed:
        sets = ", ".join(map(str, failed))
        raise CheckFailed(
            f"verify: {len(failed)} of {len(results) + len(unusable)} set(s) failed: {sets}; "
            "dump them again, or remove what does not belong there"
        )
    if unusable:
        raise next(iter(unusable.values()))


@main.command(name="simulate")
@click.argument("folder", type=_path())
@click.option(
    "--simulator", type=click.Choice(["auto", *SIMULATORS]), default="auto", show_default=True,
    help="auto takes Verilator, else Icarus.",
)  # fmt: skip
@click.option(
    "--dut", type=_path(), multiple=True,
    help="Your module instead of the set's dut.sv; give it again for further files.",
)  # fmt: skip
@click.option("--top", help="Your module's name, where it is not 'dut'.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
    help="Other than 0: all streams stall at random, the same way for the same seed.",
)  # fmt: skip
@click.option("--keep", type=_path(), help="Folder for logs, the words that came back, and waves.")
@click.option("--waves", type=click.Choice(WAVES), help="Record all signals in --keep.")
@click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), default=TIME_LIMIT, show_default=True,
    help="Seconds for the build, and again for the run.",
)  # fmt: skip
@json_option
def simulate_command(
    folder: Path,
    simulator: str,
    dut: tuple[Path, ...],
    top: str | None,
    seed: int,
    keep: Path | None,
    waves: str | None,
    time_limit: float,
    as_json: bool,
) -> None:
    """Run the self-checking bench of a set, or of every set in a folder, and judge.

    A run that has not ended after --time-limit counts as failed, as does one that prints more than 64 MiB.

    \b
    qexport simulate vectors/features_33
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --seed 1
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/ --waves vcd
    """
    if waves is not None and keep is None:
        raise click.UsageError("--waves needs --keep, the folder for them")
    if top is not None and not dut:
        raise click.UsageError("--top belongs to --dut")
    verdicts: list[Verdict] = []
    failures: dict[Path, QexportError] = {}
    for path in find_sets(folder):
        try:
            verdicts.append(
                simulate(
                    path, simulator, dut, top=top or "dut", seed=seed, waves=waves, limit=time_limit,
                    keep=keep if keep is None or path == folder else keep / path.name,
                    progress=lambda line, path=path: click.echo(f"{path}: {line}", err=True),  # type: ignore[misc]
                )
            )  # fmt: skip
        except QexportError as error:
            failures[path] = error

    def show() -> None:
        for verdict in verdicts:
            manifest = verdict.manifest
            what = f"PASS, {verdict.checks} values compared by {verdict.simulator} {verdict.version}"
            rows = [
                ("set", f"{verdict.set}, layer {_layer_text(manifest.layer)}"),
                ("files", f"{manifest.file_count} as dumped, layout '{manifest.layout.name}'"),
                ("golden", _golden_text(manifest)),
                ("simulation", what + (f", streams stalled with seed {verdict.seed}" if verdict.seed else "")),
                ("compared", _counts_text(verdict.compared)),
            ]
            if verdict.not_compared:
                rows.append(("not compared", f"{_counts_text(verdict.not_compared)}: the module has no such ports"))
            rows.append((
                "speed",
                f"{verdict.cycles} cycles, {verdict.macs_per_cycle:.3g} multiplications a cycle, "
                f"{verdict.utilisation:.1%} of {verdict.multipliers} multipliers",
            ))  # fmt: skip
            _print(_pairs(rows))

    listed: list[dict[str, Any]] = [
        {
            "set": str(v.set), "result": "PASS", "checks": v.checks, "compared": v.compared,
            "not_compared": v.not_compared, "seed": v.seed, "cycles": v.cycles, "macs": v.macs,
            "macs_per_cycle": v.macs_per_cycle, "multipliers": v.multipliers, "utilisation": v.utilisation,
            "simulator": v.simulator, "version": v.version,
        }
        for v in verdicts
    ]  # fmt: skip
    listed += [
        {"set": str(path), "result": "FAIL" if isinstance(error, CheckFailed) else "NOT RUN", "why": str(error)}
        for path, error in failures.items()
    ]
    _emit(as_json, {"ok": not failures, "sets": listed}, show)
    if failures:
        kind = CheckFailed if any(isinstance(error, CheckFailed) for error in failures.values()) else QexportError
        raise kind("\n".join(map(str, failures.values())))


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{memory} ({count})" for memory, count in counts.items())


@main.command(name="diagnose")
@click.argument("folder", type=_path())
@click.option(
    "--actual", "files", type=_path(), multiple=True, required=True,
    help="What your design gave: text, its files or the folder of simulate --keep; or VCD or FST.",
)  # fmt: skip
@click.option("--memory", help="The memory it is to be compared with, where names and widths do not say it.")
@click.option("--signal", help="Of a VCD or FST: the signal that carries the words.")
@click.option("--clock", help="Of a VCD or FST: the clock at whose rising edges they are taken.")
@click.option(
    "--valid",
    help="Of a VCD or FST: the signal that is 1 where a word counts.  [default: tvalid and tready of a tdata]",
)
@json_option
def diagnose_command(
    folder: Path,
    files: tuple[Path, ...],
    memory: str | None,
    signal: str | None,
    clock: str | None,
    valid: str | None,
    as_json: bool,
) -> None:
    """Say where what a design gave differs from a set, and which mistake explains it.

    \b
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/
    qexport diagnose vectors/features_33 --actual run/accumulator.hex
    qexport diagnose vectors/features_33 --actual sums.txt --memory accumulator
    qexport diagnose vectors/features_33 --actual run/waves.fst --signal m_relu_tdata --clock clk
    """
    if (signal is None) != (clock is None):
        raise click.UsageError("--signal and --clock belong together; a text file needs neither")
    if valid is not None and signal is None:
        raise click.UsageError("--valid belongs to --signal and --clock")
    if signal is None or clock is None:
        actual = read_actual(folder, files, memory)
    elif len(files) > 1:
        raise click.UsageError("--signal is of one file; give --actual once")
    else:
        actual = read_wave(folder, files[0], signal, clock, memory, valid)
    file = ", ".join(map(str, files))
    watched = sys.stderr.isatty()
    found = diagnose(folder, actual, lambda what: click.echo(f"trying {what} ...", err=True) if watched else None)
    result = {"set": str(folder), "actual": file, "memory": actual.memory.name, **found.as_json()}
    _emit(as_json, result | {"notes": list(actual.notes)}, lambda: _show_diagnosis(folder, file, actual, found))
    if found.differing or found.findings:
        raise CheckFailed(f"diagnose: {file}: {found.summary}")


def _show_diagnosis(folder: Path, file: str, actual: Actual, found: Diagnosis) -> None:
    rows = [
        ("set", str(folder)),
        ("compared", f"{file} with memory {actual.memory.name}"),
        ("differ", f"{found.differing} of {found.total} values ({percent(found.differing, found.total)})"),
        *(("note", note) for note in actual.notes),
    ]
    if found.first is not None:
        rows.append(("first", str(found.first)))
    rows += [("note", finding) for finding in found.findings]
    _print(_pairs(rows))
    if found.shares:
        out.print()
        click.echo("\n".join(found.map))
    if not found.causes:
        return
    out.print()
    rows = []
    if not found.explained:
        rows.append(("cause", "unexplained; the closest hypotheses are"))
    for cause in found.causes[:1] if found.explained else found.causes:
        rows.append(("cause" if found.explained else "", f"{cause}, {found.share_text(cause)}"))
        rows.append(("remedy" if found.explained else "", cause.remedy))
    if found.explained and len(found.causes) > 1:
        others = ", ".join(map(str, found.causes[1:]))
        rows.append(("alike", f"no vector of this set tells it from {others}"))
    rows += [("separate", str(separation)) for separation in found.separations]
    if found.inseparable:
        rows.append(("", f"no vector was found that tells it from {', '.join(found.inseparable)}"))
    _print(_pairs(rows))


@main.command(name="rtl")
@click.argument("folder", type=_path())
@click.option(
    "--style", type=click.Choice(list(PARTS)), default="ws", show_default=True,
    help="ws: weight-stationary systolic array, os: output-stationary.",
)  # fmt: skip
@click.option("--out", "target", type=_path(), required=True, help="New folder for the files.")
@json_option
def rtl_command(folder: Path, style: str, target: Path, as_json: bool) -> None:
    """Write the reference RTL of a set's layer: a synthesizable systolic array behind AXI4-Streams and memories.

    In a folder of sets, of every one, into folders of their names.

    \b
    qexport rtl vectors/features_33 --style ws --out rtl/
    qexport rtl vectors/features_33 --style os --out rtl_os/
    """
    designs: dict[Path, dict[str, str]] = {}
    for path in find_sets(folder):
        manifest = read_manifest(path)
        files = render_rtl(style, manifest.layer, manifest.memories, manifest.array, manifest.formats)
        files["files.f"] = "".join(f"{name}\n" for name in files if name != "dut_mm.sv")
        designs[target if path == folder else target / path.name] = files
    write_new_folders(designs)
    written = {str(to): list(files) for to, files in designs.items()}

    def show() -> None:
        for to, names in written.items():
            click.echo(f"{to}: {len(names)} files, top modules dut and dut_mm")

    _emit(as_json, {"folders": written}, show)


@main.command(name="stub")
@click.argument("folder", type=_path())
@click.option(
    "--style", type=click.Choice(STYLES), required=True,
    help="stream, memory: around a module with AXI4-Streams or a memory-mapped one; blank: any layout, loads only.",
)  # fmt: skip
@click.option("--out", "target", type=_path(), required=True, help="New folder for the files.")
@json_option
def stub_command(folder: Path, style: str, target: Path, as_json: bool) -> None:
    """Write the skeleton of a bench to edit by hand: sizes, loading and comparing filled in, plain Verilog and make.

    In a folder of sets, of every one, into folders of their names.

    \b
    qexport stub vectors/features_33 --style stream --out bench/   # then: make -C bench sim DUT=/path/to/core.sv
    qexport stub vectors/features_33 --style memory --out bench_mm/
    qexport stub vectors/features_33 --style blank --out bench_own/
    """
    targets = {path: target if path == folder else target / path.name for path in find_sets(folder)}
    stubs = {to: render_stub(read_manifest(path), style, path, to) for path, to in targets.items()}
    write_new_folders(stubs)
    written = {str(to): list(files) for to, files in stubs.items()}

    def show() -> None:
        for to, names in written.items():
            click.echo(f"{to}: {len(names)} files; edit {names[0]}, then make -C {to} sim")

    _emit(as_json, {"folders": written}, show)


@main.command(name="cocotb")
@click.argument("folder", type=_path())
@click.option("--out", "target", type=_path(), required=True, help="New folder for the bench.")
@click.option(
    "--dut", type=_path(), multiple=True,
    help="Your module instead of the set's dut.sv; give it again for further files.",
)  # fmt: skip
@click.option("--top", help="Your module's name, where it is not 'dut'.")
@json_option
def cocotb_command(folder: Path, target: Path, dut: tuple[Path, ...], top: str | None, as_json: bool) -> None:
    """Write the bench of a set in Python, for cocotb 2: one file that you run and edit without this program.

    In a folder of sets, of every one, into folders of their names.

    \b
    qexport cocotb vectors/features_33 --out bench/
    qexport cocotb vectors/features_33 --dut my_core.sv --top my_core --out bench/
    pytest bench/test_features_33.py
    python bench/test_features_33.py --simulator verilator --seed 1
    """
    if top is not None and not dut:
        raise click.UsageError("--top belongs to --dut")
    targets = {path: target if path == folder else target / path.name for path in find_sets(folder)}
    benches = {to: render_cocotb(path, to, dut, top or "dut") for path, to in targets.items()}
    write_new_folders(benches)

    def show() -> None:
        for to, files in benches.items():
            for name in files:
                click.echo(f"{to / name}: run it with pytest, or with python and --simulator, --seed; needs cocotb 2")

    _emit(as_json, {"folders": {str(to): list(files) for to, files in benches.items()}}, show)


@main.command(name="show")
@click.argument("folder", type=_path())
@click.argument("place", metavar="FILE:LINE")
@json_option
def show_command(folder: Path, place: str, as_json: bool) -> None:
    """Say what a word of a memory file holds, lane by lane; in a folder of sets, for every set with that file.

    \b
    qexport show vectors/features_33 weight.hex:5
    """
    path, _, number = place.rpartition(":")
    if not path or not re.fullmatch(r"0*[1-9][0-9]{0,17}", number):
        raise QexportError(f"place: '{place}' is not FILE:LINE, such as weight.hex:5")
    sets = [(found, read_manifest(found)) for found in find_sets(folder)]
    words = [dissect(found, manifest, path, int(number)) for found, manifest in sets if manifest.memory_of(path)]
    if not words:
        names = ", ".join(file.path for _, manifest in sets for m in manifest.memories for file in m.files[:1])
        raise QexportError(f"place: '{path}' is no memory file of {folder}; it has {names}, ...")

    def show() -> None:
        for word in words:
            kind = "  (header)" if word.header else ""
            out.print(f"{escape(word.file)}:{word.line}  {escape(word.text)}{kind}")
            if word.header:
                continue
            shifted = any(lane.stored != lane.code for lane in word.lanes)  # or what was stored is not the code
            table = _table("lane", f"{word.tensor} index", "code", "bits", *(["stored"] if shifted else []))
            for lane in word.lanes:
                stored = [str(lane.stored)] if shifted else []
                table.add_row(
                    str(lane.lane),
                    describe_index(lane.index),
                    "?" if lane.code is None else str(lane.code),
                    lane.bits,
                    *stored,
                )
            _print(table)

    _emit(as_json, {"words": [asdict(word) for word in words]}, show)


_SHOWN_PLACES = 4


def _read_output_index(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    parts = value.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r" *[0-9]{1,9} *", part) for part in parts):
        raise click.BadParameter(f"'{value}' is not IMAGE,OC,Y,X, such as 0,5,2,3", ctx, param)
    return tuple(int(part) for part in parts)


@main.command(name="explain")
@click.argument("folder", type=_path())
@click.option(
    "--at", required=True, metavar="IMAGE,OC,Y,X", callback=_read_output_index, help="Image, output channel, position."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the terms as CSV.")
@json_option
def explain_command(folder: Path, at: tuple[int, int, int, int], as_csv: bool, as_json: bool) -> None:
    """Say how one output value comes about, term by term in the order of the array, with each operand's place.

    Places are FILE:LINE:LANE. In a folder of sets, for every set.

    \b
    qexport explain vectors/features_33 --at 0,5,2,3
    qexport explain vectors/features_33 --at 0,5,2,3 --csv
    """
    if as_csv and as_json:
        raise click.UsageError("give either --csv or --json")
    found = [explain(path, *at) for path in find_sets(folder)]
    if as_csv:
        click.echo(steps_csv(found), nl=False)
        return

    def show() -> None:
        for one in found:
            _show_explanation(one)

    _emit(as_json, {"values": [asdict(one) for one in found]}, show)


def _show_explanation(one: Explanation) -> None:
    column = "" if one.column is None else f", {describe_index(one.column)} of the array"
    out.print(f"[bold]{escape(one.set)}[/bold]: layer {escape(one.layer)}, {describe_index(one.at)}{column}")
    numbers = ("it", "kh", "kw", "row", "ic", "input", "weight", "product", "sum")
    table = _table(*numbers, "input at", "weight at", "")
    ending = _table("value", "computed", "stored", "at")
    for step in one.steps:
        if step.kind == "term":
            terms = (step.it, step.kh, step.kw, step.row, step.ic, step.input, step.weight, step.value, step.sum)
            padding = "padding" if step.padding else ""
            table.add_row(*map(str, terms), _places(step.input_at), _places(step.weight_at), padding)
        elif step.kind == "psum":
            tap, sums = map(str, (step.it, step.kh, step.kw)), map(str, (step.value, step.sum))
            table.add_row(*tap, "", "", "", "psum", *sums, _places(step.at), style="bold")
        else:
            held = [(str(stored.value), stored.at) for stored in one.stored if stored.tensor == step.kind]
            for value, at in held or [("-", _places(step.at))]:
                ending.add_row(step.kind, str(step.value), value, escape(at))
    for column_ in (*table.columns[: len(numbers)], *ending.columns[1:3]):
        column_.justify = "right"
    _print(table)
    out.print()
    _print(ending)


def _places(places: Sequence[str]) -> str:
    """The first, and how many more there are."""
    more = f" and {len(places) - 1} more bits" if len(places) > 1 else ""
    return escape(places[0]) + more if places else "-"


@main.command(name="shrink")
@click.argument("folder", type=_path())
@click.option("--out", "target", type=_path(), required=True, help="New folder, which becomes the small set.")
@click.option(
    "--dut", type=_path(), multiple=True, help="The failing module; give it again for further files. Each step is "
    "simulated.",
)  # fmt: skip
@click.option("--top", help="Your module's name, where it is not 'dut'.")
@click.option(
    "--simulator", type=click.Choice(["auto", *SIMULATORS]), default="auto", show_default=True,
    help="With --dut: auto takes Icarus, which builds fastest, else Verilator.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="With --dut: that of the failing run.  [default: 0]")
@click.option(
    "--budget", type=click.FloatRange(0, min_open=True),
    help=f"With --dut: seconds after which the best set so far is taken.  [default: {BUDGET}]",
)  # fmt: skip
@click.option(
    "--actual", type=_path(), multiple=True,
    help="Instead of --dut: what the design gave, a file, its files or the folder of simulate --keep.",
)  # fmt: skip
@click.option("--memory", help="With --actual: the memory that was given, where its name does not tell.")
@json_option
def shrink_command(
    folder: Path,
    target: Path,
    dut: tuple[Path, ...],
    top: str | None,
    simulator: str,
    seed: int | None,
    budget: float | None,
    actual: tuple[Path, ...],
    memory: str | None,
    as_json: bool,
) -> None:
    """Write the smallest set that still shows a failure, and beside it, in OUT.actual, what the design gives for it.

    With --dut images are dropped, codes set to 0 and sizes cut, as long as the simulation fails in the same way. With
    --actual one differing value is kept: its image, output channel and position.

    \b
    qexport shrink vectors/features_33 --out small --dut my_core.sv --top my_core
    qexport shrink vectors/features_33 --out small --actual run/relu.hex
    """
    if bool(dut) == bool(actual):
        raise click.UsageError("give either --dut or --actual")
    if budget is not None and math.isnan(budget):
        raise click.UsageError("--budget nan is no number of seconds")
    of_dut = {
        "--top": top,
        "--seed": seed,
        "--budget": budget,
        "--simulator": None if simulator == "auto" else simulator,
    }
    foreign = {"--memory": memory} if dut else of_dut
    if given := [name for name, value in foreign.items() if value is not None]:
        raise click.UsageError(f"{', '.join(given)} belongs to {'--actual' if dut else '--dut'}")
    if dut:
        done = shrink_dut(
            folder, target, dut, top=top or "dut", simulator=simulator, seed=seed or 0, budget=budget or BUDGET,
            progress=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    else:
        done = shrink_actual(folder, target, read_actual(folder, actual, memory))

    def show() -> None:
        table = _table("", "before", "after", right=2)
        for name, count in done.before.items():
            table.add_row(name, str(count), str(done.after[name]))
        _print(table)
        out.print()
        rows = [("set", str(done.set)), ("design gives", str(done.actual)), ("differ", ", ".join(done.failures))]
        if done.runs:
            ended = "search complete" if done.complete else "ended by the budget; a larger --budget may find less"
            rows.append(("simulations", f"{done.runs}, {ended}"))
        if done.kept:
            rows.append(("not reduced", done.kept))
        _print(_pairs(rows))

    _emit(as_json, asdict(done) | {"set": str(done.set), "actual": str(done.actual)}, show)


@main.command(name="strength")
@click.argument("folder", type=_path())
@json_option
def strength_command(folder: Path, as_json: bool) -> None:
    """Count exactly which single-bit errors of weight and input codes a set, or every set in a folder, can notice.

    \b
    qexport strength vectors/features_33
    """
    results = [_strength_of(path) for path in find_sets(folder)]

    def show() -> None:
        for number, result in enumerate(results):
            if number:
                out.print()
            _show_strength(result)

    if as_json:  # lists are long and slow: a wide layer has a million weights
        for result in results:
            result["unexercised"] = {stage: places.tolist() for stage, places in result["unexercised"].items()}
    _emit(as_json, {"sets": results}, show)


def _strength_of(path: Path) -> dict[str, Any]:
    """The strength of a set from its capture; raises CheckFailed when the capture was changed."""
    manifest = read_manifest(path)
    capture = capture_of(path, manifest)
    strength = measure(capture)
    info = strength.info
    if info != manifest.strength:
        raise CheckFailed(f"{path / MANIFEST}: strength is not what the capture gives; dump the set again")
    stored = [Stored(m.name, m.tensor, m.tiling(manifest.array)) for m in manifest.memories]
    return {
        "set": str(path),
        "layer": manifest.layer.name,
        "layout": manifest.layout.name,
        "images": capture.images,
        "compared": list(compared(manifest.memories)),
        "summary": strength_text(info, manifest.memories),
        "flips": msgspec.to_builtins(info),
        "unexercised": {stage: strength.unexercised(stage) for stage in STAGES[1:]},
        "dead_inputs": strength.dead_inputs,
        "dead_outputs": strength.dead_outputs,
        "blind_spots": [str(spot) for spot in blind_spots(capture, stored, manifest.array.get(TILE_AXIS))],
    }


def _first(places: Sequence[Any], text: Callable[[Any], str]) -> str:
    """'none', or the number and the first few."""
    if not len(places):
        return "none"
    more = ", ..." if len(places) > _SHOWN_PLACES else ""
    return f"{len(places)}: {', '.join(text(place) for place in places[:_SHOWN_PLACES])}{more}"


def _show_strength(result: Mapping[str, Any]) -> None:
    _print(_pairs([
        ("set", f"{result['set']}, layer {result['layer']}, layout '{result['layout']}', {result['images']} image(s)"),
        ("strength", result["summary"]),
    ]))  # fmt: skip
    out.print()
    table = _table("errors of", "single bits", *(f"show in {stage}" for stage in STAGES))
    for kind, counts in result["flips"].items():
        total = counts["flips"]
        shares = [f"{counts[stage]} ({percent(counts[stage], total)})" for stage in STAGES]
        table.add_row(f"{kind} codes", str(total), *shares)
    _print(table)
    out.print()
    rows = [
        (
            f"weights unexercised in {stage}",
            _first(places, lambda place: describe_index(dict(zip(AXES["weight"], place, strict=True)))),
        )
        for stage, places in result["unexercised"].items()
    ]
    rows.append(("input channels always 0", _first(result["dead_inputs"], "ic={}".format)))
    rows.append(("output channels never above 0", _first(result["dead_outputs"], "oc={}".format)))
    _print(_pairs(rows))
    for spot in result["blind_spots"]:
        out.print(f"blind spot: {escape(spot)}")


@main.command(name="selftest")
@click.argument("folder", type=_path())
@click.option(
    "--dut", type=_path(), multiple=True,
    help="Change your module instead of the reference arrays; give it again for further files.",
)  # fmt: skip
@click.option("--top", help="Your module's name, where it is not 'dut'.")
@click.option(
    "--style", type=click.Choice(tuple(PARTS)), help="Change this reference array.  [default: ws; with --all both]"
)
@click.option(
    "--simulator", type=click.Choice(["auto", *SIMULATORS]), default="auto", show_default=True,
    help="auto takes Verilator, else Icarus.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
    help="Of the mutants, and of the stress capture's codes.",
)  # fmt: skip
@click.option(
    "--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, help="Mutants of each kind of an array."
)
@click.option("--all", "every", is_flag=True, help="All mutants, of both arrays, instead of a sample.")
@json_option
def selftest_command(
    folder: Path,
    dut: tuple[Path, ...],
    top: str | None,
    style: str | None,
    simulator: str,
    seed: int,
    sample: int,
    every: bool,
    as_json: bool,
) -> None:
    """Prove that the verdict can fail: change a set, or every set in a folder, and RTL, and see what notices.

    Each file of the set is changed in many ways, in a copy: bench and verify must notice. The reference arrays are
    changed, too. How much of that the set's own vectors show is reported; vectors of the same geometry that try the
    arithmetic as hard as they can, the stress capture, must show all. The exit code is 1 when something survives that
    must be noticed.

    \b
    qexport selftest vectors/features_33
    qexport selftest vectors/features_33 --style os --sample 5
    qexport selftest vectors/features_33 --all
    qexport selftest vectors/features_33 --dut my_core.sv --top my_core
    """
    if top is not None and not dut:
        raise click.UsageError("--top belongs to --dut")
    if style is not None and dut:
        raise click.UsageError("--style names a reference array, --dut your own module; give one of them")
    styles = (style,) if style is not None else tuple(PARTS) if every else tuple(PARTS)[:1]
    results: list[Selftest] = []
    for path in find_sets(folder):
        with _steps() as progress:
            results.append(
                selftest(
                    path, simulator, dut, top=top or "dut", styles=styles, seed=seed,
                    sample=None if every else sample, progress=progress,
                )
            )  # fmt: skip
    survivors = [name for result in results for name in result.survivors]

    def show() -> None:
        for result in results:
            _show_selftest(result)
        for name in survivors:
            out.print(f"survivor  {escape(name)}")

    listed = [asdict(result) | {"set": str(result.set), "survivors": result.survivors} for result in results]
    for entry in listed:
        for table in (entry["own"], entry["stress"]):
            table["strength"] = msgspec.to_builtins(table["strength"])
    _emit(as_json, {"ok": not survivors, "sets": listed}, show)
    if survivors:
        names = ", ".join(survivors[:SHOWN_FAULTS])
        more = ", ..." if len(survivors) > SHOWN_FAULTS else ""
        raise CheckFailed(f"selftest: {len(survivors)} mutant(s) survived: {names}{more}")


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal's stderr, one for each step of long work; yields what tells a step's name, done and total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step)
            progress.update(bars[step], completed=done, total=total)

        yield tell


def _show_selftest(result: Selftest) -> None:
    own, stress = result.own, result.stress
    _print(_pairs([
        ("set", f"{result.set}, layer {result.layer}, {own.images} image(s); simulator {result.simulator} "
                f"{result.version}"),
    ]))  # fmt: skip
    out.print()
    _show_file_mutants("changed in the set", own)
    _show_rtl_mutants("changed in the RTL, seen by the set's vectors", own)
    low, high = stress.observed
    weight = stress.strength.weight
    _print(_pairs([
        ("stress capture", f"{stress.images} images, accumulators {low}..{high} of {stress.bounds[0]}.."
                           f"{stress.bounds[1]}, {percent(weight.relu, weight.flips)} of single-bit weight errors show "
                           "in relu"),
    ]))  # fmt: skip
    out.print()
    _show_file_mutants("changed in the stress set", stress)
    _show_rtl_mutants("changed in the RTL, seen by the stress capture", stress)


def _show_file_mutants(title: str, mutants: SelftestTable) -> None:
    """By file, how many changes each checker noticed; '-' where it does not look at the file."""
    groups: dict[str, list[FileMutant]] = {}
    for mutant in mutants.files:
        groups.setdefault(mutant.group, []).append(mutant)
    table = _table(title, "mutants", *CHECKERS, right=1 + len(CHECKERS))
    for group, found in groups.items():
        noticed = [
            str(sum(m.noticed[checker] is not None for m in found)) if checker in found[0].noticed else "-"
            for checker in CHECKERS
        ]
        table.add_row(escape(group), str(len(found)), *noticed)
    _print(table)
    if any(len(m.noticed) < len(CHECKERS) for m in mutants.files):
        out.print("-: the bench does not look at this file, its SHA-256 is compared")
    out.print()


def _show_rtl_mutants(title: str, mutants: SelftestTable) -> None:
    """By array and kind, how many changes were noticed."""
    if not mutants.rtl:
        return
    groups: dict[tuple[str, str], Counter[str]] = {}
    for mutant in mutants.rtl:
        groups.setdefault((mutant.style, mutant.kind), Counter())[mutant.fate] += 1
    table = _table(title, "mutants", "killed", "equivalent", "survived", "killed or equivalent", right=5)
    for (style, kind), fates in groups.items():
        total = fates.total()
        counts = [str(fates[fate]) for fate in ("killed", "equivalent", "survived")]
        table.add_row(f"{style}, {kind}", str(total), *counts, percent(total - fates["survived"], total))
    _print(table)
    out.print()


@main.group(name="layout")
def layout_group() -> None:
    """Draw and check layouts."""


# What `layout show` draws a layout for: one image of the layer that the presets are made for.
_EXAMPLE_SIZES = {
    "n": 1, "oc": 8, "ic": 8, "kh": 3, "kw": 3, "iy": 4, "ix": 4, "py": 6, "px": 6, "oy": 4, "ox": 4, "it": 1,
    BIT_AXIS: 4,
}  # fmt: skip
_SHOWN_WORDS = 3
_SHOWN_LANES = 16


@layout_group.command(name="show")
@click.argument("name")
@click.option("--toml", "as_toml", is_flag=True, help="Print the layout's text instead, to start your own from.")
@json_option
def layout_show(name: str, as_toml: bool, as_json: bool) -> None:
    """Draw the first words of each memory with labelled lanes, for one image of an 8-to-8 3x3 layer on a 4x4 plane.

    \b
    qexport layout show ws8x8
    qexport layout show ws8x8 --toml
    """
    if as_toml:
        if as_json:
            raise click.UsageError("give either --toml or --json")
        click.echo(layout_text(name), nl=False)
        return
    layout = load_layout(name)
    try:
        drawings = [_drawing(memory, layout.array) for memory in layout.memories]
    except QexportError as error:
        raise QexportError(
            f"{error} (what is drawn is one image of an 8-to-8 3x3 layer on a 4x4 plane; for yours see dump --dry-run)"
        ) from None

    def show() -> None:
        for memory, drawing in zip(layout.memories, drawings, strict=True):
            _draw(memory, drawing)

    _emit(as_json, {"layout": layout.name, "array": layout.array, "memories": drawings}, show)


def _drawing(memory: Memory, array: Mapping[str, int]) -> dict[str, Any]:
    """The first words of a memory: the tensor index of each lane."""
    tiling = Tiling(memory.order, tuple(_EXAMPLE_SIZES[axis] for axis in memory.order.tensor_axes), array)
    first_words = [
        [tiling.origin(0, word, lane) for lane in range(tiling.lanes)]
        for word in range(min(_SHOWN_WORDS, tiling.words))
    ]
    return {
        "memory": memory.name,
        "tensor": memory.tensor,
        "order": memory.order.text,
        "files": [path for path, _ in memory.paths(tiling)],
        "words": tiling.words,
        "header": list(memory.header),
        "first_words": first_words,
    }


def _draw(memory: Memory, drawing: dict[str, Any]) -> None:
    """One table: what a word has in common on the left, what sets its lanes apart in the lanes' columns."""
    files, words = drawing["files"], drawing["first_words"]
    also = f" and {len(files) - 1} more" if len(files) > 1 else ""
    out.print(f"[bold]{escape(memory.name)}[/bold]: {memory.tensor}, {escape(memory.order.text)}")
    out.print(f"{escape(files[0])}{also}, {memory.radix}, words a file: {drawing['words']}")
    for number, text in enumerate(drawing["header"], start=1):
        out.print(f"line {number}: {escape(text)}")
    lanes = len(words[0])
    shown = list(range(min(lanes, _SHOWN_LANES)))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    format_ = FORMATS[memory.radix]
    table.add_column("line" if format_.text else "word", justify="right")
    table.add_column("all lanes")
    for lane in shown:
        table.add_column(f"lane {lane}" + (" (msb)" if lane == 0 and lanes > 1 else ""))
    if lanes > len(shown):
        table.add_column(f"... {lanes} lanes")
    first = len(drawing["header"]) + format_.preamble + 1 if format_.text else 1
    for number, word in enumerate(words, start=first):
        known = [index for index in word if index is not None]
        common = {a: i for a, i in known[0].items() if all(index[a] == i for index in known)} if known else {}
        cells = []
        for lane in shown:
            index = word[lane]
            own = None if index is None else {a: i for a, i in index.items() if a not in common}
            cells.append(describe_index(own))
        table.add_row(str(number), describe_index(common), *cells)
    _print(table)


@layout_group.command(name="check")
@click.argument("file", type=_path())
@json_option
def layout_check(file: Path, as_json: bool) -> None:
    """Report the errors of a layout file, the first of each memory, with line, column and a caret.

    \b
    qexport layout check my_array.toml
    """
    errors: list[LayoutError] = layout_errors(layout_text(str(file)), str(file))

    def show() -> None:
        if not errors:
            out.print(f"{escape(str(file))}: ok")
        for error in errors:
            out.print(f"{escape(str(file))}:{error.line}:{error.column}: {escape(error.message)}")
            out.print("    " + escape(error.source.replace("\t", " ")))
            out.print(f"    {' ' * (error.column - 1)}^")

    listed = [{"line": e.line, "column": e.column, "message": e.message} for e in errors]
    _emit(as_json, {"ok": not errors, "errors": listed}, show)
    if errors:
        raise QexportError(f"layout: {file} has {len(errors)} error(s); correct them and check again")


@layout_group.command(name="list")
@json_option
def layout_list(as_json: bool) -> None:
    """List the presets.

    \b
    qexport layout list
    """
    presets = [load_layout(name) for name in preset_names()]

    def show() -> None:
        table = _table("preset", "memories", "what it serves")
        for layout in presets:
            table.add_row(layout.name, str(len(layout.memories)), escape(preset_purpose(layout.name)))
        _print(table)

    _emit(as_json, {"presets": [layout.name for layout in presets]}, show)


@main.command(name="layers")
@checkpoint_option
@_bits_options
@click.option("--capture", type=_path(), help="Instead of a network: a capture.safetensors.")
@json_option
def layers_command(
    checkpoint: str | None, weight_bits: int | None, act_bits: int | None, capture: Path | None, as_json: bool
) -> None:
    """List the quantized layers: shapes, bits, tiles on an 8x8 array, proven accumulator bounds.

    \b
    qexport layers
    qexport layers --checkpoint model_best.pth.tar
    """
    if capture is not None:
        if (checkpoint, weight_bits, act_bits) != (None, None, None):
            raise click.UsageError("--checkpoint and bits belong to a network; a capture holds its layer already")
        read = CaptureFile(capture)
        rows = [_layer_row(read.layer, read.formats, read.plane, operation(read, None).bounds)]
    else:
        network = _load_network(checkpoint, weight_bits, act_bits)
        from qexport.frontends.vgg.capture import layer_facts

        rows = [
            _layer_row(
                facts.geometry,
                facts.formats,
                facts.plane,
                accumulator_bounds(
                    facts.conv.weight_codes().numpy(), None, facts.formats.input.integer, facts.geometry, facts.plane
                ),
            )
            for facts in layer_facts(network.model)
        ]

    def show() -> None:
        table = _table(
            "index", "name", "in x out", "kernel", "weight bits", "input bits", "positions", "8x8 tiles", "accumulator"
        )
        for row in rows:
            table.add_row(
                "-" if row["index"] is None else str(row["index"]),
                escape(row["name"]),
                f"{row['in_channels']}x{row['out_channels']}",
                f"{row['kernel'][0]}x{row['kernel'][1]}",
                f"{row['weight_bits']} {'signed' if row['weight_signed'] else 'unsigned'}",
                f"{row['input_bits']} {'signed' if row['input_signed'] else 'unsigned'}",
                f"{row['output_plane'][0]}x{row['output_plane'][1]}",
                f"{row['tiles'][0]}x{row['tiles'][1]}",
                f"{row['bounds'][0]}..{row['bounds'][1]}, {row['accumulator_bits']} bits",
            )
        _print(table)

    _emit(as_json, {"layers": rows}, show)


_ARRAY_SIDE = 8  # the array for which `layers` counts tiles


def _layer_row(
    layer: ConvGeometry, formats: Formats, plane: tuple[int, int], bounds: tuple[int, int]
) -> dict[str, Any]:
    return {
        "index": layer.index,
        "name": layer.name,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel": list(layer.kernel),
        "weight_bits": formats.weight.bits,
        "weight_signed": formats.weight.signed,
        "input_bits": formats.input.bits,
        "input_signed": formats.input.signed,
        "input_plane": list(plane),
        "output_plane": list(layer.output_plane(plane)),
        "tiles": [math.ceil(layer.group_inputs / _ARRAY_SIDE), math.ceil(layer.out_channels / _ARRAY_SIDE)],
        "bounds": list(bounds),
        "accumulator_bits": IntFormat.holding(*bounds, True).bits,
    }


device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
data_option = click.option(
    "--data", type=_path(), default="data", show_default=True,
    help="Folder with cifar-10-batches-py, or with train/<class> and test/<class>.",
)  # fmt: skip
download_option = click.option("--download", is_flag=True, help="Fetch CIFAR-10 into --data first.")


def _epochs_on(device: str) -> int:
    """What one has the patience for: minutes on a GPU, hours on a CPU."""
    return 100 if device == "cuda" else 14


@main.command(name="train")
@data_option
@download_option
@click.option("--model", default="vgg16_quant_gradual", show_default=True, help="Or vgg16_quant, the sudden squeeze.")
@click.option("--weight-bits", type=click.IntRange(2, 8), default=4, show_default=True)
@click.option("--act-bits", type=click.IntRange(2, 8), default=4, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Default: 100 on a GPU, 14 on the CPU.")
@click.option("--batch-size", type=click.IntRange(1), default=250, show_default=True, help="Over all processes.")
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True, help="Peak of the cycle."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision", type=click.Choice(["bf16", "float32"]), default="bf16", show_default=True,
    help="Of the convolutions; float32 is faster on a CPU without bf16 instructions.",
)  # fmt: skip
@device_option
@click.option("--init", type=_path(), help="Start from this checkpoint's weights, with the quantizers on.")
@click.option("--out", "folder", type=_path(), help="Default: result/<model>.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, bit for bit on the CPU.")
@click.option("--plot", type=_path(), help="Write curves of loss and accuracy: a .png, .svg or .pdf file.")
@json_option
def train_command(
    data: Path,
    download: bool,
    device: str,
    init: Path | None,
    folder: Path | None,
    resume: bool,
    plot: Path | None,
    as_json: bool,
    epochs: int | None,
    **recipe: Any,
) -> None:
    """Train a quantization-aware network on CIFAR-10.

    Writes checkpoint.pth (the last epoch), model_best.pth.tar and log.jsonl.

    \b
    qexport train --data data/ --download
    qexport train --data cifar10/ --epochs 30 --resume
    torchrun --nproc-per-node 4 -m qexport train --data cifar10/ --batch-size 512
    """
    _needs_torch()
    from qexport.frontends.vgg.checkpoint import load_trainable
    from qexport.frontends.vgg.data import open_split, read
    from qexport.train import parallel
    from qexport.train.loop import Recipe, pick_device, starting_state, train

    source = None if init is None else load_trainable(init)
    if plot is not None:
        _needs_matplotlib()
        from qexport.train.plot import check_plot, plot_training

        check_plot(plot)
    with parallel.group(pick_device(device)) as where:
        first = parallel.place()[0] == 0
        recipe |= {"epochs": epochs or _epochs_on(where.type), "init_sha256": source.sha256 if source else ""}
        settings = Recipe(**recipe)
        target = Path("result") / settings.model if folder is None else folder
        start = starting_state(settings, target, resume)
        with parallel.first_one_first():
            training, validation = (open_split(data, split, download) for split in ("train", "test"))
        if first:
            click.echo(f"reading {len(training)} and {len(validation)} pictures of {data}", err=True)
        records = train(settings, read(training), read(validation), target, where, start, source)
    if not first:
        return
    best = max((record for record in records if record["quantized"]), key=lambda record: record["top1"])
    kept = target / "model_best.pth.tar"
    if plot is not None:
        plot_training(records, plot)

    def show() -> None:
        _show_squeeze(best["squeeze"])
        click.echo(f"best top-1 {best['top1']:.2f} %, {kept}")

    _emit(as_json, {"top1": best["top1"], "checkpoint": str(kept), "squeeze": best["squeeze"]}, show)


def _show_squeeze(squeeze: Mapping[str, Any]) -> None:
    """What squeeze_report says of the narrowest layer."""
    table = _table("narrowest layer", f"features.{squeeze['layer']}")
    table.add_row("input codes", f"{squeeze['input_zero']:.1%} are 0, {squeeze['input_saturated']:.1%} the largest")
    table.add_row("weight codes", "  ".join(f"{code}: {share:.1%}" for code, share in squeeze["weight_codes"].items()))
    for side in ("inputs", "outputs"):
        dead = squeeze[f"dead_{side}"]
        table.add_row(f"dead {side}", ", ".join(map(str, dead)) or "none")
    table.add_row("effective rank", f"{squeeze['effective_rank']:.2f} of the input channels")
    _print(table)


@main.command(name="compare")
@click.argument("models", nargs=-1, required=True)
@data_option
@download_option
@click.option("--epochs", type=click.IntRange(3), help="Of each run. Default: 100 on a GPU, 14 on the CPU.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@device_option
@click.option("--work", type=_path(), default="result/compare", show_default=True, help="The runs; gone on with.")
@click.option("--out", "page", type=_path(), default="docs/squeeze.md", show_default=True)
@json_option
def compare_command(
    models: tuple[str, ...],
    data: Path,
    download: bool,
    epochs: int | None,
    seeds: int,
    device: str,
    work: Path,
    page: Path,
    as_json: bool,
) -> None:
    """Train several networks, quantized and in float, with one recipe and several seeds; write a page of the results.

    \b
    qexport compare vgg16_quant vgg16_quant_gradual --data cifar10/
    """
    _needs_torch()
    _needs_matplotlib()
    from qexport.frontends.vgg.data import open_split, read
    from qexport.train.compare import run_all, write_page
    from qexport.train.loop import Recipe, pick_device

    where = pick_device(device)
    recipe = Recipe(epochs=epochs or _epochs_on(where.type))
    if not page.parent.is_dir():
        raise QexportError(f"out: {page.parent} is no folder; make it first, or choose another --out")
    training, validation = (read(open_split(data, split, download)) for split in ("train", "test"))
    logs = run_all(models, recipe, seeds, training, validation, work, where)
    command = f"qexport compare {' '.join(models)} --epochs {recipe.epochs} --seeds {seeds} --data DATA"
    write_page(logs, recipe, command, page)
    result = {
        model: {"quantized": [r[-1]["top1"] for r in runs[True]], "float": [r[-1]["top1"] for r in runs[False]]}
        for model, runs in logs.items()
    }
    _emit(as_json, {"top1": result, "page": str(page)}, lambda: click.echo(f"written: {page}"))


@main.command(name="eval")
@checkpoint_option
@_bits_options
@data_option
@download_option
@device_option
@json_option
def eval_command(
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    data: Path,
    download: bool,
    device: str,
    as_json: bool,
) -> None:
    """Count how many test pictures a network classifies correctly.

    \b
    qexport eval --checkpoint builtin --data cifar10/
    """
    network = _load_network(checkpoint, weight_bits, act_bits)
    import torch

    from qexport.frontends.vgg.data import open_split, read
    from qexport.train.loop import count_correct, pick_device

    where = pick_device(device)
    pictures = read(open_split(data, "test", download)).to(where)
    correct, total = count_correct(network.model.double().to(where), pictures, torch.float64), len(pictures.labels)
    result = {"checkpoint": str(network.path), "correct": correct, "total": total, "top1": 100 * correct / total}
    _emit(
        as_json, result, lambda: click.echo(f"{network.path}: {correct}/{total} correct, top-1 {result['top1']:.2f} %")
    )


assert set(_EXAMPLE_SIZES) == {axis for axes in AXES.values() for axis in axes} | {BIT_AXIS}
