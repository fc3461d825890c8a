"""What is attacked: for each kind of file a valid one, a change of it, and the commands that read it."""

import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qexport.bench.interface import streams
from qexport.build.dump import dump, dump_all
from qexport.build.inputs import open_inputs
from qexport.build.network import layer_captures
from qexport.core.capture import CaptureFile
from qexport.core.network_file import read_network, write_network
from qexport.core.network_run import Engine
from qexport.frontends.vgg.data import CLASS_NAMES
from qexport.layout.toml import default_layout, layout_text, load_layout, preset_names
from qexport.sets.folder import file_sha256, sha256, sums_text
from qexport.sets.graph import Graph
from qexport.sets.manifest import read_manifest
from qexport.sim.record import record_of, seals
from qexport.sim.verdict import Verdict
from tests.conftest import make_capture
from tests.frontends.networks import small_network
from tests.fuzz import mutate
from tests.judges.layers import codes, conv, matmul, total
from tests.networks import small_network as small_integers

Arguments = list[str]
VCD = """$timescale 1ns $end
$scope module top $end
$var wire 1 ! clk $end
$var wire 1 " m_relu_tvalid $end
$var wire {bits} # m_relu_tdata [{top}:0] $end
$upscope $end
$enddefinitions $end
#0
0!
1"
"""


