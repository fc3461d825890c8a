"""Checkpoints: the training state, the forms in circulation, and the packed form that ships.

Any network of the family is rebuilt from its state_dict: the order of convolutions, BatchNorms and pools follows from
the indices and shapes of `features.N.*`.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qexport.core.atomic import write_atomically
from qexport.core.budget import CHECKPOINT_BYTES, check_header
from qexport.errors import QexportError
from qexport.frontends.pickles import unpickle
from qexport.frontends.vgg.data import SIDE
from qexport.frontends.vgg.model import CLASSES, ConvSpec, QuantVGG
from qexport.frontends.vgg.quant import check_bits, weight_qmax

LAST = "checkpoint.pth"
BEST = "model_best.pth.tar"
BUILTIN = Path(__file__).parent / "vgg16_quant_gradual.safetensors"
DEFAULT_BITS = 4
PACKED_KEY = "qexport"
MODULE_PREFIX = "module."


@dataclass(frozen=True)
class Network:
    """A network ready for inference, its weight codes fixed by float64 arithmetic."""

    model: QuantVGG
    path: Path
    sha256: str


def write_training(state: dict[str, Any], path: Path) -> None:
    """Write a training state (tensors and plain values) atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def read_training(path: Path) -> dict[str, Any]:
    """A checkpoint of `qexport train`, for resuming; raises QexportError."""
    if not path.is_file():
        raise QexportError(f"resume: {path} does not exist; start without --resume")
    state = _unpickle(path)
    if not isinstance(state, dict) or not {"state_dict", "model", "optimizer", "epoch", "recipe", "log"} <= set(state):
        raise QexportError(f"resume: {path} is not a checkpoint of qexport train; start without --resume")
    return state


def default_path() -> Path:
    """The working directory's trained network when there is one, else the shipped one."""
    trained = Path("result") / "vgg16_quant_gradual" / BEST
    return trained if trained.is_file() else BUILTIN


def path_of(name: str) -> Path:
    """The file of that name, or for 'builtin' that of the shipped network."""
    return BUILTIN if name == "builtin" else Path(name)


def load(path: Path, weight_bits: int | None = None, act_bits: int | None = None, side: int | None = None) -> Network:
    """Load a quantized network of the family from any of its forms.

    The bits default to what the checkpoint stores, else 4; `side`, that of the pictures, to what it stores, else 32.
    Raises QexportError naming the file and what is wrong.
    """
    network = load_any(path, weight_bits, act_bits, side)
    if not all(conv.active for conv in network.model.quantized().values()):
        raise QexportError(f"checkpoint: {path} was trained in float; train further from it: `qexport train --init`")
    return network


def load_any(
    path: Path, weight_bits: int | None = None, act_bits: int | None = None, side: int | None = None
) -> Network:
    """Load a network as `load` does, or one that was trained in float: its quantizers are off."""
    if not path.is_file():
        raise QexportError(f"checkpoint: {path} does not exist or is not a file; train one or use --checkpoint builtin")
    if not (size := path.stat().st_size):
        raise QexportError(f"checkpoint: {path} is empty; train it again or use --checkpoint builtin")
    if size > CHECKPOINT_BYTES:
        raise QexportError(f"checkpoint: {path} has {size:,} bytes, more than {CHECKPOINT_BYTES:,}; save less in it")
    if path.suffix == ".safetensors":
        model = _load_packed(path, weight_bits, act_bits, side)
    else:
        model = _load_trained(path, weight_bits, act_bits, side)
    with path.open("rb") as file:
        return Network(model, path, hashlib.file_digest(file, "sha256").hexdigest())


def pack(network: Network, path: Path) -> None:
    """Write the packed form: weight codes two to a byte (up to 4 bits), scales, BatchNorm and classifier.

    Trained further, it starts from the codes: they are as good as the weights, which are normalised before use.
    """
    model = network.model
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not (
            name.endswith((".weight", "num_batches_tracked")) and name.startswith("features.") and tensor.ndim != 1
        ):
            tensors[name] = tensor.detach().float().contiguous()
    for index, conv in model.quantized().items():
        codes = conv.weight_codes().to(torch.int8).flatten().numpy()
        tensors[f"features.{index}.weight_codes"] = torch.from_numpy(_pack_codes(codes, conv.weight_bits))
    for index, plain in model.plain().items():
        tensors[f"features.{index}.weight"] = plain.weight.detach().float()
    metadata = {
        "specs": [asdict(spec) for spec in model.specs],
        "weight_bits": model.weight_bits,
        "act_bits": model.act_bits,
        "in_features": model.classifier.in_features,
        "classes": model.classifier.out_features,
        "side": model.side,
        "source_sha256": network.sha256,
    }
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    write_atomically(path, save(tensors, metadata={PACKED_KEY: text}))


