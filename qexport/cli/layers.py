"""List the quantized layers: shapes, bits, accumulator bounds."""

import math
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from qexport.cli.common.model import OfModel, blank_captures, model_options, module_captures
from qexport.cli.common.network import load_network
from qexport.cli.common.options import json_option, network_options, path_type
from qexport.cli.common.output import emit
from qexport.cli.common.tables import make_table, print_table
from qexport.core.capture import Capture, CaptureFile
from qexport.core.geometry import ConvGeometry
from qexport.core.intformat import IntFormat
from qexport.core.operations.registry import operation


@click.command(name="layers")
@network_options
@model_options
@click.option("--capture", type=path_type(), help="Instead of a network: a capture.safetensors.")
@click.option("--network", type=path_type(), help="A network in integers, NAME.network.safetensors.")
@json_option
def command(
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    side: int | None,
    model: str | None,
    weights: Path | None,
    inputs: Path | None,
    capture: Path | None,
    network: Path | None,
    as_json: bool,
) -> None:
    """List the quantized layers: shapes, bits, accumulator bounds.

    The bounds are proven; tiles are those of an 8x8 array.

    \b
    qexport layers
    qexport layers --checkpoint model_best.pth.tar
    qexport layers --model my_net:build --weights net.pth --inputs pictures/
    qexport layers --model net.onnx
    qexport layers --network vgg.network.safetensors
    """
    of_model = OfModel(model, weights, inputs)
    if model is None and (given := of_model.given()):
        raise click.UsageError(f"{', '.join(given)} belongs to --model")
    if network is not None:
        if (checkpoint, weight_bits, act_bits, side, model, capture) != (None,) * 6:
            raise click.UsageError("--network stands alone; leave out the other options")
        _show_network(network, as_json)
        return
    result: dict[str, Any] = {}
    if model is not None:
        if (checkpoint, weight_bits, act_bits, side, capture) != (None,) * 5:
            raise click.UsageError("--model stands alone; leave out --checkpoint, bits and --capture")
        static = of_model.onnx is not None and inputs is None
        captures, refused = blank_captures(of_model) if static else module_captures(of_model, None, None)
        rows = [_layer_row(one) for one in captures]
        result["refused"] = [{"name": one.name, "index": one.index, "why": one.why} for one in refused]
    elif capture is not None:
        if (checkpoint, weight_bits, act_bits, side) != (None,) * 4:
            raise click.UsageError("--checkpoint and bits belong to a network; a capture holds its layer already")
        rows = [_layer_row(CaptureFile(capture))]
    else:
        loaded = load_network(checkpoint, weight_bits, act_bits, side)
        from qexport.frontends.vgg.capture import layer_facts, unusable_layers

        rows = [_layer_row(facts.blank_capture()) for facts in layer_facts(loaded.model)]
        if unusable := unusable_layers(loaded.model):
            result["refused"] = [{"name": one.name, "index": one.index, "why": one.why} for one in unusable]
            for one in unusable:
                click.echo(f"qexport: left out: {one.why}", err=True)

    def show() -> None:
        table = make_table(
            "index", "name", "in x out", "kernel", "weight bits", "input bits", "positions", "8x8 tiles", "accumulator"
        )
        for row in rows:
            convolves = "kernel" in row
            table.add_row(
                "-" if row["index"] is None else str(row["index"]),
                escape(row["name"]),
                f"{row['in_channels']}x{row['out_channels']}" if convolves else row["kind"],
                f"{row['kernel'][0]}x{row['kernel'][1]}" if convolves else "-",
                _bits(row, "weight"),
                _bits(row, "input"),
                f"{row['output_plane'][0]}x{row['output_plane'][1]}" if convolves else "-",
                f"{row['tiles'][0]}x{row['tiles'][1]}" if convolves else "-",
                f"{row['bounds'][0]}..{row['bounds'][1]}, {row['accumulator_bits']} bits",
            )
        print_table(table)

    emit(as_json, {"layers": rows} | result, show)


_ARRAY_SIDE = 8  # the array for which `layers` counts tiles


def _bits(row: dict[str, Any], operand: str) -> str:
    if f"{operand}_bits" not in row:
        return "-"
    return f"{row[f'{operand}_bits']} {'signed' if row[f'{operand}_signed'] else 'unsigned'}"


def _layer_row(of: Capture) -> dict[str, Any]:
    """What a layer is; kernel, planes and tiles of those that convolve only."""
    layer, bounds = of.layer, operation(of, None).bounds
    row: dict[str, Any] = {"index": layer.index, "name": layer.name, "kind": layer.kind}
    if isinstance(layer, ConvGeometry):
        row |= {
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kernel": list(layer.kernel),
            "input_plane": list(of.plane),
            "output_plane": list(layer.output_plane(of.plane)),
            "tiles": [math.ceil(layer.group_inputs / _ARRAY_SIDE), math.ceil(layer.out_channels / _ARRAY_SIDE)],
        }
    for name, fmt in of.formats.operands.items():
        row |= {f"{name}_bits": fmt.bits, f"{name}_signed": fmt.signed}
    return row | {"bounds": list(bounds), "accumulator_bits": IntFormat.holding(*bounds, True).bits}


def _show_network(path: Path, as_json: bool) -> None:
    """The layers of a network in integers, and what they need of a hardware."""
    from qexport.build.network_table import network_rows
    from qexport.core.network_file import read_network

    rows = network_rows(read_network(path))
    totals = {name: sum(getattr(row, name) for row in rows) for name in ("bytes", "multiplications")}

    def show() -> None:
        table = make_table(
            "layer", "operation", "output", "bits", "steps", "accumulator", "multiplier", "shift", "bytes",
            "multiplications", right=4,
        )  # fmt: skip
        for row in rows:
            bits = [row.bits[name] for name in ("weight", "input", "input2") if name in row.bits]
            table.add_row(
                escape(row.name),
                row.operation,
                "x".join(map(str, row.shape)),
                " x ".join(bits) + (f" -> {row.bits['output']}" if "output" in row.bits else ""),
                " ".join(row.steps) or "-",
                f"{row.bounds[0]}..{row.bounds[1]}, {row.accumulator_bits} bits",
                "-" if row.multiplier_bits is None else f"{row.multiplier_bits} bits",
                "-"
                if row.shift is None
                else str(row.shift[0])
                if len({*row.shift}) == 1
                else "{}..{}".format(*row.shift),
                f"{row.bytes:,}",
                f"{row.multiplications:,}",
            )
        table.add_row("all", *[""] * 7, f"{totals['bytes']:,}", f"{totals['multiplications']:,}")
        print_table(table)

    emit(as_json, {"layers": msgspec.to_builtins(rows)} | totals, show)