class Target:
    """The valid files, made once in `base`; every case gets a new folder `case` for what is changed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        capture = make_capture(plane=(2, 2), images=1, name="tiny", in_channels=2, out_channels=3, bias=True)
        self.capture = base / "capture.safetensors"
        self.capture.write_bytes(capture.to_bytes())
        self.set = dump(capture, load_layout("default"), base).folder
        others = {path: dump(CaptureFile(path), load_layout(layout), base).folder for path, layout in _others(base)}
        self.all_captures, self.all_sets = [self.capture, *others], [self.set, *others.values()]
        self.network = base / "network.pth"
        torch.save(small_network().state_dict(), self.network)
        self.vcd = _waves(self.set)
        self.record = json.loads(_record(self.set))
        self.integers, self.pixels = base / "small.network.safetensors", base / "pixels.npy"
        write_network(small_integers(), self.integers)
        np.save(self.pixels, np.random.default_rng(0).integers(0, 256, (1, 3, 6, 6), np.uint8))
        network = read_network(self.integers)
        with tempfile.TemporaryDirectory() as scratch:
            paths = layer_captures(
                Engine(network), open_inputs(self.pixels, network), [0], list(network.placed), Path(scratch)
            )
            captures = [CaptureFile(path) for path in paths.values()]
            self.sets = base / "sets"
            dump_all(
                captures, lambda one: load_layout(default_layout(one.layer.kind)), self.sets,
                graph=lambda index: Graph.of(network, "0" * 64, index),
            )  # fmt: skip

    def captures(self, rng: random.Random, case: Path) -> Arguments:
        file = case / "capture.safetensors"
        whole = rng.choice(self.all_captures).read_bytes()
        file.write_bytes(_safetensors(rng, whole) if rng.random() < 0.7 else mutate.data(rng, whole))
        layout = rng.choice([[], [], ["--layout", rng.choice(preset_names())]])
        dumped = ["dump", "--capture", str(file), *layout, "--out", str(case / "out")]
        hardware = ["--round", "half_even", "--mul-bits", "4", "--shift-max", "9", "--per-tensor", "--power-of-two"]
        return rng.choice([dumped, dumped, [*dumped, "--dry-run"], [*dumped, *hardware[: rng.choice((2, 6, 7, 8))]]])

    def layouts(self, rng: random.Random, case: Path) -> Arguments:
        file = case / "layout.toml"
        whole = layout_text(rng.choice(preset_names()))
        if rng.random() < 0.9:
            file.write_text(mutate.text(rng, whole), errors="surrogatepass")
        else:
            file.write_bytes(mutate.data(rng, whole.encode()))
        capture = str(rng.choice(self.all_captures))
        dumped = ["dump", "--capture", capture, "--layout", str(file), "--out", str(case / "out")]
        return rng.choice([["layout", "check", str(file)], ["layout", "show", str(file)], dumped, dumped])

    def manifests(self, rng: random.Random, case: Path) -> Arguments:
        whole = rng.choice(self.all_sets)
        folder = Path(shutil.copytree(whole, case / whole.name))
        path, sums = folder / "manifest.json", folder / "SHA256SUMS"
        if rng.random() < 0.8:
            change = rng.choice([mutate.plausible, mutate.document])
            path.write_text(json.dumps(change(rng, json.loads(path.read_bytes()))), errors="surrogatepass")
        else:
            path.write_bytes(mutate.data(rng, path.read_bytes()))
        _reseal(rng, folder, sums)
        return self._reading(rng, whole, folder, case)

    def memories(self, rng: random.Random, case: Path) -> Arguments:
        """A file of the set itself, or what a design gave."""
        of = rng.choice(self.all_sets)
        manifest = read_manifest(of)
        entry = rng.choice(manifest.memories)
        whole = (of / entry.files[0].path).read_bytes()
        changed = mutate.data(rng, whole)
        if rng.random() < 0.5:
            changed = mutate.text(rng, whole.decode()).encode(errors="surrogatepass")
        if rng.random() < 0.5:
            folder = Path(shutil.copytree(of, case / of.name))
            (folder / entry.files[0].path).write_bytes(changed)
            _reseal(rng, folder, folder / "SHA256SUMS")
            return self._reading(rng, of, folder, case)
        actual = case / rng.choice([f"{entry.name}.hex", "run.txt", "x.vcd"])
        actual.write_bytes(changed)
        named = ["--memory", entry.name] if rng.random() < 0.5 else []
        return rng.choice([
            ["diagnose", str(of), "--actual", str(actual), *named],
            ["shrink", str(of), "--actual", str(actual), *named, "--out", str(case / "out")],
        ])  # fmt: skip

    def waves(self, rng: random.Random, case: Path) -> Arguments:
        file = case / "waves.vcd"
        if rng.random() < 0.7:
            file.write_text(mutate.text(rng, self.vcd), errors="surrogatepass")
        else:
            file.write_bytes(mutate.data(rng, self.vcd.encode()))
        signal = rng.choice(["m_relu_tdata", "top.m_relu_tdata", "tvalid"])
        return ["diagnose", str(self.set), "--actual", str(file), "--signal", signal, "--clock", "clk"]

    def checkpoints(self, rng: random.Random, case: Path) -> Arguments:
        file = case / "network.pth"
        if rng.random() < 0.6:
            torch.save(_state(rng, self.network), file)
        elif rng.random() < 0.5:
            file.write_bytes(_repacked(rng, self.network.read_bytes()))
        else:
            file.write_bytes(mutate.data(rng, self.network.read_bytes()))
        return rng.choice([
            ["layers", "--checkpoint", str(file)],
            ["dump", "--all", "--checkpoint", str(file), "--images", "1", "--out", str(case / "out")],
        ])  # fmt: skip

    def pictures(self, rng: random.Random, case: Path) -> Arguments:
        for name in CLASS_NAMES:
            (case / "data" / "test" / name).mkdir(parents=True)
            picture = io.BytesIO()
            form = rng.choice(["PNG", "BMP", "GIF", "PPM", "TIFF", "JPEG", "WEBP"])
            Image.new("RGB", (32, 32), tuple(rng.randbytes(3))).save(picture, form)
            file = case / "data" / "test" / name / rng.choice(["0.png", f"0.{form.lower()}"])
            file.write_bytes(mutate.data(rng, picture.getvalue()) if rng.random() < 0.3 else picture.getvalue())
        network, data = ["--checkpoint", str(self.network)], ["--data", str(case / "data")]
        return rng.choice([
            ["dump", "--all", *network, *data, "--images", "10", "--out", str(case / "out")],
            ["eval", *network, *data],
        ])  # fmt: skip

    def verdicts(self, rng: random.Random, case: Path) -> Arguments:
        file = case / "verdict.json"
        document = {key: value for key, value in self.record.items() if key != "seals"}
        if rng.random() < 0.7:
            changed = rng.choice([mutate.plausible, mutate.document])(rng, document)
            sealed = isinstance(changed, dict) and rng.random() < 0.7
            text = json.dumps(changed | {"seals": seals(changed)} if sealed else changed, sort_keys=True, indent=2)
            file.write_text(f"{text}\n", errors="surrogatepass")
        else:
            file.write_bytes(mutate.data(rng, json.dumps(self.record).encode()))
        return ["audit", str(file), "--set", str(self.set)]

    def networks(self, rng: random.Random, case: Path) -> Arguments:
        """A network's file, or the graph beside its sets."""
        if rng.random() < 0.2:
            folder = Path(shutil.copytree(self.sets, case / "sets"))
            path = folder / "graph.json"
            document = mutate.document(rng, json.loads(path.read_bytes()))
            path.write_text(json.dumps(document), errors="surrogatepass")
            return rng.choice([["verify", str(folder)], ["diagnose", str(folder), "--actual", str(self.sets)]])
        file = case / "changed.network.safetensors"
        whole = self.integers.read_bytes()
        file.write_bytes(_safetensors(rng, whole) if rng.random() < 0.8 else mutate.data(rng, whole))
        inputs = ["--inputs", str(self.pixels)]
        return rng.choice([
            ["layers", "--network", str(file)],
            ["run", str(file), *inputs, "--out", str(case / "out.npy")],
            ["run", str(file), *inputs],
            ["export", str(file), "--onnx", str(case / "out.onnx")],
            ["dump", "--all", "--network", str(file), *inputs, "--out", str(case / "out")],
        ])  # fmt: skip

    def _reading(self, rng: random.Random, whole: Path, folder: Path, case: Path) -> Arguments:
        """A command that reads a set, which was `whole`."""
        memory = rng.choice(read_manifest(whole).memories)
        file, number = memory.files[0].path, rng.choice((1, 2, 99))
        return rng.choice([
            ["verify", str(folder)],
            ["verify", str(folder)],
            ["show", str(folder), f"{file}:{number}"],
            ["strength", str(folder)],
            ["report", str(folder), "--out", str(case / "page.html")],
            ["explain", str(folder), "--at", rng.choice(["0,0,0,0", "0,2,1,1", "0,1,1", "9,9,9,9"])],
            ["diagnose", str(folder), "--actual", str(whole / file)],
            ["shrink", str(folder), "--actual", str(folder / file), "--out", str(case / "out")],
            ["rtl", str(folder), "--style", rng.choice(["ws", "os"]), "--out", str(case / "out")],
            ["stub", str(folder), "--out", str(case / "out")],
            ["cocotb", str(folder), "--out", str(case / "out")],
        ])  # fmt: skip


