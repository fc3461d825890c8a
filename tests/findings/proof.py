"""What `diagnose` is proven on: three layers, each in two layouts, and every mistake on each."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.findings.diagnose import diagnose
from qexport.findings.words import read_actual
from qexport.layout.memory import Layout
from qexport.layout.toml import load_layout, parse_layout
from tests.conftest import checked_dump, make_capture
from tests.judges.machine import OUTSIDE, Fault, Machine, fault, listed, outside, paired

Sets = dict[tuple[str, str], Path]

ROOT = Path(__file__).parents[2]

# Lane 0 in the most significant bits, a weight word is a row of the array, and memories that count in other orders.
MIRROR = """
name = "mirror"
[array]
row = 8
col = 8
[[memory]]
name = "weight"
tensor = "weight"
order = "(ot col) (it row) kh kw -> it ot | kh kw row | col"
file = "weight_{it}_{ot}.txt"
radix = "bin"
[[memory]]
name = "bias"
tensor = "bias"
order = "(ot col) -> | ot | col"
file = "bias.txt"
radix = "dec"
optional = true
[[memory]]
name = "input"
tensor = "input"
order = "n (ct row) iy ix -> | ct iy ix n | row"
file = "input.txt"
radix = "hex"
header = ["// row 0 first"]
[[memory]]
name = "psum"
tensor = "psum"
order = "n it kh kw (ot col) py px -> | it ot kh kw n py px | col"
file = "psum.txt"
radix = "hex"
[[memory]]
name = "accumulator"
tensor = "accumulator"
order = "n (ot col) oy ox -> ot | n oy ox | col"
file = "accumulator_{ot}.txt"
radix = "dec"
[[memory]]
name = "relu"
tensor = "relu"
order = "n (ot col) oy ox -> | n oy ox ot | col"
file = "relu.txt"
radix = "bin"
bits = 20
[[memory]]
name = "output"
tensor = "output"
order = "n (ot col) oy ox -> | oy ox n ot | col"
file = "output.txt"
radix = "hex"
header = ["// col 0 first"]
"""


def quantized(capture: LayerCapture, name: str, half: int, step: float) -> LayerCapture:
    """The capture with a next layer for which the sum `half` lies on the edge between codes 6 and 7.

    So the ways of rounding differ. With a `step` of 13/8 the quotient is exactly 6.5 and goes to 6; with 1/8 it cannot
    be written exactly, is a little more, and goes to 7."""
    weight = CodeFormat(bits=4, signed=True, scale=step / capture.formats.input.scales[0])
    output = CodeFormat(bits=4, signed=False, scale=step * 2 * half / 13)
    return replace(
        capture,
        layer=msgspec.structs.replace(capture.layer, name=name),
        formats=msgspec.structs.replace(capture.formats, weight=weight, output=output),
    )


def layer_33(seed: int = 0) -> LayerCapture:
    return LayerCapture.load(ROOT / "vectors" / "features_33" / "capture.safetensors")


def ragged(seed: int = 23) -> LayerCapture:
    """Groups of odd size that share words and tiles, and nothing square; 20 sums are exactly 172."""
    capture = make_capture(
        seed=seed, plane=(9, 7), images=3, bias=True, in_channels=22, out_channels=14, kernel=(3, 2), groups=2,
        stride=(2, 2), padding=(1, 0, 2, 1), dilation=(2, 1),
    )  # fmt: skip
    return quantized(capture, "ragged", 172, 13 / 8)


def multi(seed: int = 6) -> LayerCapture:
    """Three tiles of input and three of output channels; four sums are exactly 340."""
    capture = make_capture(seed=seed, plane=(5, 6), images=3, in_channels=24, out_channels=20)
    return quantized(capture, "multi", 340, 1 / 8)


LAYERS: Mapping[str, Callable[..., LayerCapture]] = {"features_33": layer_33, "ragged": ragged, "multi": multi}
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "default": lambda: load_layout("default"),
    "mirror": lambda: parse_layout(MIRROR, "mirror.toml"),
}


def make_sets(out: Path) -> Sets:
    """(layer, layout) -> its set, those of a layout side by side; the independent decoder has checked each."""
    return {
        (layer, name): checked_dump(capture(), layout(), out / name)
        for name, layout in LAYOUTS.items()
        for layer, capture in LAYERS.items()
    }


# ---- cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One mistake on one set: what came back of a memory, and which answers are right."""

    layer: str
    layout: str
    memory: str
    name: str
    how: str
    text: str
    alike: frozenset[str]  # causes of which some way gives the very same words, `name` among them; none: no such cause

    def __str__(self) -> str:
        return f"{self.layer} {self.layout} {self.memory}: {self.name} ({self.how})"


