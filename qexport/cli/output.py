"""What commands print without a table: results for machines, and texts that several commands share."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from qexport.core.geometry import ConvGeometry
from qexport.core.reference import MEAN_BAR
from qexport.sets.manifest import Manifest

SHOWN_FAULTS = 10


def say(text: str = "") -> None:
    """Print a line; to the stream by name, because click writes UTF-8 past a stream of ASCII."""
    click.echo(text, file=sys.stdout)


def emit(as_json: bool, result: Any, show: Callable[[], None]) -> None:
    if as_json:
        say(json.dumps(result, indent=2))
    else:
        show()


def golden_text(manifest: Manifest) -> str:
    golden = manifest.golden
    if golden.mean_abs is None:
        return "exact integer convolution; the capture holds no PyTorch output to compare with"
    return (
        f"exact; against PyTorch's output: mean difference {golden.mean_abs:.1e}, below {MEAN_BAR:g}; "
        f"maximum {golden.max_abs:.1e}, below {golden.tolerance:.2g}"
    )


def layer_text(layer: ConvGeometry) -> str:
    kernel = f"{layer.kernel[0]}x{layer.kernel[1]}"
    return f"{layer.name} ({layer.kind} {layer.in_channels} to {layer.out_channels}, {kernel})"