KINDS: dict[str, Callable[[Target, random.Random, Path], Arguments]] = {
    "captures": Target.captures, "layouts": Target.layouts, "manifests": Target.manifests,
    "memories": Target.memories, "waves": Target.waves, "checkpoints": Target.checkpoints, "pictures": Target.pictures,
    "verdicts": Target.verdicts,
    "networks": Target.networks,
}  # fmt: skip


def _record(folder: Path) -> bytes:
    """The record of a PASS of the set's own design."""
    manifest = read_manifest(folder)
    words = {stream.memory: stream.values for stream in streams(manifest) or () if not stream.driven}
    verdict = Verdict(
        set=folder, simulator="icarus", version="12.0", seed=0, compared=words, not_compared={}, manifest=manifest,
        cycles=9, macs=216, words=dict.fromkeys(words, "0" * 64), sources={"dut.sv": "0" * 64},
    )  # fmt: skip
    return record_of(verdict).to_bytes()


def _others(base: Path) -> list[tuple[Path, str]]:
    """Captures of other kinds, with steps and levels, and the layouts that serve them."""
    rng = np.random.default_rng(0)
    formats = {"weight": codes(2, False) | {"levels": [-3, -1, 1, 3]}, "input": codes(4, False, 0.5, 3)}
    steps = [
        {"op": "bias", "shift": 1}, {"op": "multiply", "by": [3, -5], "name": "scaled"},
        {"op": "shift_right", "by": 2, "round": "half_up"}, {"op": "leaky_relu", "shift": 3, "round": "floor"},
        {"op": "max_pool", "kernel": [2, 2]}, {"op": "clamp", "low": -8, "high": 7},
    ]  # fmt: skip
    layer = {"padding": [1, 1, 0, 0], "relu": False, "stride": [1, 1], "dilation": [1, 1], "groups": 1}
    weight, plane = rng.integers(0, 4, (2, 2, 3, 3)), rng.integers(0, 16, (1, 2, 4, 4))
    one = conv(weight, plane, formats, steps, [5, -7], "steps", **layer)
    both = {"input": codes(4, True), "input2": codes(4, False, 0.25, 1)}
    tflite = {"op": "tflite", "multiplier": 1 << 30, "shift": -2, "rounding": "double"}
    table = {"op": "threshold", "table": [[-4, 0, 4], [-2, 0, 2]], "first": 0}
    two = matmul(rng.integers(-8, 8, (1, 2, 3)), rng.integers(0, 16, (1, 3, 2)), both, [tflite, table], name="product")
    pool = {"op": "sum_pool", "kernel": [2, 2], "padding": [0, 0, 0, 0]}
    added = {"accumulator": {"scale": 0.25}, "input": codes(4, False), "input2": codes(4, False)}
    operands = [rng.integers(0, 16, (1, 2, 4, 4)) for _ in range(2)]
    three = total(operands, [3, -2], added, [pool, {"op": "wrap", "bits": 6, "signed": True}])
    named = ((one, "default"), (two, "matmul"), (three, "sum"))
    return [(capture.write(base / f"{layout}.safetensors"), layout) for capture, layout in named]


