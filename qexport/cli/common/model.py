"""Options of the commands that take a PyTorch module or an ONNX file, and what they ask for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click

from qexport.cli.common.network import load_network
from qexport.cli.common.options import path_type, together
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.network import IntegerNetwork, NetworkInput
from qexport.core.rescale import Hardware
from qexport.errors import QexportError

INPUTS = 4  # that are taken by default


def _read_scales(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        scales = [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a number, or several with commas", ctx, param) from None
    if not all(0 < scale < float("inf") for scale in scales):
        raise click.BadParameter(f"'{value}' has a scale that is not above 0", ctx, param)
    return scales


def _read_format(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, bool] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(u?)int([1-9]|1[0-6])", value)
    if not found:
        raise click.BadParameter(f"'{value}' is not a format such as uint8, of up to 16 bits", ctx, param)
    return int(found[2]), not found[1]


model_options = together(
    click.option(
        "--model", metavar="MODULE:FUNCTION|FILE.onnx",
        help="A PyTorch module: what this function of yours returns; it is run. It may return inputs, too. "
        "Or an ONNX file: QDQ, QOperator or QONNX.",
    ),
    click.option("--weights", type=path_type(), help="A state_dict for --model."),
    click.option(
        "--inputs", type=path_type(),
        help="What --model takes: .npy, .npz, .pt or .safetensors; a picture, or a folder of them, as RGB of 0..1.",
    ),
)  # fmt: skip
scale_options = together(
    click.option(
        "--weight-scale", metavar="S[,S...]", callback=_read_scales,
        help="Of --model: the real value of weight code 1, or one for each output channel.",
    ),
    click.option(
        "--input-scale", metavar="S", callback=_read_scales, help="Of --model: the real value of input code 1."
    ),
    click.option(
        "--output-scale", metavar="S", callback=_read_scales,
        help="Of --model: the real value of output code 1, where no quantizer follows the layer.",
    ),
    click.option(
        "--output-format", metavar="uint8|int8|...", callback=_read_format, help="Of --output-scale.  [default: int8]"
    ),
)  # fmt: skip


@dataclass(frozen=True)
class OfModel:
    """What the options ask of a PyTorch module, or of an ONNX file."""

    model: str | None
    weights: Path | None
    inputs: Path | None
    weight_scale: list[float] | None = None
    input_scale: list[float] | None = None
    output_scale: list[float] | None = None
    output_format: tuple[int, bool] | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "OfModel":
        """Takes the options that are of a module out of all that a command got."""
        return cls(**{name: options.pop(name) for name in [*cls.__annotations__] if name in options})

    def given(self) -> list[str]:
        """The options that were given."""
        return [f"--{name}".replace("_", "-") for name, value in vars(self).items() if value is not None]

    @property
    def onnx(self) -> Path | None:
        """The ONNX file; None where it is a PyTorch module."""
        return Path(self.model) if self.model is not None and self.model.endswith(".onnx") else None


def module_captures(
    asked: OfModel, layer: str | None, images: int | list[int] | None, hardware: Hardware | None = None
) -> tuple[list[LayerCapture], list[Any]]:
    """The captures of a model's layer, or of all; and those that were refused. Says on stderr what is not certain."""
    found = (
        _of_onnx(asked.onnx, asked, layer, images, hardware)
        if asked.onnx
        else _of_torch(asked, layer, images, hardware)
    )
    captured = [one for one in found if hasattr(one, "capture")]
    refused = [one for one in found if not hasattr(one, "capture")]
    lines = [remark for one in captured for remark in one.remarks]
    for line in [*lines, *(f"left out: {one.why}" for one in refused)]:
        click.echo(f"qexport: {line}", err=True)
    if not captured:
        raise QexportError(f"model: none of its {len(refused)} layers can be captured; see the lines above")
    return [one.capture for one in captured], refused


def _of_torch(
    asked: OfModel, layer: str | None, images: int | list[int] | None, hardware: Hardware | None
) -> list[Any]:
    """What is captured, and what is refused, of a PyTorch module."""
    from qexport.frontends import needs_torch

    needs_torch(("torch",))
    from qexport.core.capture import Source
    from qexport.frontends.torch_module import capture as capturing
    from qexport.frontends.torch_module.loading import load_inputs, load_model
    from qexport.sets.folder import file_sha256

    assert asked.model is not None
    loaded = load_model(asked.model, asked.weights)
    inputs, indices = loaded.inputs, None
    if asked.inputs is not None:
        inputs, indices = load_inputs(asked.inputs, INPUTS if images is None else images)
    elif images is not None:
        raise click.UsageError("--images and --indices belong to --inputs")
    if inputs is None:
        raise click.UsageError(f"--model {asked.model} returned no inputs; give --inputs")
    source = Source(
        checkpoint_sha256=None if asked.weights is None else file_sha256(asked.weights),
        data_sha256=capturing.digest(inputs),
        images=indices,
        stimulus="images",
    )
    if layer is None:
        if asked.weight_scale or asked.input_scale or asked.output_scale:
            raise click.UsageError("--weight-scale, --input-scale and --output-scale belong to one --layer")
        return list(capturing.capture_all(loaded.model, inputs, source, hardware))
    return [capturing.capture_module(loaded.model, layer, inputs, _wishes(asked, hardware), source)]


