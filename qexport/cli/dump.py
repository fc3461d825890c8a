"""Write a layer's vector set: memory files, bench and manifest."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from qexport.build.dump import Dump, dump, dump_all, plan
from qexport.build.hardware import for_hardware
from qexport.build.images import DEFAULT_SHARE, choose_images
from qexport.cli.common.model import OfModel, model_options, module_captures, scale_options
from qexport.cli.common.network import load_network
from qexport.cli.common.options import hardware_options, json_option, network_options, path_type, seed_option
from qexport.cli.common.output import emit, say
from qexport.cli.common.progress import show_progress
from qexport.cli.common.tables import make_table, print_pairs, print_table
from qexport.core.capture import Capture, CaptureFile
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware
from qexport.core.strength import COUNTED, compared, percent, strength_text
from qexport.errors import QexportError
from qexport.layout.memory import Layout
from qexport.layout.order import TILE_AXIS
from qexport.layout.toml import default_layout, load_layout
from qexport.sets.graph import Graph
from qexport.sets.index import Index
from qexport.sets.manifest import Manifest, golden_text, layer_text, steps_text


@dataclass(frozen=True)
class _Auto:
    """Pictures are chosen so that `share` percent of the weight errors show in the tensor `stage`."""

    stage: str
    share: float


@dataclass(frozen=True)
class _Asked:
    """What the options ask of a network: which layers, in which bits, for which pictures."""

    layer: str | None
    every: bool
    checkpoint: str | None
    weight_bits: int | None
    act_bits: int | None
    side: int | None
    data: Path | None
    images: int | str | None
    share: float | None
    indices: list[int] | None

    def given(self, names: Sequence[str]) -> list[str]:
        """Those of the options that were given."""
        shown = {"share": "strength"}  # where the option has another name
        return [f"--{shown.get(name, name)}".replace("_", "-") for name in names if getattr(self, name) is not None]


LayoutOf = Layout | Callable[[Capture], Layout]  # for all layers, or what gives that of one
_OF_CHECKPOINT = ("checkpoint", "weight_bits", "act_bits", "side", "data", "share")


def _model_captures(asked: _Asked, of_model: OfModel, hardware: Hardware | None) -> list[tuple[Capture, int]]:
    """The captures of a module's layers, or of an ONNX file's."""
    if given := asked.given(_OF_CHECKPOINT):
        raise click.UsageError(f"{', '.join(given)} belongs to --checkpoint, not to --model")
    if asked.images == "auto":
        raise click.UsageError("--images auto belongs to --checkpoint; give --model a number")
    images = asked.indices if isinstance(asked.images, str | None) else asked.images
    captures, _ = module_captures(of_model, asked.layer, images, hardware)
    return [(one, one.images) for one in captures]


def _layout_of(asked: str | None, of_network: bool, capture: Capture) -> Layout:
    """The layout of one of several layers: what is asked for is for those that convolve, but for a network's logits."""
    logits = of_network and capture.formats.output is None
    named = asked if capture.layer.kind in ("conv2d", "linear") and not logits else None
    return load_layout(named or default_layout(capture.layer.kind))