def _safetensors(rng: random.Random, whole: bytes) -> bytes:
    """A capture with other tables in its header, whose length is right again."""
    (length,) = struct.unpack("<Q", whole[:8])
    header, tensors = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    facts = json.loads(header["__metadata__"]["qexport"])
    if rng.random() < 0.8:
        change = rng.choice([mutate.plausible, mutate.document])
        header["__metadata__"]["qexport"] = json.dumps(change(rng, facts))
    else:
        header = mutate.document(rng, header)
    changed = json.dumps(header).encode(errors="surrogatepass")
    return struct.pack("<Q", len(changed)) + changed + tensors


def _reseal(rng: random.Random, folder: Path, sums: Path) -> None:
    """Most sets get hashes that agree with the files as they are now: what lies behind them is to be reached."""
    path = folder / "manifest.json"
    if rng.random() < 0.2:
        return
    try:
        document = json.loads(path.read_bytes())
        named = [*(f for m in document["memories"] for f in m["files"]), document["capture"], *document["bench"]]
        for entry in named:
            if entry["sha256"] and (folder / entry["path"]).is_file():
                entry["sha256"] = file_sha256(folder / entry["path"])
        path.write_text(json.dumps(document), errors="surrogatepass")
        listed = {str(entry["path"]): str(entry["sha256"]) for entry in named}
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        listed = {}
    if rng.random() < 0.5:
        sums.unlink()
    else:
        text = sums_text(listed | {"manifest.json": sha256(path.read_bytes())})
        sums.write_text(text, errors="surrogatepass")


def _state(rng: random.Random, network: Path) -> Any:
    """The network's state with one or some of its entries changed."""
    state = torch.load(network, weights_only=True)
    for _ in range(rng.choice((1, 1, 3))):
        key = rng.choice(list(state))
        tensor = state[key]
        if not isinstance(tensor, torch.Tensor):
            continue
        choices: list[Callable[[], Any]] = [
            lambda tensor=tensor: tensor.to(rng.choice([torch.float64, torch.bfloat16, torch.int8, torch.bool])),
            lambda tensor=tensor: tensor * rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")]),
            lambda tensor=tensor: tensor[..., None],
            lambda tensor=tensor: tensor.flatten()[:1].expand(tensor.shape or (3,)),
            lambda tensor=tensor: torch.empty(rng.choice([(0,), (3, 0), (1, 1, 1, 1), (5,)])),
            lambda tensor=tensor: tensor.to("meta"),
            lambda tensor=tensor: tensor.cfloat(),
            lambda tensor=tensor: tensor.to_sparse() if tensor.ndim else tensor,
            lambda: mutate.value(rng),
        ]
        match rng.randrange(4):
            case 0:
                del state[key]
            case 1:
                state[rng.choice([f"{key}.x", "features.99.weight", f"module.{key}", "", 7])] = tensor
            case _:
                state[key] = rng.choice(choices)()
    match rng.randrange(6):
        case 0:
            return {
                "state_dict": state,
                "recipe": mutate.document(rng, {"weight_bits": 4, "act_bits": 4, "model": "x"}),
            }
        case 1:
            return {"state_dict": state, "specs": mutate.value(rng), "in_features": mutate.value(rng)}
        case 2:
            return rng.choice([mutate.value(rng), [state], {"state_dict": mutate.value(rng)}])
    return state


def _repacked(rng: random.Random, whole: bytes) -> bytes:
    """A checkpoint's archive in which one of its files is changed, with checksums that agree."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith(".pkl")] * 3 + names)
        for name in names:
            data = old.read(name)
            new.writestr(name, mutate.data(rng, data) if name == chosen else data)
    return made.getvalue()


def _waves(folder: Path) -> str:
    """The relu of a set as waves: a word each clock."""
    words = (folder / "relu.hex").read_text().split()
    bits = 4 * len(words[0])
    text = VCD.format(bits=bits, top=bits - 1)
    for number, word in enumerate(words):
        text += f"#{10 * number + 5}\n0!\nb{int(word, 16):b} #\n#{10 * number + 10}\n1!\n"
    return text
