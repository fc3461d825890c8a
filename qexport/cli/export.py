"""Write a network in integers as an ONNX model of integer operators."""

from pathlib import Path

import click

from qexport.cli.common.options import path_type
from qexport.cli.common.output import say
from qexport.core.network_file import read_network
from qexport.errors import QexportError


@click.command(name="export")
@click.argument("network", type=path_type())
@click.option("--onnx", "target", type=path_type(), required=True, help="The model's file.")
def command(network: Path, target: Path) -> None:
    """Write a network in integers as an ONNX model of integer operators.

    ConvInteger, MatMulInteger, Mul, Add, Div, Clip and MaxPool: another engine, such as onnxruntime, computes the same
    codes. Each layer's output has the layer's name. Widths beyond these operators are refused.

    \b
    qexport export vgg.network.safetensors --onnx vgg.onnx
    """
    import importlib.util

    if importlib.util.find_spec("onnx") is None:
        raise QexportError("onnx is not installed; pip install 'qexport[onnx]'")
    if target.exists() and not target.is_file():
        raise QexportError(f"onnx: {target} is not a regular file; choose another name")
    read = read_network(network)
    from qexport.frontends.to_onnx import write_onnx

    write_onnx(read, target)
    say(f"{target}: {len(read.layers)} layers, {target.stat().st_size:,} bytes")
