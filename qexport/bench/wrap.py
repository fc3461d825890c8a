"""The adapter of a foreign core: what its ports seem to be for, and Verilog that connects them to a set's streams."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qexport.bench.context import BenchMemory, base_context, render
from qexport.bench.design import Design
from qexport.bench.interface import COMPARED, Port, Stream, interface
from qexport.bench.ports import Module, read_module
from qexport.core.geometry import ConvGeometry
from qexport.core.operations.registry import OPERANDS
from qexport.errors import QexportError
from qexport.layout.order import IMAGE_AXIS
from qexport.sets.manifest import Manifest, MemoryEntry, capture_of, read_manifest

Plane = tuple[int, int]

UNHEARD = "unheard"  # a stream of results beside that which the adapter takes
_ORDER = ("weight", "bias", "input")  # in which the core gets its codes
# what a word of a port's name begins with, or is, where it belongs to a stream
_STREAMS = {
    "weight": r"weight|wgt|wt|kern|filt|coef|w$|k$",
    "bias": r"bias|b$",
    "input": r"pix|px|act|im(g|age)|feat|ifm|fmap|input|x$|a$",
    "result": r"out|res|sum|acc|psum|ofm|y$|q$|rd$|raddr|read|dout",
}
_ROLES = {
    "valid": r"valid$|vld$|en$|we$|wen$|wr$|write$|strobe$|stb$|req$",
    "ready": r"ready$|rdy$|ack$|full$",
    "last": r"last$|eop$|end$",
    "address": r"addr|adr|index|idx",
}
_CLOCKS, _RESETS = r"a?clk(_?i)?$|clock$|ck$", r"[as]?n?_?(rst|reset)"
_STARTS, _DONES = r"(i_)?(start|go|run|begin)(_i)?$", r"(o_)?(done|finish(ed)?|complete)(_o)?$"
# parameters by the names that they often have, without _
_PARAMS = {
    "IC": "IC CIN INCH INCHANNELS CI ICH NIN INPUTCHANNELS",
    "OC": "OC COUT OUTCH OUTCHANNELS CO OCH NOUT OUTPUTCHANNELS",
    "IY": "IY H IH INH HEIGHT IMGH ROWS",
    "IX": "IX W IW INW IMGW COLS",
    "KH": "K KH KERNEL KERNELSIZE KSIZE KERNELH",
    "KW": "KW KERNELW",
    "STRIDE_Y": "STRIDE S",
    "PAD_TOP": "PAD PADDING P",
    "WEIGHT_BITS": "WB WBITS WEIGHTBITS WEIGHTWIDTH WWIDTH WGTBITS",
    "INPUT_BITS": "XB XBITS INPUTBITS INPUTWIDTH XWIDTH ACTBITS ACTWIDTH PIXELBITS PIXELWIDTH INBITS",
}


@dataclass(frozen=True)
class Line:
    """A port of the core: what the adapter connects, and what it says of it. `own`: the user must fill it in."""

    port: str
    signal: str
    said: str
    own: bool = False


@dataclass(frozen=True)
class Words:
    """Where the elements of a memory's words belong, for the template. `stream`: what its codes are to the core.

    `steps`: variables with their expressions of `at`, the number of the word, and `lane`; `outside`: conditions with
    which the place is fill or padding; `index`: the element's indices by axis.
    """

    stream: str
    memory: BenchMemory
    signed: bool
    index: tuple[tuple[str, str], ...]
    outside: str

    @classmethod
    def of(cls, stream: str, entry: MemoryEntry, memory: BenchMemory, layer: ConvGeometry, plane: Plane) -> "Words":
        index, outside = dict(memory.places.index), list(memory.places.fill)
        if entry.tensor == "input_padded":  # the core gets the codes of the plane alone
            for axis, padded, before, size in zip(("iy", "ix"), ("py", "px"), layer.padding[::2], plane, strict=True):
                index[axis] = f"{index.pop(padded)} - {before}"
                outside += [f"{index[axis]} < 0", f"{index[axis]} >= {size}"]
        index.pop(IMAGE_AXIS, None)
        return cls(stream, memory, entry.signed, tuple(index.items()), " || ".join(outside))


@dataclass(frozen=True)
class Adapter:
    """The files of an adapter by name, the module, and its ports as they were proposed."""

    files: Mapping[str, str]
    top: str
    lines: tuple[Line, ...]


def render_wrap(folder: Path, given: Design, design: Design, to: Path) -> Adapter:
    """An adapter, to lie in the folder `to`, between the bench of the set in `folder` and a core.

    It gives the core one code after the other and collects one value after the other. What the core's ports are for is
    told by their names; lines that it cannot propose are marked FILL IN. `given`: the core as it was given,
    `design`: as Verilog. Raises QexportError when the set has no bench of a convolution or linear layer, or a key of
    its layout stands in the way.
    """
    manifest = read_manifest(folder)
    found = interface(folder, manifest)
    if not isinstance(manifest.layer, ConvGeometry):
        raise QexportError(
            f"wrap: {folder} is of a {manifest.layer.kind}; adapters are for convolutions and linear layers"
        )
    entries = {entry.name: entry for entry in manifest.memories}
    offered = _offered(found, entries)
    context = _context(manifest, [stream.memory for stream in found])
    named = {name: value for group in context["constants"] for name, value in group.numbers}
    plane = capture_of(folder, manifest).plane
    driven = [name for name in _ORDER if name in offered]
    if missing := [name for name in ("weight", "input") if name not in offered]:
        raise QexportError(f"wrap: {folder} has no memory of '{missing[0]}' that goes in; add it to the layout")
    own = _sizes(manifest.layer, plane, {name: entries[offered[name].memory] for name in driven})
    own = {name: value for name, value in own.items() if name not in named}  # of another layout than the preset
    constants = named | own
    package = folder / f"{manifest.layer.slug}_pkg.sv"
    params = _params(read_module(design, package, (folder,)), constants) | dict(design.params)
    values = {name: str(constants.get(text, text)) for name, text in params.items()}
    module = read_module(replace(design, params=values), package, (folder,))
    result = _result(module.ports, [name for name in COMPARED if name in offered and name != "psum"], folder)
    roles = _roles({name: port for name, (_, port) in module.ports.items()}, driven, result)
    used = {name: offered[name] for name in (*driven, result)}
    for stream in used.values():
        _check_memory(entries[stream.memory], manifest.array, folder)
    whole = {
        name: _data_bits(module, roles, name if name != result else "result") == stream.width
        for name, stream in used.items()
    }
    lines = tuple(_line(name, port, *roles[name], driven, roles) for name, (_, port) in module.ports.items())
    numbers = {entry.name: number for number, entry in enumerate(manifest.memories)}
    words = {
        each: Words.of(each, entries[stream.memory], context["entries"][numbers[stream.memory]], manifest.layer, plane)
        for each, stream in used.items()
    }
    results = entries[used[result].memory].shape[2:]
    if results != (constants["OY"], constants["OX"]):  # behind a pool
        own |= dict(zip(("OY", "OX"), results, strict=True))
    reads = ("result", "valid") not in roles.values()
    name = f"{design.top}_adapter"
    context |= {
        "sizes": own,
        "name": name,
        "core": design.top,
        "driven": [words[each] for each in driven],
        "compared": words[result],
        "pieces": {each: stream.lanes if whole[each] else 1 for each, stream in used.items()},
        "params": list(params.items()),
        "defaults": [f"{given} = {value}" for given, value in module.params.items() if given not in params],
        "lines": lines,
        "own": sum(line.own for line in lines),
        "readies": {
            memory: (memory, "ready") in roles.values() or ("", "ready") in roles.values() for memory in driven
        },
        "whole": whole[result] and offered[result].lanes > 1,
        "reads": reads,
        "early": not reads and ("", "start") not in roles.values(),  # a core that gives results while codes come
        "waits": ("", "done") in roles.values(),
        "result_bits": _data_bits(module, roles, "result") or words[result].memory.bits,
    }
    files = render({f"{name}.sv": "wrap/adapter.sv.j2"}, context)
    listed = [os.path.relpath(file.resolve(), to.resolve()) for file in given.files]
    options = [f"+incdir+{os.path.relpath(path.resolve(), to.resolve())}" for path in design.includes]
    options += [f"+define+{macro}" for macro in design.defines]
    files["files.f"] = "".join(f'"{text}"\n' for text in (*options, *listed, f"{name}.sv"))
    return Adapter(files, name, lines)


def _context(manifest: Manifest, streamed: list[str]) -> dict[str, Any]:
    array = dict(manifest.array)
    return base_context(
        manifest.layer, manifest.memories, manifest.layout.name, array, manifest.formats, manifest.chain, streamed
    )


def _sizes(layer: ConvGeometry, plane: Plane, operands: Mapping[str, MemoryEntry]) -> dict[str, int]:
    """The constants by which an adapter and its lines name sizes, as the package of the preset does."""
    rows, columns = layer.output_plane(plane)
    sizes = {
        "IC": layer.in_channels,
        "OC": layer.out_channels,
        "IY": plane[0],
        "IX": plane[1],
        "OY": rows,
        "OX": columns,
    }
    sizes |= {"KH": layer.kernel[0], "KW": layer.kernel[1]}
    return sizes | {f"{name.upper()}_BITS": entry.bits for name, entry in operands.items()}


def _offered(found: Sequence[Stream], entries: Mapping[str, MemoryEntry]) -> dict[str, Stream]:
    """The streams that are needed: of operands by what they carry, of results by their tensors."""
    needed = [stream for stream in found if stream.needed]
    back = {entries[stream.memory].tensor: stream for stream in needed if not stream.driven}
    return back | {OPERANDS[entries[stream.memory].tensor]: stream for stream in needed if stream.driven}


def _check_memory(entry: MemoryEntry, array: dict[str, int], folder: Path) -> None:
    """Raises QexportError with the key of the layout, where the adapter cannot part or make the memory's words."""
    order, sizes = entry.memory().order, entry.tiling(array).sizes
    axes = [part for item in (*order.files, *order.addresses) for part in item.parts]
    first = next((axis for axis in axes if axis == IMAGE_AXIS or sizes[axis] > 1), "")
    key = (
        "tensor" if entry.tensor == "patches"  # an input code comes many times
        else "order" if order.has_copies or order.has_bits or (IMAGE_AXIS in order.tensor_axes and first != IMAGE_AXIS)
        else "skew" if entry.skew
        else "offset" if entry.offset
        else "overflow" if entry.overflow == "saturate"
        else None
    )  # fmt: skip
    if key is not None:
        raise QexportError(
            f"wrap: memory '{entry.name}' of {folder} has {key} = {getattr(entry, key)!r}; an adapter takes each code "
            "once, as it is, image after image: dump the set with --layout default, or change the key"
        )


