"""What the judge of designs shares: sets of small layers, runs of the bench, and where a wrong value must be reported.

Places come from the manifest and the judge's own reader (notation.py); what a broken design gives is computed here."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import cli
from tests.judges.golden import Capture
from tests.judges.notation import Ints, Json, code_range, read_memory, read_order

HERE = Path(__file__).parent
REPORTED = {
    "n": "image",
    "oy": "y",
    "ox": "x",
    "py": "y",
    "px": "x",
}  # reference/bench.md; all others by their own name
FAIL = re.compile(r"FAIL memory=(\w+) file=(\S+) line=(\d+) lane=(\d+) (.*?) ?got=(\S+) want=(\S+)")
TOTAL = re.compile(r"FAIL memory=(\w+) (\d+) of (\d+) values are wrong")
UNKNOWN = 1 << 40  # stands for X in what a broken design gives


@dataclass(frozen=True)
class Set:
    """A set on disk, as its manifest tells it."""

    folder: Path

    @cached_property
    def manifest(self) -> Json:
        return json.loads((self.folder / "manifest.json").read_bytes())  # type: ignore[no-any-return]

    def memory(self, name: str) -> Json:
        return next(m for m in self.manifest["memories"] if m["name"] == name)

    def read(self, name: str) -> tuple[Ints, Ints, Ints]:
        """Stored codes [file, word, lane], the element at each place (-1: fill), and the tensor."""
        mem, array = self.memory(name), self.manifest["array"]
        if mem["radix"] != "raw_le":
            return read_memory(self.folder, mem, array, self.manifest["memories"])
        place, _ = read_order(mem, array)  # of one byte a word here
        files = [np.frombuffer((self.folder / file["path"]).read_bytes(), np.int8) for file in mem["files"]]
        stored, tensor = np.stack(files).astype(np.int64).reshape(place.shape), np.zeros(mem["shape"], np.int64)
        tensor.flat[place] = stored
        return stored, place, tensor

    def compared(self, name: str) -> int:
        """How many values of a memory are compared: all but what `skew` added."""
        plain = {key: value for key, value in self.memory(name).items() if key != "skew"}
        return int(read_order(plain, self.manifest["array"])[0].size)

    def tensor(self, name: str) -> Ints:
        return self.read(name)[2]


def made(capture: Capture, root: Path, layout: str) -> Set:
    """The set of a capture in a layout of a text."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "layout.toml").write_text(layout)
    path = capture.write(root / "made.safetensors")
    done = cli("dump", "--capture", path, "--layout", root / "layout.toml", "--out", root / "out")
    assert done.exit_code == 0, done.output
    return Set(root / "out" / capture.layer["name"])


def default(row: int, col: int, *without: str) -> str:
    """The layout `default` for an array of another size, from reference/layouts.md; some memories may be left out."""
    plane = {"input": "iy ix", "accumulator": "oy ox", "relu": "oy ox", "output": "oy ox"}
    orders = {
        "weight": "(ot col) (it row) kh kw -> | ot it kh kw col | ~row",
        "bias": "(ot col) -> | ot | ~col",
        "input": "n (ct row) iy ix -> | n ct iy ix | ~row",
        "psum": "n it kh kw (ot col) py px -> | n ot it kh kw py px | ~col",
    }
    orders |= {name: f"n (ot col) {plane[name]} -> | n ot {plane[name]} | ~col" for name in list(plane)[1:]}
    lines = ['name = "mine"', "[array]", f"row = {row}", f"col = {col}"]
    for name, order in orders.items():
        if name not in without:
            lines += ["[[memory]]", f'name = "{name}"', f'tensor = "{name}"', f'order = "{order}"']
            lines += [f'file = "{name}.hex"', 'radix = "hex"', "optional = true"]
    return "\n".join(lines) + "\n"


# ---- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """A planted fault: a text of the design, which stands there once, and what takes its place."""

    old: str
    new: str

    def of(self, design: Path, root: Path) -> Path:
        text = design.read_text()
        assert text.count(self.old) == 1, f"{self.old!r} stands {text.count(self.old)} times in {design.name}"
        root.mkdir(parents=True, exist_ok=True)
        (root / design.name).write_text(text.replace(self.old, self.new))
        return root / design.name


Broken = dict[str, Ints]  # what a design gives in place of a result
Model = Callable[[Set], Broken]


class Faults(list[tuple[str, Edit, Model]]):
    """Faults planted in designs, and what each gives in every result that it touches."""

    def plant(self, design: str, old: str, new: str) -> Callable[[Model], Model]:
        def add(model: Model) -> Model:
            self.append((design, Edit(old, new), model))
            return model

        return add

    def names(self) -> list[str]:
        return [model.__name__ for *_, model in self]


def simulate(found: Set, design: Path, *options: object, simulator: str = "icarus", ok: bool = True) -> Json:
    """One run of `qexport simulate`; the module is named like the file."""
    arguments = ("--dut", design, "--top", design.stem, "--simulator", simulator, "--json", *options)
    result = cli("simulate", found.folder, *arguments)
    assert result.exit_code == (0 if ok else 1), result.output
    said: Json = json.loads(result.stdout)
    assert said["ok"] is ok
    (only,) = said["sets"]
    assert only["result"] == ("PASS" if ok else "FAIL")
    return only  # type: ignore[no-any-return]