def _of_onnx(
    path: Path, asked: OfModel, layer: str | None, images: int | list[int] | None, hardware: Hardware | None
) -> list[Any]:
    """What is captured, and what is refused, of an ONNX file."""
    from qexport.frontends import needs_onnx

    needs_onnx()
    from qexport.core.capture import Source
    from qexport.frontends.onnx_model import capture as capturing
    from qexport.frontends.onnx_model.reading import read_model
    from qexport.frontends.onnx_model.walk import walk

    _check_onnx(asked)
    if asked.inputs is None:
        raise click.UsageError(f"--model {path} needs --inputs: what the network is fed")
    graph = read_model(path)
    inputs = capturing.read_inputs(graph, asked.inputs, INPUTS if images is None else images)
    source = Source(checkpoint_sha256=graph.sha256, data_sha256=inputs.digest, images=inputs.images, stimulus="images")
    walked = walk(graph, inputs.shapes)
    if layer is None:
        return list(capturing.capture_all(walked, inputs, source, hardware))
    return [capturing.capture_layer(walked, layer, inputs, source, hardware)]


def blank_captures(asked: OfModel) -> tuple[list[LayerCapture], list[Any]]:
    """The layers of an ONNX file without what is fed to them, and those that are refused."""
    from qexport.frontends import needs_onnx

    needs_onnx()
    from qexport.frontends.onnx_model.capture import blanks
    from qexport.frontends.onnx_model.reading import read_model
    from qexport.frontends.onnx_model.walk import walk

    _check_onnx(asked)
    assert asked.onnx is not None
    found = blanks(walk(read_model(asked.onnx)))
    refused = [one for one in found if not isinstance(one, LayerCapture)]
    for one in refused:
        click.echo(f"qexport: left out: {one.why}", err=True)
    return [one for one in found if isinstance(one, LayerCapture)], refused


def _check_onnx(asked: OfModel) -> None:
    stated = [name for name in asked.given() if name not in ("--model", "--inputs")]
    if stated:
        raise click.UsageError(f"{', '.join(stated)} belongs to a PyTorch module; an ONNX file says it")


def _wishes(asked: OfModel, hardware: Hardware | None) -> Any:
    from qexport.frontends.torch_module.capture import Wishes, stated

    output = None
    if asked.output_scale is not None:
        bits, signed = asked.output_format or (8, True)
        output = CodeFormat(bits=bits, signed=signed, scale=_one("--output-scale", asked.output_scale))
    elif asked.output_format is not None:
        raise click.UsageError("--output-format belongs to --output-scale")
    if asked.input_scale is not None:
        _one("--input-scale", asked.input_scale)
    return Wishes(stated(scale=asked.weight_scale), stated(scale=asked.input_scale), output, hardware)


def _one(name: str, scales: list[float]) -> float:
    if len(scales) > 1:
        raise click.UsageError(f"{name} takes one number; only weights have one for each channel")
    return scales[0]


class Framework(Protocol):
    """What stands beside a network in integers: `by`: what computes it; `each`: how many inputs it takes at once."""

    name: str
    by: str
    each: int

    def codes(self, image: NetworkInput, given: Any) -> Any: ...

    def logits(self, given: Any, classes: int) -> Any: ...


def load_framework(
    path: Path,
    integers: IntegerNetwork,
    model: str | None,
    weights: Path | None,
    checkpoint: str | None,
    facts: Sequence[int | None],
    normal: tuple[Sequence[float] | None, Sequence[float] | None],
    device: str,
) -> Framework:
    """What a network was imported from: the --model, or the --checkpoint that is named, else the default, else the
    shipped one. `facts`: of a checkpoint; `normal`: mean and standard deviation of what a model takes."""
    if weights is not None and (model is None or model.endswith(".onnx")):
        raise click.UsageError("--weights belongs to a --model MODULE:FUNCTION")
    if model is None:
        if normal != (None, None):
            raise click.UsageError("--mean and --std belong to --model; a checkpoint's are those of CIFAR-10")
        return _checkpoint_of(path, integers, checkpoint, facts, device)
    if (checkpoint, *facts) != (None,) * 4:
        raise click.UsageError("--model stands in place of --checkpoint and its bits and side")
    from qexport.frontends import needs_onnx, needs_torch
    from qexport.frontends.inputs import Normalised

    normalised = Normalised(normal[0] or (0.0,), normal[1] or (1.0,))
    if any(len(numbers) not in (1, integers.inputs[0].shape[0]) for numbers in (normalised.mean, normalised.std)):
        raise click.UsageError(f"--mean and --std have one number, or one for each of {integers.inputs[0].shape[0]}")
    if model.endswith(".onnx"):
        needs_onnx()
        from qexport.frontends.onnx_model.decide import OnnxFile

        return OnnxFile(integers, Path(model), normalised)
    needs_torch(("torch",))
    from qexport.frontends.torch_module.decide import Module

    return Module(model, weights, normalised)


def _checkpoint_of(
    path: Path, integers: IntegerNetwork, checkpoint: str | None, facts: Sequence[int | None], device: str
) -> Framework:
    for named in dict.fromkeys([checkpoint] if checkpoint else [None, "builtin"]):
        network = load_network(named, *facts)
        if network.sha256 == integers.source.checkpoint_sha256:
            from qexport.frontends.vgg.decide import Checkpoint
            from qexport.train.loop import pick_device

            return Checkpoint(network, pick_device(device))
    raise QexportError(
        f"network: {path} was not imported from {network.path}; give the --checkpoint or the --model that it was "
        "imported from"
    )