def _params(module: Module, constants: Mapping[str, int]) -> dict[str, str]:
    """The parameters of the core that have a usual name, by the constants of the set's package."""
    usual = {alias: name for name, aliases in _PARAMS.items() for alias in aliases.split() if name in constants}
    named = {name: usual.get(name.upper().replace("_", "")) for name in module.params}
    return {name: constant for name, constant in named.items() if constant is not None}


def _words(name: str) -> list[str]:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
    kept = [word for word in words if word not in ("s", "m", "axis", "axi", "i", "o", "t", "port")]
    return [re.sub(r"^t(valid|ready|data|last)$", r"\1", word) for word in kept or words]


def _roles(ports: Mapping[str, Port], driven: list[str], result: str) -> dict[str, tuple[str, str]]:
    """Of each port the stream that it seems to belong to, '' for none or several, and its role.

    Of several ports of results those count that are named for the `result`; what takes others is UNHEARD.
    """
    roles = {}
    for name, port in ports.items():
        words, single = _words(name), port.bits == 1
        found = [s for s, pattern in _STREAMS.items() if any(re.match(pattern, word) for word in words)]
        stream = next((s for s in found if s in (*driven, "result")), "")
        if not stream and words[0] == "in" and len(words) > 1:
            stream = "input"
        role = next((r for r, pattern in _ROLES.items() if any(re.search(pattern, word) for word in words)), "")
        plain = name.lower()
        if port.direction == "input" and single and re.match(_CLOCKS, plain):
            stream, role = "", "clock"
        elif port.direction == "input" and single and re.match(_RESETS, plain):
            stream, role = "", "reset"
        elif port.direction == "input" and single and re.match(_STARTS, plain):
            stream, role = "", "start"
        elif port.direction == "output" and single and re.match(_DONES, plain):
            stream, role = "", "done"
        elif port.direction == "output" and role != "ready":
            stream, role = "result", role or "data"
        elif not role and (not single or re.search(r"d(ata|in|out)?$", words[-1])):
            role = "data"
        roles[name] = (stream, role)
    for kind in ("data", "valid", "ready"):
        own = [name for name, role in roles.items() if role == ("result", kind)]
        named = [name for name in own if result in name.lower()] or own
        if kind == "data":  # others are such as a level of a buffer
            named = [max(named, key=lambda name: ports[name].bits)] if named else []
        roles |= {name: (UNHEARD, kind) for name in own if name not in named}
    return roles


