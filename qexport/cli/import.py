"""Write a network in integers, from pixels to logits."""

import re
from pathlib import Path

import click

from qexport.cli.common.network import load_network, onnx_network
from qexport.cli.common.options import hardware_options, json_option, out_option
from qexport.cli.common.output import emit, say
from qexport.core.rescale import ANY, Hardware


@click.command(name="import")
@click.argument("network")
@click.option("--weight-bits", type=click.IntRange(2, 8), help="Default: what the checkpoint says, else 4.")
@click.option("--act-bits", type=click.IntRange(2, 8), help="Default: what the checkpoint says, else 4.")
@click.option(
    "--side", type=click.IntRange(1, 1024), help="Of its pictures. Default: what the checkpoint says, else 32."
)
@hardware_options
@out_option("The file, NAME.network.safetensors.")
@json_option
def command(
    network: str,
    weight_bits: int | None,
    act_bits: int | None,
    side: int | None,
    hardware: Hardware | None,
    target: Path,
    as_json: bool,
) -> None:
    """Write a network in integers, from pixels to logits.

    NETWORK is a trained checkpoint, or 'builtin', or an ONNX file whose operations are all understood. Every layer gets
    its steps: BatchNorm, ReLU and the next quantizer in integers that are proven to give the network's own codes; pools
    are layers. With --round and what follows it, a checkpoint's steps are those of a hardware; how often its codes are
    others is counted. The classifier of a checkpoint gets 8-bit codes and weights. `layers`, `run`, `eval`, `dump` and
    `export` take the file, and need no PyTorch for it.

    \b
    qexport import builtin --out vgg.network.safetensors
    qexport import model_best.pth.tar --out mine.network.safetensors
    qexport import builtin --round half_up --mul-bits 16 --out ours.network.safetensors
    qexport import net.onnx --out net.network.safetensors
    """
    from qexport.core.network_file import write_network

    ties: int | None = None
    departs = 0
    if network.endswith(".onnx"):
        if (weight_bits, act_bits, side) != (None, None, None):
            raise click.UsageError(
                "--weight-bits, --act-bits and --side belong to a checkpoint; an ONNX file says them"
            )
        if hardware is not None:
            raise click.UsageError("--round and what follows it belong to a checkpoint")
        made, origin = onnx_network(Path(network)), Path(network)
    elif re.fullmatch(r"[\w.]+:[\w.]+", network) and not Path(network).exists():
        raise click.UsageError(
            f"'{network}' names a PyTorch module; write it as ONNX first, in QDQ or QONNX: import takes "
            "checkpoints and ONNX files"
        )
    else:
        loaded = load_network(network, weight_bits, act_bits, side)
        from qexport.frontends.vgg.network import integer_network

        imported = integer_network(loaded, hardware or ANY)
        made, origin, ties, departs = imported.network, loaded.path, imported.ties, imported.departs
    write_network(made, target)
    size, layers = target.stat().st_size, len(made.layers)
    result = {"network": str(target), "layers": layers, "bytes": size} | (
        {} if ties is None else {"ties": ties, "departs": departs}
    )

    def show() -> None:
        say(f"{target}: {layers} layers of {origin}, {size:,} bytes")
        if ties is None:
            say("every layer's codes are those of the file's own arithmetic, but where floats may round either way")
        elif departs:
            say(f"accumulators within the bounds to which this hardware gives other codes than PyTorch: {departs:,}")
        elif ties:
            say(f"accumulators that floating point may round either way: {ties}")
        else:
            say("proven: every code up to the classifier is that of PyTorch in float64")

    emit(as_json, result, show)
