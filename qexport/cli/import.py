"""Write a network in integers, from pixels to logits."""

from pathlib import Path

import click

from qexport.cli.common.network import load_network
from qexport.cli.common.options import json_option, out_option
from qexport.cli.common.output import emit, say


@click.command(name="import")
@click.argument("network")
@click.option("--weight-bits", type=click.IntRange(2, 8), help="Default: what the checkpoint says, else 4.")
@click.option("--act-bits", type=click.IntRange(2, 8), help="Default: what the checkpoint says, else 4.")
@out_option("The file, NAME.network.safetensors.")
@json_option
def command(network: str, weight_bits: int | None, act_bits: int | None, target: Path, as_json: bool) -> None:
    """Write a network in integers, from pixels to logits.

    NETWORK is a trained checkpoint, or 'builtin'. Every layer gets its steps: BatchNorm, ReLU and the next quantizer in
    integers that are proven to give the network's own codes; pools are layers. The classifier gets 8-bit codes and
    weights. `layers`, `run`, `eval`, `dump` and `export` take the file, and need no PyTorch for it.

    \b
    qexport import builtin --out vgg.network.safetensors
    qexport import model_best.pth.tar --out mine.network.safetensors
    """
    loaded = load_network(network, weight_bits, act_bits)
    from qexport.core.network_file import write_network
    from qexport.frontends.vgg.network import integer_network

    made = integer_network(loaded)
    write_network(made.network, target)
    layers = len(made.network.layers)
    result = {"network": str(target), "layers": layers, "ties": made.ties, "bytes": target.stat().st_size}

    def show() -> None:
        say(f"{target}: {layers} layers of {loaded.path}, {target.stat().st_size:,} bytes")
        say(
            f"accumulators that floating point may round either way: {made.ties}"
            if made.ties
            else "proven: every code up to the classifier is that of PyTorch in float64"
        )

    emit(as_json, result, show)