# Which memory is compared first goes round; where a mistake does not show in it, the next one that it shows in.
COMPARED = ("relu", "accumulator", "output")


@dataclass(frozen=True)
class Cases:
    """`invisible`: mistakes that change no result of the set. `listed_too`: those of `outside` that give the very words
    of a cause."""

    listed: list[Case]
    outside: list[Case]
    invisible: list[Case]
    listed_too: list[Case]


def given(folder: Path, one: Fault) -> dict[str, str]:
    """What comes back of each result that is compared."""
    machine = Machine(folder, one.apply)
    return {tensor: machine.text(tensor) for tensor in COMPARED}


def causes_of(answers: Iterable[tuple[Fault, dict[str, str]]]) -> dict[str, dict[str, set[str]]]:
    """Result -> words -> the causes of which some way gives these words."""
    names: dict[str, dict[str, set[str]]] = {tensor: defaultdict(set) for tensor in COMPARED}
    for one, texts in answers:
        for tensor, text in texts.items():
            names[tensor][text].add(one.name)
    return names


def causes_by_text(folder: Path) -> dict[str, dict[str, set[str]]]:
    machine = Machine(folder)
    return causes_of((one, given(folder, one)) for one in (*listed(machine), *paired(machine)))


def make_cases(sets: Sets, layer: str, layout: str) -> Cases:
    """All mistakes on one set."""
    folder = sets[layer, layout]
    machine = Machine(folder)
    start = list(LAYERS).index(layer) + list(LAYOUTS).index(layout)
    order = [COMPARED[(start + step) % len(COMPARED)] for step in range(len(COMPARED))]
    right = {tensor: machine.text(tensor) for tensor in order}
    answers = [(one, given(folder, one)) for one in (*listed(machine), *paired(machine))]
    names = causes_of(answers)
    answers += [(one, given(folder, one)) for one in outside(machine)]
    neighbour = next(other for other, name in sets if name == layout and other != layer)
    strange = Machine(sets[neighbour, layout])
    answers.append((fault("other_layer", f"of {neighbour}"), {tensor: strange.text(tensor) for tensor in order}))

    cases = Cases([], [], [], [])
    for one, texts in answers:
        if one.probe:
            continue
        seen = [tensor for tensor in order if texts[tensor] != right[tensor]]
        memory = (seen or order)[0]
        alike = names[memory].get(texts[memory], set()) if seen else set()
        case = Case(layer, layout, memory, one.name, one.how, texts[memory], frozenset(alike))
        if not seen:
            cases.invisible.append(case)
        elif one.name != OUTSIDE:
            cases.listed.append(replace(case, alike=case.alike | {one.name}))
        else:
            (cases.listed_too if alike else cases.outside).append(case)
    return cases


@dataclass(frozen=True)
class Verdict:
    """What `diagnose` said of a case."""

    case: Case
    said: tuple[tuple[str, str, float, tuple[str, ...]], ...]  # name, detail, share, alike of the first three
    explained: bool
    seconds: float

    @property
    def first(self) -> bool:
        """The true cause, or one that no vector can tell from it, stands first."""
        return self.explained and bool(self.said) and self.said[0][0] in self.case.alike

    @property
    def among_three(self) -> bool:
        return any(name in self.case.alike for name, *_ in self.said)


def judge(case: Case, folder: Path, scratch: Path) -> Verdict:
    """Have `diagnose` look at a case as a user would: at a file."""
    file = scratch / "actual.txt"
    file.write_text(case.text)
    begin = time.perf_counter()
    found = diagnose(folder, read_actual(folder, file, case.memory))
    seconds = time.perf_counter() - begin
    said = tuple((cause.name, cause.detail, cause.share, cause.alike) for cause in found.causes[:3])
    return Verdict(case, said, found.explained, seconds)