def _result(ports: Iterable[str], offered: list[str], folder: Path) -> str:
    """The memory that the core's results are: that which a port is named for, else the first."""
    if not offered:
        raise QexportError(f"wrap: {folder} has neither accumulator nor relu nor output; dump it with one of them")
    named = [name for name in offered if any(name in port.lower() for port in ports)]
    return named[0] if named else offered[0]


def _data_bits(module: Module, roles: Mapping[str, tuple[str, str]], stream: str) -> int | None:
    """The width of the port that a stream's codes go through, where one is known."""
    return next((module.ports[name][1].bits for name, role in roles.items() if role == (stream, "data")), None)


def _line(
    name: str, port: Port, stream: str, role: str, driven: list[str], roles: Mapping[str, tuple[str, str]]
) -> Line:
    """What the adapter connects to a port, and why."""
    found = set(roles.values())
    sharing = [s for s in driven if (s, "data") not in found]  # what goes through a port that is named for no stream
    if port.direction == "output":
        if (
            stream == "result"
            and role in ("valid", "data")
            and next(n for n, r in roles.items() if r == (stream, role)) == name
        ):
            return Line(name, f"core_{role}", "results")
        if role == "ready":
            return Line(name, f"{stream or 'shared'}_ready", f"takes codes of {stream or ', '.join(sharing)}")
        return Line(
            name, "core_done" if role == "done" else "", "the image is done" if role == "done" else "not looked at"
        )
    size = "" if port.bits == 1 else f", {port.bits} bits"
    if role in ("clock", "start"):
        return Line(
            name, "clk" if role == "clock" else "start", "clock" if role == "clock" else "all codes of an image are in"
        )
    if role == "reset":
        low = Design.read((), reset=name).reset_low
        return Line(name, "!rst" if low else "rst", f"reset, active {'low' if low else 'high'}")
    if stream == UNHEARD and role == "ready":
        return Line(name, "1'b1", "takes results that are not looked at")
    if stream == "result" and role in ("ready", "address"):
        signal = "result_ready" if role == "ready" else f"{port.bits}'(result_index)"
        return Line(name, signal, "takes results" if role == "ready" else "CHECK: number of the result, oc first")
    streams = [stream] if stream in driven else sharing
    if role in ("valid", "last") and streams:
        return Line(name, " || ".join(f"{s}_{role}" for s in streams), f"{role} of {', '.join(streams)}")
    if role == "data" and streams:
        text = f"{port.bits}'({streams[-1]}_code)"
        for s in reversed(streams[:-1]):
            text = f"{s}_valid ? {port.bits}'({s}_code) : {text}"
        return Line(name, text, f"codes of {', '.join(streams)}")
    if stream in driven and port.bits == 1 and not role:
        return Line(name, f"{stream}_valid", f"CHECK: 1 while codes of {stream} come")
    what = f"address of {', '.join(streams)}" if role == "address" and streams else "what is this for?"
    return Line(name, "'0", f"FILL IN: {what}{size}", own=True)