def _pack_codes(codes: np.ndarray[Any, np.dtype[np.int8]], bits: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two's complement codes: two to a byte, the first in the high nibble, up to 4 bits; one to a byte above."""
    octets = codes.view(np.uint8)
    if bits > 4:
        return octets.copy()
    nibbles = np.pad(octets & np.uint8(15), (0, len(octets) % 2))
    packed: np.ndarray[Any, np.dtype[np.uint8]] = (nibbles[0::2] << np.uint8(4)) | nibbles[1::2]
    return packed


def _unpack_codes(
    packed: np.ndarray[Any, np.dtype[np.uint8]], count: int, bits: int
) -> np.ndarray[Any, np.dtype[np.int8]]:
    if bits > 4:
        return packed.view(np.int8)[:count]
    nibbles = np.stack((packed >> np.uint8(4), packed & np.uint8(15)), axis=1).reshape(-1)[:count].astype(np.int8)
    return (nibbles ^ np.int8(8)) - np.int8(8)


Count = Annotated[int, Meta(ge=1, le=2**24)]
Kernel = Annotated[int, Meta(ge=1, le=2**8)]
Bits = Annotated[int, Meta(ge=2, le=8)]


class _PackedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    in_channels: Count
    out_channels: Count
    batch_norm: bool
    pool: bool
    quantized: bool
    kernel: tuple[Kernel, Kernel] = (3, 3)


class _Packed(msgspec.Struct, frozen=True):
    """The metadata of the packed form."""

    specs: Annotated[tuple[_PackedSpec, ...], Meta(min_length=1)]
    weight_bits: Bits
    act_bits: Bits
    in_features: Count
    classes: Count = CLASSES
    side: Count = SIDE


def _load_packed(path: Path, weight_bits: int | None, act_bits: int | None, side: int | None) -> QuantVGG:
    check_header(path, "checkpoint")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            facts = msgspec.convert(json.loads((file.metadata() or {})[PACKED_KEY]), _Packed)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"its metadata lacks {error}" if isinstance(error, KeyError) else error
        raise QexportError(
            f"checkpoint: {path} is not a packed qexport network: {reason}; give what `qexport train` wrote, or builtin"
        ) from None
    specs = tuple(ConvSpec(**msgspec.structs.asdict(spec)) for spec in facts.specs)
    _check_chain(path, specs, facts.in_features, facts.side)
    if side not in (None, facts.side):
        raise QexportError(f"checkpoint: {path} takes pictures of {facts.side}x{facts.side}; --side {side} contradicts")
    weights = sum(spec.in_channels * spec.out_channels * math.prod(spec.kernel) for spec in specs)
    weights += facts.in_features * facts.classes
    if weights > 2 * path.stat().st_size:  # as many as there could be of 4 bits
        raise QexportError(f"checkpoint: {path} tells of {weights:,} weights, more than it holds; give a complete file")
    bits = _agree(path, (facts.weight_bits, facts.act_bits), (weight_bits, act_bits))
    model = QuantVGG(specs, *bits, in_features=facts.in_features, classes=facts.classes, side=facts.side)
    codes: dict[int, Tensor] = {}
    for index, conv in model.quantized().items():
        packed = tensors.pop(f"features.{index}.weight_codes", None)
        if packed is None:
            raise QexportError(f"checkpoint: {path}: features.{index}.weight_codes is missing")
        _check_plain(path, f"features.{index}.weight_codes", packed, torch.uint8)
        flat = _unpack_codes(packed.numpy(), conv.weight.numel(), conv.weight_bits)
        if len(flat) != conv.weight.numel():
            raise QexportError(f"checkpoint: {path}: features.{index}.weight_codes has {len(flat)} codes")
        codes[index] = torch.from_numpy(flat.astype(np.int64)).reshape(conv.weight.shape)
        tensors[f"features.{index}.weight"] = codes[index].float()
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    _fill(model, tensors, path)
    for index, conv in model.quantized().items():
        conv.fix_codes(codes[index])
    return model.eval()


def _unpickle(path: Path) -> Any:
    remedy = "give what `qexport train` wrote, or 'builtin', or write a capture of the layer for `dump --capture`"
    return unpickle(path, "checkpoint", remedy)


def _load_trained(path: Path, weight_bits: int | None, act_bits: int | None, side: int | None) -> QuantVGG:
    document = _unpickle(path)
    state = document.get("state_dict", document) if isinstance(document, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise QexportError(f"checkpoint: {path} holds no state_dict; save model.state_dict() or the dict around it")
    tensors = {str(name).removeprefix(MODULE_PREFIX): tensor for name, tensor in state.items()}
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    recipe = document.get("recipe")
    asked = weight_bits, act_bits
    if isinstance(recipe, dict) and {"weight_bits", "act_bits"} <= set(recipe):
        for what in ("weight_bits", "act_bits"):
            if type(recipe[what]) is not int:
                kind = type(recipe[what]).__name__
                raise QexportError(f"checkpoint: {path}: {what} of its recipe is a {kind}; needs a whole number, 2..8")
        bits = _agree(path, (recipe["weight_bits"], recipe["act_bits"]), asked)
    else:
        bits = tuple(DEFAULT_BITS if b is None else b for b in asked)  # type: ignore[assignment]
        _check_levels(path, tensors, bits[0])
    side = SIDE if side is None else side
    specs, in_features, classes = _infer(path, tensors, side)
    _check_chain(path, specs, in_features, side)
    model = QuantVGG(specs, *bits, in_features=in_features, classes=classes, side=side)
    _fill(model, {name: tensor for name, tensor in tensors.items() if not name.endswith("weight_q")}, path)
    check_spread(path, model)
    for conv in model.quantized().values():
        conv.fix_codes()
        conv.active = not (isinstance(recipe, dict) and recipe.get("quantized") is False)
    return model.eval()


def check_spread(path: Path, model: QuantVGG) -> None:
    """Raises QexportError where a layer's weights cannot be normalised."""
    for index, conv in model.quantized().items():
        if not float(conv.weight.detach().double().std()) > 0:
            raise QexportError(
                f"checkpoint: {path}: features.{index}.weight holds one number alone, by whose spread it is divided; "
                "train it again"
            )


def _check_plain(path: Path, name: str, tensor: Tensor, only: torch.dtype | None = None) -> None:
    """Raises QexportError unless the tensor's numbers lie in memory, one by one, as real numbers, `only` of a type."""
    whole = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    real = not tensor.is_complex() and tensor.dtype != torch.bool
    # a stride of 0 lets a small file claim any size
    wanted = str(only or torch.float32).removeprefix("torch.")
    if (
        not (whole and real and only in (None, tensor.dtype))
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        layout = str(tensor.layout).removeprefix("torch.")
        kind = f"{layout} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
        raise QexportError(f"checkpoint: {path}: {name} is {kind}; needs plain numbers: save it as {wanted}")


def _agree(path: Path, stored: tuple[int, int], asked: tuple[int | None, int | None]) -> tuple[int, int]:
    for what, has, wants in zip(("weight", "act"), stored, asked, strict=True):
        if wants is not None and wants != has:
            raise QexportError(
                f"checkpoint: {path} was trained with {has} {what} bits; --{what}-bits {wants} contradicts"
            )
    return stored


def _check_levels(path: Path, tensors: Mapping[str, Tensor], bits: int) -> None:
    """The quantized weights that a checkpoint carries show with how many levels it was trained."""
    check_bits("weight", bits)
    levels = max(
        (len(np.unique(t.detach().float().numpy())) for name, t in tensors.items() if name.endswith(".weight_q")),
        default=None,
    )
    if levels is None:
        return
    trained = next((b for b in range(2, 9) if levels <= 2 * weight_qmax(b) + 1), None)
    if trained != bits:
        says = f"{trained} bits" if trained else "more than 8 bits"
        raise QexportError(
            f"checkpoint: {path}: weight_q has {levels} levels, which is {says}; --weight-bits {bits} contradicts"
        )


def _infer(path: Path, tensors: Mapping[str, Tensor], side: int) -> tuple[tuple[ConvSpec, ...], int, int]:
    """The chain of convolutions and the classifier's inputs and classes, from names and shapes.

    Strides and padding stand in no checkpoint: the planes that `_check_chain` finds to fit show that there are none but
    those of the family.
    """
    found = (re.fullmatch(r"features\.(\d+)\.weight", name) for name, t in tensors.items() if t.ndim == 4)
    convs = sorted(int(match.group(1)) for match in found if match)
    for name in tensors:
        alpha = re.fullmatch(r"features\.(\d+)\.(act_alpha|weight_quant\.wgt_alpha)", name)
        if alpha and f"features.{alpha.group(1)}.weight" not in tensors:
            raise QexportError(
                f"checkpoint: {path}: features.{alpha.group(1)}.weight is missing; give a complete checkpoint"
            )
    if not convs:
        raise QexportError(
            f"checkpoint: {path} is of another architecture: no features.N.weight of a convolution in it"
        )
    classifier = tensors.get("classifier.weight")
    if classifier is None or classifier.ndim != 2 or not len(classifier):
        raise QexportError(f"checkpoint: {path}: classifier.weight is missing")
    specs: list[ConvSpec] = []
    for at, index in enumerate(convs):
        weight = tensors[f"features.{index}.weight"]
        kernel = int(weight.shape[2]), int(weight.shape[3])
        if not all(size % 2 for size in kernel) or (specs and weight.shape[1] != specs[-1].out_channels):
            raise QexportError(
                f"checkpoint: {path} is of another architecture: features.{index}.weight has shape "
                f"{' x '.join(map(str, weight.shape))}; kernels are odd, channels those of the layer before: take "
                "`dump --model` for a module of your own"
            )
        batch_norm = f"features.{index + 1}.running_mean" in tensors
        following = index + (3 if batch_norm else 2)  # behind convolution, BatchNorm and ReLU
        if at + 1 < len(convs):
            gap = convs[at + 1] - following
            if gap not in (0, 1):
                raise QexportError(
                    f"checkpoint: {path} is of another architecture: between features.{index} and "
                    f"features.{convs[at + 1]} stands more than BatchNorm, ReLU and a pool"
                )
            pool = gap == 1
        else:
            pool = int(classifier.shape[1]) == weight.shape[0] * (side // 2) ** 2
        side = side // 2 if pool else side
        quantized = f"features.{index}.act_alpha" in tensors or at > 0  # only the first may be a plain one
        specs.append(ConvSpec(int(weight.shape[1]), int(weight.shape[0]), batch_norm, pool, quantized, kernel))
    return tuple(specs), int(classifier.shape[1]), len(classifier)


def _check_chain(path: Path, specs: Sequence[ConvSpec], in_features: int, picture: int) -> None:
    """Raises QexportError where a picture of that side would not fit through the network."""
    channels, side = 3, picture
    for number, spec in enumerate(specs, start=1):
        if spec.in_channels != channels or spec.out_channels < 1:
            raise QexportError(
                f"checkpoint: {path} is of another architecture: convolution {number} takes {spec.in_channels} "
                f"channels and gives {spec.out_channels}; it gets {channels}"
            )
        channels, side = spec.out_channels, side // 2 if spec.pool else side
    if in_features != channels * side**2 or not side:
        raise QexportError(
            f"checkpoint: {path}: the classifier takes {in_features} values, but gets {channels} x {side} x {side} of "
            f"pictures of {picture}x{picture}; {_sides_that_fit(specs, in_features)}"
        )


def _sides_that_fit(specs: Sequence[ConvSpec], in_features: int) -> str:
    """What to do where pictures of a side do not fit: whether a pool ends the chain, no checkpoint says."""
    last = math.isqrt(in_features // specs[-1].out_channels)
    if last**2 * specs[-1].out_channels != in_features:
        return "it is of another architecture: take `dump --model` for a module of your own"
    pools = sum(spec.pool for spec in specs[:-1])
    return f"state theirs: --side {last << pools} would do, or {last << pools + 1} with a pool at the end"


def _fill(model: QuantVGG, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors into the model; raises QexportError naming what is missing, foreign, misshapen or not finite."""
    own = model.state_dict()
    filled: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue
            raise QexportError(f"checkpoint: {path}: {name} is missing; give a complete checkpoint of the VGG family")
        given = tensors[name]
        if given.numel() != tensor.numel() or (tensor.ndim > 0 and given.shape != tensor.shape):
            shapes = [" x ".join(map(str, t.shape)) for t in (given, tensor)]
            raise QexportError(f"checkpoint: {path}: {name} has shape {shapes[0]}; needs {shapes[1]}")
        if not torch.isfinite(given.double()).all():
            raise QexportError(f"checkpoint: {path}: {name} holds NaN or infinity")
        if name.endswith("alpha") and float(given) == 0:
            raise QexportError(
                f"checkpoint: {path}: {name} is 0, by which everything behind it is divided; train it again"
            )
        # weights are clipped on both sides, so that a sign changes nothing
        filled[name] = (given.abs() if name.endswith("wgt_alpha") else given).reshape(tensor.shape)
    foreign = set(tensors) - set(own)
    if foreign:
        raise QexportError(f"checkpoint: {path} is of another architecture: {sorted(foreign)[0]} has no place in it")
    model.load_state_dict(filled, strict=False)