def passes(found: Set, design: Path, results: Sequence[str], *options: object, simulator: str = "icarus") -> Json:
    """The design passes, and every value of those results was compared."""
    said = simulate(found, design, *options, simulator=simulator)
    assert said["compared"] == {name: found.compared(name) for name in results}
    assert said["checks"] == sum(said["compared"].values())
    return said


TENSORS = {"psum": "n it kh kw oc py px"}


def lines_of(found: Set, name: str, broken: Ints) -> list[tuple[str, int, int, dict[str, int], str, int]]:
    """Every wrong value in the order of the stream: file, line, lane, index, got, want.

    What a broken tensor does not reach is the set's own fill; a larger one says what stands there instead.
    """
    mem, array = found.memory(name), found.manifest["array"]
    stored = found.read(name)[0]
    place, _ = read_order(mem | {"shape": broken.shape}, array)
    assert place.shape == stored.shape
    (low, high), value = code_range(mem), broken.ravel()[place] + mem["offset"]
    value = value.clip(low, high) if mem["overflow"] == "saturate" else (value - low) % (1 << mem["bits"]) + low
    got = np.where(place < 0, stored, np.where(broken.ravel()[place] == UNKNOWN, UNKNOWN, value))
    axes = TENSORS.get(mem["tensor"], "n m p" if broken.ndim == 3 else "n oc oy ox").split()
    wrong = []
    for file, word, lane in np.argwhere(got != stored).tolist():
        entry = mem["files"][file]
        line = len(mem["header"]) + entry.get("first_word", 0) + word + 1  # of raw bytes the word's number
        index = np.unravel_index(place[file, word, lane], broken.shape)
        named = {REPORTED.get(axis, axis): int(i) for axis, i in zip(axes, index, strict=True)}
        code = "x" if got[file, word, lane] == UNKNOWN else str(got[file, word, lane])
        wrong.append((entry["path"], line, lane, named, code, int(stored[file, word, lane])))
    return wrong


def word_at(found: Set, name: str, file: str, line: int, lane: int) -> int:
    """The number that stands there in the text of a file."""
    mem = found.memory(name)
    bits, (low, _) = int(mem["bits"]), code_range(mem)
    lanes = mem["word_bits"] // bits
    if mem["radix"] == "raw_le":  # of one byte a word here
        word = (found.folder / file).read_bytes()[line - 1]
    else:
        text = (found.folder / file).read_text().splitlines()[line - 1]
        if mem["radix"] == "dec":
            return int(text.split()[lane])
        word = int(text, 2 if mem["radix"] == "bin" else 16)
    return int(((word >> (lanes - 1 - lane) * bits) - low) % (1 << bits) + low)


def fails(found: Set, design: Path, broken: Broken, *options: object, simulator: str = "icarus") -> str:
    """The design fails, and exactly the values are reported as wrong that the broken tensors have elsewhere."""
    said = simulate(found, design, *options, simulator=simulator, ok=False)
    text: str = said["why"]
    reports: dict[str, list[Any]] = {}
    for name, file, line, lane, index, got, want in FAIL.findall(text):
        place = {key: int(value) for key, value in (part.split("=") for part in index.split())}
        reports.setdefault(name, []).append((file, int(line), int(lane), place, got, int(want)))
        assert word_at(found, name, file, int(line), int(lane)) == int(want)
    totals = {name: (int(wrong), int(of)) for name, wrong, of in TOTAL.findall(text)}
    expected = {name: lines_of(found, name, tensor) for name, tensor in broken.items()}
    assert any(expected.values()), "this fault changes nothing: the set is too weak"
    assert totals == {n: (len(e), found.compared(n)) for n, e in expected.items() if e}, text
    assert sum(map(len, reports.values())) == min(10, sum(map(len, expected.values()))), text
    for name, lines in reports.items():
        assert lines == expected[name][: len(lines)], name
    return text


# ---- arithmetic of broken designs -----------------------------------------------------------------------------------


def padded(x: Ints, top: int, bottom: int, left: int, right: int, value: int = 0) -> Ints:
    return np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def convolved(w: Ints, x: Ints, stride: tuple[int, int] = (1, 1), bias: Ints | None = None) -> Ints:
    """Sums of a plane that is padded already."""
    _, _, kh, kw = w.shape
    seen = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (kh, kw), (2, 3))
    seen = seen[:, :, :: stride[0], :: stride[1]]
    sums: Ints = np.einsum("oiab,niyxab->noyx", w.astype(np.int64), seen)
    return sums if bias is None else sums + bias.reshape(1, -1, 1, 1)


def unsigned(codes: Ints, bits: int) -> Ints:
    return codes.astype(np.int64) % (1 << bits)


def signed(codes: Ints, bits: int) -> Ints:
    half = 1 << bits - 1
    return (codes.astype(np.int64) + half) % (2 * half) - half