@contextmanager
def _integer_captures(
    path: Path, asked: _Asked, inputs: Path | None, hardware: Hardware | None, dry_run: bool
) -> Iterator[tuple[list[tuple[Capture, int]], Callable[[Index], Graph] | None]]:
    """The captures of a network in integers, each layer fed by those before it; of all layers their graph, too."""
    if given := asked.given(_OF_CHECKPOINT):
        raise click.UsageError(f"{', '.join(given)} belongs to --checkpoint, not to --network")
    if asked.images == "auto":
        raise click.UsageError("--images auto belongs to --checkpoint; give --network a number")
    if hardware is not None:
        raise click.UsageError("the steps of a network stand in its file; leave out what the hardware does")
    from qexport.build.inputs import SAMPLES, open_inputs
    from qexport.build.network import layer_captures
    from qexport.core.network_file import network_sha256, read_network
    from qexport.core.network_run import Engine
    from qexport.sim.work import scratch_folder

    network = read_network(path)
    source = open_inputs(SAMPLES if inputs is None else inputs, network)
    wanted = range(asked.images if isinstance(asked.images, int) else min(4, source.pictures))
    pictures = list(wanted if asked.indices is None else asked.indices)
    if not pictures or not all(0 <= at < source.pictures for at in pictures):
        raise QexportError(f"images: pictures {_ranges(pictures) or 'none'} are not among the {source.pictures} there")
    layers = list(network.placed) if asked.layer is None else [network.choose(asked.layer).node.name]
    slugs = Counter(network.placed[name].node.layer.slug for name in layers)
    if (twice := slugs.most_common(1)[0])[1] > 1:
        raise QexportError(f"network: {path}: two layers would have the folder {twice[0]}; rename one of them")
    sha256 = network_sha256(path)
    graph = (lambda index: Graph.of(network, sha256, index)) if asked.every else None
    with scratch_folder() as scratch, show_progress() as tell:
        count = 1 if dry_run else len(pictures)
        paths = layer_captures(
            Engine(network), source, pictures[:count], layers, scratch, lambda done: tell("pictures", done, count)
        )
        captures = [CaptureFile(paths[name]) for name in layers]
        yield [(one, one.images // count * len(pictures)) for one in captures], graph


@contextmanager
def _network_captures(
    asked: _Asked, layout: Layout, dry_run: bool, as_json: bool
) -> Iterator[list[tuple[Capture, int]]]:
    """Captures of the layers that are asked for and their numbers of images; on a dry run without the codes.

    Says what is taken, on stderr where stdout is for machines.
    """
    wanted = _wanted_pictures(asked, layout)
    network = load_network(asked.checkpoint, asked.weight_bits, asked.act_bits, asked.side)
    side, classes = network.model.side, network.model.classifier.out_features
    from qexport.frontends.vgg import capture as capturing
    from qexport.frontends.vgg import data as pictures

    source: Any = pictures.SamplePictures()
    if asked.data is not None:
        source = pictures.open_split(asked.data, "test", side=side, classes=classes)
    if isinstance(wanted, int) and not 1 <= wanted <= len(source):
        raise QexportError(f"images: {wanted} is outside 1..{len(source)}, the pictures of this source")
    if asked.layer is None:
        layers = capturing.layer_facts(network.model)
        for one in capturing.unusable_layers(network.model):
            click.echo(f"qexport: left out: {one.why}", err=True)
    else:
        layers = [capturing.choose_layer(network.model, asked.layer)]
    if isinstance(wanted, _Auto):
        chosen = layers[0]
        choice = choose_images(
            chosen.geometry,
            chosen.formats,
            chosen.conv.weight_codes().numpy(),
            wanted.stage,
            wanted.share,
            len(source),
            lambda batch: capturing.input_codes(network, chosen, pictures.read(source, batch, side)),
        )
        click.echo(f"{choice}", err=as_json)
        wanted = choice.images
    indices = list(range(wanted)) if isinstance(wanted, int) else list(wanted)
    first = layers[0].geometry
    kernel = "x".join(map(str, first.kernel))
    taken = f"layer {first.name}, {layers[0].shape}, kernel {kernel}," if asked.layer else f"{len(layers)} layers"
    click.echo(
        f"{taken} of {network.path} (sha256 {network.sha256[:12]}), pictures {_ranges(indices)} of "
        f"{asked.data or 'the shipped samples'}",
        err=as_json,
    )
    read = pictures.read(source, indices, side)
    if dry_run:
        yield [(f.blank_capture(), len(indices)) for f in layers]
        return
    from qexport.sim.work import scratch_folder  # which leaves nothing behind when it is killed

    with scratch_folder() as scratch:
        with show_progress() as tell:
            ready = 0

            def advance(images: int) -> None:
                nonlocal ready
                ready += images
                tell("pictures", ready, len(indices))

            captured = capturing.capture_layers(network, layers, read, indices, scratch, advance)
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
        raise click.BadParameter(f"'{value}' is not a list of picture indices such as 3,17", ctx, param)
    return [int(part) for part in parts]


def _read_images(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", value):
        raise click.BadParameter(f"'{value}' is neither a number of pictures nor 'auto'", ctx, param)
    return int(value)


@click.command(name="dump")
@click.option("--layer", help="Index (33), name (features.33) or shape (8x8) of a quantized layer.")
@network_options
@model_options
@scale_options
@click.option("--data", type=path_type(), help="CIFAR-10; its test pictures. Default: the pictures that ship.")
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
@click.option("--capture", type=path_type(), help="Instead of a network: a layer's codes, capture.safetensors.")
@click.option(
    "--network",
    type=path_type(),
    help="A network in integers, NAME.network.safetensors, of --inputs or of the pictures that ship.",
)
@click.option(
    "--all", "every", is_flag=True, help="Every layer: one set for each, index.json, of --network graph.json."
)
@click.option(
    "--layout", help="A preset's name or a layout file (TOML). Default: the preset with a bench for the layer."
)
@click.option(
    "--out", "folder", type=path_type(), required=True, help="Folder for the sets' folders, made when missing."
)
@click.option(
    "--stress", is_flag=True,
    help="Instead of the pictures: codes that try the arithmetic as hard as they can, in as many sets as show every "
    "product of the layout's array.",
)  # fmt: skip
@seed_option("Of --stress: other codes.", default=None)
@click.option("--force", is_flag=True, help="Replace another set of this layer.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print files, words and bytes.")
@hardware_options
@json_option
def command(
    capture: Path | None,
    network: Path | None,
    layout: str | None,
    folder: Path,
    stress: bool,
    seed: int | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    hardware: Hardware | None,
    **of_network: Any,
) -> None:
    """Write a layer's vector set: memory files, bench and manifest.

    The set is verified before it appears.

    \b
    qexport dump --layer 33 --out vectors/
    qexport dump --layer 8x8 --checkpoint model_best.pth.tar --data cifar10/ --indices 3,17 --out vectors/
    qexport dump --layer 33 --data cifar10/ --images auto --strength 99.5 --out vectors/
    qexport dump --all --images 16 --layout stream_nhwc64 --out vectors/ --dry-run
    qexport dump --model my_net:build --weights net.pth --layer conv1 --inputs pictures/ --out vectors/
    qexport dump --model net.onnx --layer conv1 --inputs pictures.npy --out vectors/
    qexport dump --all --network vgg.network.safetensors --inputs pictures/ --images 4 --out vectors/
    qexport dump --capture capture.safetensors --out vectors/
    qexport dump --capture capture.safetensors --layout ws8x8 --out vectors/ --force
    qexport dump --capture capture.safetensors --layout my_array.toml --out vectors/
    qexport dump --capture capture.safetensors --round half_up --mul-bits 16 --out vectors/
    qexport dump --capture vectors/features_33/capture.safetensors --stress --out stress/
    """
    of_model = OfModel.taken_from(of_network)
    asked = _Asked(**of_network)
    given = [name for name in of_model.given() if network is None or name != "--inputs"]
    if of_model.model is None and given:
        raise click.UsageError(f"{', '.join(given)} belongs to --model")
    if network is not None and (of_model.model is not None or capture is not None):
        raise click.UsageError("--network stands alone; leave out --model and --capture")
    if capture is not None and of_model.model is not None:
        raise click.UsageError("give either --model or --capture")
    if [asked.layer is not None, capture is not None, asked.every].count(True) != 1:
        raise click.UsageError("give one of --layer and --all (from a network) and --capture (from a file)")
    if seed is not None and not stress:
        raise click.UsageError("--seed belongs to --stress")
    if stress and asked.every:
        raise click.UsageError("--stress belongs to one layer, not to --all")
    if asked.images is not None and asked.indices is not None:
        raise click.UsageError("give either --images or --indices")
    with ExitStack() as stack:
        captures: Sequence[tuple[Capture, int]] = []
        graph = None
        if network is not None:
            of_integers = stack.enter_context(_integer_captures(network, asked, of_model.inputs, hardware, dry_run))
            captures, graph = of_integers
        if capture is not None:
            captures = _file_capture(capture, asked)
        elif of_model.model is not None:
            captures, hardware = _model_captures(asked, of_model, hardware), None
        chosen = load_layout(layout or default_layout(captures[0][0].layer.kind if captures else "conv2d"))
        several = graph is not None or of_model.model is not None  # whose layers may be of several kinds
        layouts: LayoutOf = functools.partial(_layout_of, layout, network is not None) if several else chosen
        if not captures:
            captures = stack.enter_context(_network_captures(asked, chosen, dry_run, as_json))
        if hardware is not None:
            captures = stack.enter_context(_on_hardware(captures, hardware, asked.every))
        covered = None
        if stress:
            from qexport.trust.stress import stress_captures

            of_stress, covered = stress_captures(captures[0][0], chosen, seed or 0)
            captures = [(one, one.images) for one in of_stress]
        if dry_run:
            _emit_plan(captures, layouts, as_json)
            _warn(chosen)
            return
        index = None
        if asked.every or stress:
            with show_progress() as tell:

                def advance(done: int) -> None:
                    tell("layers", done, len(captures))

                written, numbered = (None, "_stress") if stress else (graph, "")
                made = (one for one, _ in captures)
                dumps, index = dump_all(made, layouts, folder, force, advance, written, numbered)
        else:
            dumps = [dump(captures[0][0], chosen, folder, force)]
    results = [_dump_result(done) for done in dumps]
    result: dict[str, Any] = results[0] if index is None else {"index": str(index), "sets": results}
    if covered is not None:
        result["coverage"] = covered.told

    def show() -> None:
        if index is None:
            _show_set(dumps[0])
        else:
            _show_sets(dumps, index)
        if covered is not None:
            say(f"together: {covered}")

    emit(as_json, result, show)
    _warn(chosen)
    for done in dumps:
        for line in done.kept:
            click.echo(f"qexport: {line}", err=True)
        for warning in done.manifest.warnings:
            where = f"{done.manifest.layer.name}: " if index is not None else ""
            click.echo(f"qexport: warning: {where}{warning}", err=True)


def _warn(layout: Layout) -> None:
    for warning in layout.warnings:
        click.echo(f"qexport: warning: {warning}", err=True)


@contextmanager
def _on_hardware(
    captures: Sequence[tuple[Capture, int]], hardware: Hardware, every: bool
) -> Iterator[list[tuple[Capture, int]]]:
    """The captures with the steps of a hardware; of every layer those that have a format of the output."""
    from qexport.sim.work import scratch_folder

    with scratch_folder() as scratch:
        yield [
            (capture, images)
            if every and capture.formats.output is None
            else (for_hardware(capture, hardware, scratch / f"{capture.layer.slug}.safetensors"), images)
            for capture, images in captures
        ]


def _file_capture(path: Path, asked: _Asked) -> list[tuple[Capture, int]]:
    """The capture of a file; raises UsageError where something of a network is asked for, too."""
    given = asked.given((*_OF_CHECKPOINT, "images", "indices"))
    if given:
        raise click.UsageError(f"{', '.join(given)} belongs to --layer; a capture holds its codes already")
    read = CaptureFile(path)
    return [(read, read.images)]


def _wanted_pictures(asked: _Asked, layout: Layout) -> Sequence[int] | int | _Auto:
    """Which pictures the options ask for."""
    if asked.images == "auto":
        if asked.every:
            raise click.UsageError("--images auto belongs to --layer, because each layer needs its own pictures")
        stages = compared(layout.memories)
        if not stages:
            raise QexportError(
                f"images: layout '{layout.name}' stores none of {', '.join(COUNTED)}, in which errors are counted; "
                "give a number"
            )
        return _Auto(next(iter(stages)), DEFAULT_SHARE if asked.share is None else asked.share)
    if asked.share is not None:
        raise click.UsageError("--strength belongs to --images auto")
    if asked.indices is not None:
        return asked.indices
    return asked.images if isinstance(asked.images, int) else 4


def _emit_plan(captures: Sequence[tuple[Capture, int]], layout: LayoutOf, as_json: bool) -> None:
    """What a dump would write."""
    rows = [
        (capture.layer.name, stream.memory.name, stream.tiling.files, stream.tiling.files * stream.tiling.words,
         stream.size)
        for capture, images in captures
        for own in (layout if isinstance(layout, Layout) else layout(capture),)
        for stream in plan(operation(capture, own.array.get(TILE_AXIS)), own, images)
    ]  # fmt: skip
    totals = [sum(row[at] for row in rows) for at in (2, 3, 4)]  # type: ignore[misc]

    def show() -> None:
        table = make_table("layer", "memory", "files", "words", "bytes", right=3)
        for name, memory, *numbers in [*rows, ("all", "", *totals)]:
            table.add_row(escape(str(name)), escape(str(memory)), *(f"{number:,}" for number in numbers))
        print_table(table)
        say("\nNothing was written. Beside these stand the capture, the bench and the manifest.")
        say("Bytes of decimals are the most that there can be.")

    names = ("layer", "memory", "files", "words", "bytes")
    listed = [dict(zip(names, row, strict=True)) for row in rows]
    emit(as_json, {"memories": listed, **dict(zip(names[2:], totals, strict=True))}, show)


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


def _accumulator_text(manifest: Manifest) -> str:
    a = manifest.formats.accumulator
    return f"{a.observed[0]}..{a.observed[1]} seen, {a.bounds[0]}..{a.bounds[1]} possible: {a.bits} signed bits"


def _share(manifest: Manifest) -> str:
    """The share of weight errors, or of the first operand's, that show in the first tensor that the set compares."""
    _, flips = manifest.strength.first
    return next((percent(getattr(flips, stage), flips.flips) for stage in compared(manifest.memories)), "-")


def _show_set(done: Dump) -> None:
    manifest = done.manifest
    table = make_table("memory", "tensor", "files", "words", "word bits", "first file")
    for m in manifest.memories:
        words = sum(file.words for file in m.files)
        table.add_row(m.name, m.tensor, str(len(m.files)), str(words), str(m.word_bits), escape(m.files[0].path))
    print_table(table)
    say()
    rows = [
        ("layer", layer_text(manifest.layer)),
        ("layout", manifest.layout.name),
        ("accumulator", _accumulator_text(manifest)),
        *([("steps", steps_text(manifest))] if manifest.chain else []),
        ("golden", golden_text(manifest)),
        ("strength", strength_text(manifest.strength, manifest.memories)),
        ("set", f"{done.folder} ({manifest.file_count} files{', unchanged' if done.unchanged else ''})"),
    ]
    print_pairs(rows)


def _show_sets(dumps: Sequence[Dump], index: Path) -> None:
    table = make_table("set", "in x out", "files", "accumulator bits", "max difference", "tolerance", "strength")
    for done in dumps:
        m = done.manifest
        difference = "-" if m.golden.max_abs is None else f"{m.golden.max_abs:.1e}"
        table.add_row(
            escape(str(done.folder)),
            m.layer.size,
            str(m.file_count),
            str(m.formats.accumulator.bits),
            difference,
            f"{m.golden.tolerance:.2g}",
            _share(m),
        )
    print_table(table)
    unchanged = sum(done.unchanged for done in dumps)
    say(f"\n{len(dumps)} sets{f', {unchanged} unchanged' * bool(unchanged)}, listed in {index}")
