"""The layout notation: a plain-Python walk over every element and the independent decoder are the oracles."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qexport.build.dump import dump
from qexport.core.budget import SIZE
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import AXES
from qexport.errors import QexportError
from qexport.layout.formats.registry import FORMATS
from qexport.layout.memory import Memory
from qexport.layout.order import parse_order
from qexport.layout.tiling import Tiling
from qexport.layout.toml import LayoutError, layout_errors, parse_layout, preset_names
from tests.conftest import cases, checked_dump, cli, fails, make_capture, one_memory_layout
from tests.strategies import captures

TENSORS = sorted(set(Convolution.table) - {"output"})


@dataclass(frozen=True)
class Plan:
    """An order as data: stages of (joined axes, their parts); three groups of (name of a join, axes, backwards)."""

    array: dict[str, int]
    stages: list[list[tuple[list[str], list[str]]]]
    right: list[list[tuple[str, list[str], bool]]]
    file: str

    @property
    def text(self) -> str:
        def split(joined: list[str], parts: list[str], named: bool) -> str:
            whole = f"({' '.join(joined)})=" if named or len(joined) > 1 or joined == ["bit"] else ""
            return joined[0] if joined == parts else f"{whole}({' '.join(parts)})"

        def item(join: str, axes: list[str], backwards: bool) -> str:
            return "~" * backwards + (f"{join}:({' '.join(axes)})" if join else axes[0])

        stages = [" ".join(split(*term, number > 0) for term in stage) for number, stage in enumerate(self.stages)]
        return " -> ".join([*stages, " | ".join(" ".join(item(*term) for term in group) for group in self.right)])

    @property
    def file_axes(self) -> list[str]:
        return [axis for _, axes, _ in self.right[0] for axis in axes]

    def sizes(self, extent: dict[str, int]) -> dict[str, int]:
        sizes = dict(extent)
        for joined, parts in (term for stage in self.stages for term in stage if term[0] != term[1]):
            total = math.prod(sizes[axis] for axis in joined)
            given = {part: self.array[part] for part in parts if part in self.array}
            sizes |= {part: given.get(part, -(-total // math.prod(given.values()))) for part in parts}
        return sizes

    def is_even(self, extent: dict[str, int]) -> bool:
        """Whether every bank, a file axis that runs fastest in its split, gets as many elements as the others."""
        sizes = self.sizes(extent)
        return all(
            math.prod(sizes[axis] for axis in joined) == math.prod(sizes[part] for part in parts)
            for stage in self.stages for joined, parts in stage if parts[-1] in self.file_axes
        )  # fmt: skip

    def places(self, extent: dict[str, int]) -> tuple[list[Int64], dict[str, Int64]]:
        """File, word and lane of every tensor element in C order, and its index along each axis of the order."""
        digit = dict(zip(extent, np.indices(tuple(extent.values())).reshape(len(extent), -1), strict=True))
        sizes = self.sizes(extent)
        for joined, parts in (term for stage in self.stages for term in stage if term[0] != term[1]):
            flat = np.zeros_like(digit[joined[0]])
            for axis in joined:
                flat = flat * sizes[axis] + digit[axis]
            for part in reversed(parts):
                flat, digit[part] = np.divmod(flat, sizes[part])
        places = []
        for group in self.right:
            place = np.zeros_like(next(iter(digit.values())))
            for part, backwards in ((part, backwards) for _, axes, backwards in group for part in axes):
                place = place * sizes[part] + (sizes[part] - 1 - digit[part] if backwards else digit[part])
            places.append(place)
        return places, digit


@st.composite
def plans(draw: st.DrawFn, axes: tuple[str, ...]) -> Plan:
    """A random legal order of these axes in up to three stages; `bit`, when given, comes last."""
    stages: list[list[tuple[list[str], list[str]]]] = []
    array: dict[str, int] = {}
    names, splits = list(axes), 0
    for number in range(draw(st.integers(1, 3))):
        left = names if number == 0 else draw(st.permutations(names))
        stage: list[tuple[list[str], list[str]]] = []
        while left:
            count = draw(st.integers(1, min(3, len(left))))
            joined, left = left[:count], left[count:]
            if count == 1 and (splits == 4 or draw(st.booleans())):
                stage.append((joined, joined))
                continue
            parts = [f"p{number}{len(stage)}{letter}" for letter in "abc"[: draw(st.integers(1, 3))]]
            free = draw(st.sampled_from(parts))
            sizes = st.integers(1, 3) if splits < 2 else st.just(1)
            array |= {part: draw(sizes) for part in parts if part != free}
            splits += 1
            stage.append((joined, parts))
        stages.append(stage)
        names = [part for _, parts in stage for part in parts]
    names = draw(st.permutations(names))
    cuts = sorted(draw(st.tuples(*[st.integers(0, len(names))] * 2)))
    right: list[list[tuple[str, list[str], bool]]] = []
    file = "m"
    for number, group in enumerate([names[: cuts[0]], names[cuts[0] : cuts[1]], names[cuts[1] :]]):
        items: list[tuple[str, list[str], bool]] = []
        while group:
            count = draw(st.integers(1, len(group)))
            item, group = group[:count], group[count:]
            join = f"j{number}{len(items)}" if count > 1 or draw(st.booleans()) else ""
            items.append((join, item, number > 0 and draw(st.booleans())))
            if number == 0:
                fields = [join] if join and draw(st.booleans()) else item
                file += "".join(f"_{{{field}}}" for field in fields)
        right.append(items)
    return Plan(array, stages, right, f"{file}.txt")


@st.composite
def tensors(draw: st.DrawFn) -> tuple[LayerCapture, str, int, Plan]:
    """A capture, one of its tensors, the array's row and a random order of the tensor."""
    capture = draw(captures())
    name = draw(st.sampled_from([name for name in TENSORS if name != "bias" or capture.bias is not None]))
    row = draw(st.integers(1, 4))
    facts = Golden(capture, row).facts
    extent = dict(zip(AXES[name], facts.tensor(name).shape(capture.images), strict=True))
    if draw(st.booleans()):
        extent["bit"] = facts.tensor(name).format.bits
    plan = draw(plans(tuple(extent)))
    sizes = plan.sizes(extent)
    for stage in plan.stages:
        assume(math.prod(sizes[part] for _, parts in stage for part in parts) <= 30_000)
    assume(math.prod(sizes[part] for part in plan.file_axes) <= 100)
    return capture, name, row, plan


@settings(max_examples=cases(150))
@given(tensors())
def test_every_element_lies_where_the_order_says(case: tuple[LayerCapture, str, int, Plan]) -> None:
    capture, name, row, plan = case
    facts = Golden(capture, row).facts
    order = parse_order(plan.text, name)
    shape = facts.tensor(name).shape(capture.images) + ((facts.tensor(name).format.bits,) if order.has_bits else ())
    codes = np.arange(math.prod(shape)).reshape(shape)
    extent = dict(zip(order.tensor_axes, shape, strict=True))
    if not plan.is_even(extent):
        with pytest.raises(QexportError, match="cannot be dealt evenly"):
            Tiling(order, shape, plan.array)
        return
    tiling = Tiling(order, shape, plan.array)
    blocks = tiling.tile(codes, fill=-1)
    places, digit = plan.places(extent)
    np.testing.assert_array_equal(blocks[tuple(places)], codes.ravel())
    assert blocks.shape == (tiling.files, tiling.words, tiling.lanes)
    assert np.count_nonzero(blocks == -1) == tiling.fill == blocks.size - codes.size
    np.testing.assert_array_equal(tiling.untile(blocks), codes)

    indices = list(tiling.file_indices())
    assert len(indices) == tiling.files
    for at in np.linspace(0, codes.size - 1, 20).astype(int):
        file, word, lane = (int(place[at]) for place in places)
        origin = tiling.origin(file, word, lane)
        assert origin == dict(zip(order.tensor_axes, map(int, np.unravel_index(at, shape)), strict=True))
        assert all(indices[file][part] == digit[part][at] for part in plan.file_axes)
    for file, word, lane in np.argwhere(blocks == -1)[:20].tolist():
        assert tiling.origin(file, word, lane) is None


@settings(max_examples=cases(20))
@given(tensors(), st.sampled_from(["hex", "bin", "dec"]))
def test_independent_decoder_reads_every_order(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[LayerCapture, str, int, Plan], radix: str
) -> None:
    capture, name, row, plan = case
    golden = Golden(capture, row)
    assume(golden.accumulator.any())
    order, facts = parse_order(plan.text, name), golden.facts
    shape = facts.tensor(name).shape(capture.images) + ((facts.tensor(name).format.bits,) if order.has_bits else ())
    assume(plan.is_even(dict(zip(order.tensor_axes, shape, strict=True))))
    array = plan.array | ({"row": row} if name == "psum" else {})
    layout = one_memory_layout(plan.text, name, file=plan.file, radix=radix, array=array)
    checked_dump(capture, layout, tmp_path_factory.mktemp("set"))


# --- images one by one ----------------------------------------------------------------------------------------------

PER_IMAGE = [name for name in TENSORS if AXES[name][0] == "n"]


@st.composite
def image_orders(draw: st.DrawFn) -> tuple[str, tuple[int, ...], Plan]:
    """A tensor of up to three images and an order in which `n` is the first file axis or the first address axis."""
    name = draw(st.sampled_from(PER_IMAGE))
    extent = {axis: draw(st.integers(1, 3)) for axis in AXES[name]}
    plan = draw(plans(AXES[name][1:]))
    group = draw(st.integers(0, 1))
    stages = []
    for stage in plan.stages:
        at = 0 if not stages else draw(st.integers(0, len(stage)))
        stages.append([*stage[:at], (["n"], ["n"]), *stage[at:]])
    right = [[("", ["n"], False), *items] if number == group else items for number, items in enumerate(plan.right)]
    plan = replace(plan, stages=stages, right=right)
    assume(math.prod(plan.sizes(extent).values()) <= 30_000 and plan.is_even(extent))
    return name, tuple(extent.values()), plan


@settings(max_examples=cases(100))
@given(image_orders())
def test_images_tiled_one_by_one_follow_each_other(case: tuple[str, tuple[int, ...], Plan]) -> None:
    name, shape, plan = case
    order = parse_order(plan.text, name)
    assert order.streams_images
    codes = np.arange(math.prod(shape)).reshape(shape)
    one = Tiling(order, (1, *shape[1:]), plan.array)
    axis = 0 if "n" in plan.file_axes else 1  # files or words
    together = np.concatenate([one.tile(image[np.newaxis], fill=-1) for image in codes], axis)
    np.testing.assert_array_equal(Tiling(order, shape, plan.array).tile(codes, fill=-1), together)


@pytest.mark.parametrize(
    ("order", "streams"),
    [
        ("n (it row) iy ix -> | n it iy ix | ~row", True),
        ("n (it row) iy ix -> it | n iy ix | row", True),
        ("n ic iy ix -> n ic | iy ix |", True),
        ("n ic iy ix -> n (ic iy ix)=(k lane) -> | n k | lane", True),
        ("n ic iy ix -> ic n | iy ix |", False),  # the files of an image do not follow each other
        ("n ic iy ix -> | ic n iy ix |", False),
        ("n ic iy ix -> | ~n ic iy ix |", False),
        ("n ic iy ix -> | j:(n ic) iy ix |", False),
        ("n ic iy ix -> | j:(n) ic iy ix |", False),
        ("n ic iy ix -> | iy ix | n ic", False),
        ("(n)=(m) ic iy ix -> | m ic iy ix |", False),
        ("(n ic)=(k lane) iy ix -> | k iy ix | lane", False),
        ("n ic iy ix -> (n iy ix ic)=(k lane) -> | k | lane", False),
    ],
)
def test_an_order_says_whether_images_can_be_tiled_one_by_one(order: str, streams: bool) -> None:
    assert parse_order(order, "input").streams_images is streams


def test_a_tensor_without_images_does_not_stream_them() -> None:
    assert not parse_order("oc ic kh kw -> | oc ic kh kw |", "weight").streams_images


# --- overflow, offset, fill, bits -----------------------------------------------------------------------------------

EACH = "oc ic kh kw -> | oc ic kh kw |"


def four_weights() -> LayerCapture:
    capture = make_capture(in_channels=2, out_channels=2, kernel=(1, 1), padding=(0, 0, 0, 0))
    return replace(capture, weight=np.array([-8, -5, 3, 7]).reshape(2, 2, 1, 1))


@pytest.mark.parametrize(
    ("order", "keys", "words"),
    [
        (EACH, {}, ["-8", "-5", "3", "7"]),
        (EACH, {"bits": 3, "overflow": "wrap"}, ["0", "3", "3", "-1"]),
        (EACH, {"bits": 3, "overflow": "saturate"}, ["-4", "-4", "3", "3"]),
        (EACH, {"signed": False, "overflow": "wrap"}, ["8", "11", "3", "7"]),
        (EACH, {"signed": False, "overflow": "saturate"}, ["0", "0", "3", "7"]),
        (EACH, {"bits": 8, "offset": 100}, ["92", "95", "103", "107"]),
        (EACH, {"offset": 1, "overflow": "wrap"}, ["-7", "-4", "4", "-8"]),
        (EACH, {"offset": -1, "overflow": "saturate"}, ["-8", "-6", "2", "6"]),
        (EACH, {"signed": False, "offset": 8}, ["0", "3", "11", "15"]),
        ("(oc ic)=(it row) kh kw -> | it | row kh kw", {}, ["-8 -5 3", "7 0 0"]),
        ("(oc ic)=(it row) kh kw -> | it | ~row kh kw", {"bits": 8, "offset": 100}, ["103 95 92", "100 100 107"]),
        ("(oc ic)=(it row) kh kw -> | ~it | row kh kw", {"offset": 9, "overflow": "saturate"}, ["7 7 7", "1 4 7"]),
        ("oc ic kh kw bit -> | oc | ic kh kw bit", {}, ["1 0 0 0 1 0 1 1", "0 0 1 1 0 1 1 1"]),
        ("oc ic kh kw bit -> | oc ic kh kw | ~bit", {}, ["0 0 0 1", "1 1 0 1", "1 1 0 0", "1 1 1 0"]),
    ],
)
def test_stored_words_by_hand(tmp_path: Path, order: str, keys: dict[str, Any], words: list[str]) -> None:
    layout = one_memory_layout(order, radix="dec", array={"row": 3} if "row" in order else {}, **keys)
    folder = checked_dump(four_weights(), layout, tmp_path)
    assert (folder / "m.txt").read_text().splitlines() == words


@pytest.mark.parametrize(
    ("keys", "value", "remedy"),
    [
        ({"bits": 3}, "-8 at oc=0 ic=0 kh=0 kw=0 does not fit 3 signed bits", {"bits": 4}),
        ({"offset": 2}, "9 at oc=1 ic=1 kh=0 kw=0 does not fit 4 signed bits", {"bits": 5}),
        ({"offset": -3}, "-11 at oc=0 ic=0 kh=0 kw=0 does not fit 4 signed bits", {"bits": 5}),
        ({"signed": False, "offset": 9}, "16 at oc=1 ic=1 kh=0 kw=0 does not fit 4 unsigned bits", {"bits": 5}),
        ({"signed": False}, "-8 at oc=0 ic=0 kh=0 kw=0 does not fit 4 unsigned bits", {"bits": 4, "signed": True}),
    ],
)
def test_code_that_does_not_fit_names_its_index_and_the_bits_needed(
    tmp_path: Path, keys: dict[str, Any], value: str, remedy: dict[str, Any]
) -> None:
    with pytest.raises(QexportError) as caught:
        dump(four_weights(), one_memory_layout(EACH, **keys), tmp_path)
    advice = " and ".join(f"{key} = {str(needed).lower()}" for key, needed in remedy.items())
    assert f"memory 'm': {value}; give it {advice}, or overflow" in str(caught.value)
    checked_dump(four_weights(), one_memory_layout(EACH, **(keys | remedy)), tmp_path)


def test_bits_of_a_code_wider_than_the_element_are_refused() -> None:
    """A set of schema 1 may say fewer bits than a sum has; the default holds all."""
    order = parse_order("n oc oy ox bit -> | n oc oy ox | bit", "accumulator")
    memory = Memory("m", "accumulator", order, "m.txt", "hex")
    codes = np.full((1, 1, 1, 2), 40_000)
    with pytest.raises(QexportError, match=r"memory 'm': 40000 at n=0 oc=0 oy=0 ox=0 does not fit 16 signed bits"):
        memory.elements(codes, IntFormat(16, True))


@pytest.mark.parametrize(
    ("order", "array", "words"),
    [
        ("(oc ic)=(a b) kh kw -> | a | b kh kw", {"a": 2, "b": 2}, ["-8 -5", "3 7"]),
        ("(oc ic)=(a b) kh kw -> | a | b kh kw", {"a": 3, "b": 3}, ["-8 -5 3", "7 0 0", "0 0 0"]),
        ("(oc ic)=(a b) kh kw -> | b | a kh kw", {"a": 2}, ["-8 3", "-5 7"]),
    ],
)
def test_sizes_come_from_the_array(tmp_path: Path, order: str, array: dict[str, int], words: list[str]) -> None:
    folder = checked_dump(four_weights(), one_memory_layout(order, radix="dec", array=array), tmp_path)
    assert (folder / "m.txt").read_text().splitlines() == words


def test_split_that_does_not_cover_its_axis_is_refused(tmp_path: Path) -> None:
    layout = one_memory_layout("(oc ic)=(a b) kh kw -> | a b kh kw |", array={"a": 1, "b": 3})
    with pytest.raises(QexportError, match=r"\(a b\) holds 3 elements of the 4 of oc ic"):
        dump(four_weights(), layout, tmp_path)


@pytest.mark.parametrize(
    ("order", "array", "message"),
    [
        (  # 4 weights of 1x1 taps to 3 banks
            "(oc ic)=(k bank) kh kw -> bank | k kh kw |", {"bank": 3},
            "the 4 elements of oc ic cannot be dealt evenly to 3 files 'bank'; give 'bank' a size that divides 4",
        ),
        (
            "oc (it row) kh kw -> (oc it kh kw)=(k bank) row -> bank | k | row", {"bank": 3, "row": 2},
            "the 2 elements of oc it kh kw cannot be dealt evenly to 3 files 'bank'; give 'bank' a size that divides 2",
        ),
        ("oc (it row) kh kw -> row | oc it kh kw |", {"row": 4}, "the 2 elements of ic cannot be dealt evenly to 4"),
        ("(oc ic)=(k half) kh kw -> j:(half k) | kh kw |", {"half": 3}, "cannot be dealt evenly to 3 files 'half'"),
    ],
)  # fmt: skip
def test_banks_that_do_not_divide_are_refused(tmp_path: Path, order: str, array: dict[str, int], message: str) -> None:
    file = "m" + "".join(f"_{{{axis}}}" for axis in ("bank", "row", "j") if axis in order.split("->")[-1].split("|")[0])
    with pytest.raises(QexportError) as caught:
        dump(four_weights(), one_memory_layout(order, file=file, array=array), tmp_path)
    assert order in str(caught.value)
    assert message in str(caught.value)


def test_the_remedy_for_banks_that_do_not_divide_helps(tmp_path: Path) -> None:
    order = "(oc ic)=(k bank) kh kw -> bank | k kh kw |"
    with pytest.raises(QexportError, match=re.escape("(oc ic)=(k slot) -> k (slot)=(bank) with slot = 3 in [array]")):
        dump(four_weights(), one_memory_layout(order, file="m{bank}", array={"bank": 3}), tmp_path)
    remedied = "(oc ic)=(k slot) kh kw -> k (slot)=(bank) kh kw -> bank | k kh kw |"
    layout = one_memory_layout(remedied, file="m{bank}", radix="dec", array={"slot": 3})
    folder = checked_dump(four_weights(), layout, tmp_path)
    assert [(folder / f"m{bank}").read_text().split() for bank in range(3)] == [["-8", "7"], ["-5", "0"], ["3", "0"]]


@pytest.mark.parametrize(
    ("order", "tensor", "array", "axis"),
    [
        ("n (it row) py px -> | n it py px | row", "input_padded", {"row": 16_385}, "row"),  # 4 bits each
        ("n ic iy ix -> | n | ic iy ix", "input", {}, "ix"),
    ],
)
def test_word_of_more_than_65536_bits_is_refused(
    tmp_path: Path, order: str, tensor: str, array: dict[str, int], axis: str
) -> None:
    capture = make_capture(plane=(20, 200), images=1)
    with pytest.raises(QexportError, match=rf"more than 65536, because lane axis '{axis}' has size \d+; lower it, or"):
        dump(capture, one_memory_layout(order, tensor, array=array), tmp_path)


@pytest.mark.whole
def test_word_of_65536_bits_is_written(tmp_path: Path) -> None:
    layout = one_memory_layout("n (it row) iy ix -> | n it iy ix | row", "input", array={"row": 16_384})
    folder = checked_dump(make_capture(plane=(3, 3), images=1), layout, tmp_path)
    assert [len(line) for line in (folder / "m.txt").read_text().splitlines()] == [16_384] * 9


@pytest.mark.parametrize(("tensor", "order"), [("bias", "oc -> | oc |"), ("output", "n oc oy ox -> | n oc oy ox |")])
def test_tensor_that_the_layer_lacks_is_refused_unless_optional(tmp_path: Path, tensor: str, order: str) -> None:
    capture = make_capture(relu=False)
    with pytest.raises(QexportError, match=f"tensor '{tensor}': layer features.33 does not have it.*optional = true"):
        dump(capture, one_memory_layout(order, tensor), tmp_path)
    optional = one_memory_layout(order, tensor, optional=True)
    weights = one_memory_layout("oc ic kh kw -> | oc ic kh kw |", file="weight.txt").memories
    folder = checked_dump(capture, replace(optional, memories=optional.memories + weights), tmp_path)
    assert not (folder / "m.txt").exists()


def test_files_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    capture = make_capture(in_channels=12, out_channels=12, kernel=(1, 1), padding=(0, 0, 0, 0))
    with pytest.raises(QexportError, match=r"'m110\.txt'"):
        dump(capture, one_memory_layout("oc ic kh kw -> oc ic | kh kw |", file="m{oc}{ic}.txt"), tmp_path)


# --- errors ---------------------------------------------------------------------------------------------------------

GOOD = """\
name = "good"

[array]
row = 8

[[memory]]
name   = "weight"
tensor = "weight"
order  = "oc (it row) kh kw -> it | oc kij:(kh kw) | ~row"
file   = "weight_{it}.txt"
radix  = "bin"

[[memory]]
name   = "input"
tensor = "input"
order  = "n ic iy ix -> | n ic iy ix |"
file   = "input.txt"
radix  = "hex"
bits   = 8
header = ["# input"]
"""
INPUT = 'name   = "input"'
LEFT, RIGHT = "oc (it row) kh kw ->", "-> it | oc kij:(kh kw) | ~row"

# ^ stands before the culprit and is taken out.
ERRORS: dict[str, tuple[str, str, str]] = {
    "not TOML": ("row = 8", "row = ^eight", "not TOML"),
    "not TOML: text not closed": ('"hex"', '"hex^', "not TOML"),
    "unknown key at the top": ('name = "good"', 'name = "good"\n^title = 3', "unknown key 'title'"),
    "unknown table": ("[array]", "^[arrays]\n[array]", "unknown key 'arrays'"),
    "unknown array of tables": ("[[memory]]\n" + INPUT, "^[[memroy]]\n" + INPUT, "unknown key 'memroy'"),
    "unknown key of a memory": ("bits   = 8", "^bitz = 8", "unknown key 'bitz'"),
    "key of another type": ("bits   = 8", "bits = '^8'", "bits: '8'"),
    "no name": ('name = "good"\n\n', "^", "name: give the layout a name"),
    "name no text": ('"good"', "^3", "name: 3 is not text; write it in quotes"),
    "empty name": ('"good"', '"^"', "name: is empty"),
    "name with a line end": ('"good"', r'"^go\nod"', r"name: 'go\nod' has a line end"),
    "name with a control character": ('"good"', r'"^go\u0007od"', "control character"),
    "name of a memory with a line end": ('name   = "input"', r'name = "^in\nput"', r"name: 'in\nput' has a line end"),
    "name of a memory with a digit first": ('name   = "input"', 'name = "^3d"', "'3d' does not make a Verilog name"),
    "empty name of a memory": ('name   = "input"', 'name = "^ "', "name: is empty"),
    "missing key": (f'[[memory]]\n{INPUT}\ntensor = "input"', "^[[memory]]\n" + INPUT, "lacks the key 'tensor'"),
    "unknown radix": ('"hex"', '"^octal"', "unknown radix 'octal'"),
    "unknown overflow": ("bits   = 8", 'overflow = "^clip"', "unknown overflow 'clip'"),
    "name that no tensor can have": ('tensor = "input"', 'tensor = "^in put"', "tensor: 'in put' names no tensor"),
    "unknown axis left": (LEFT, "oc (it row) kh ^kx ->", "axis 'kx'"),
    "unknown axis right": (RIGHT, "-> it | oc kh ^kx | ~row", "axis 'kx' is unknown"),
    "axis missing left": (LEFT, "oc (it row) kh ^->", "axis 'kw' is missing left"),
    "axis missing right": (RIGHT + '"', '-> it | oc kh | ~row^"', "axis 'kw' is missing right"),
    "axis repeated left": (LEFT, "oc (row ^row) kh kw ->", "axis 'row' is there already"),
    "tensor's axis repeated left": (LEFT, "oc (it row) kh ^kh ->", "axis 'kh'"),
    "axis too many left": (LEFT, "oc (it row) kh kw bit ^n ->", "axis 'n'"),
    "axis repeated right": (RIGHT, "-> it | oc kij:(kh kw) | ~row ^oc", "axis 'oc' is repeated right"),
    "axis repeated in a join": (RIGHT, "-> it | oc kij:(kh kw ^kh) | ~row", "axis 'kh' is repeated right"),
    "split part with an axis's name": (LEFT, "oc (^kh row) kh kw ->", "axis 'kh'"),
    "split after the last axis": (LEFT, "oc (it row) kh kw (^a b) ->", "no axis left to split"),
    "join with an axis's name": (RIGHT, "-> it | oc ^row:(kh kw) | ~row", "join 'row'"),
    "join repeated": (RIGHT, "-> it | j:(oc kh) ^j:(kw) | ~row", "join 'j' is repeated"),
    "no arrow": (LEFT + RIGHT[2:], "oc ic kh kw | oc ic kh kw |^", "no arrow"),
    "group before the last arrow": (RIGHT, "-> it ^| oc kij:(kh kw) -> ~row", "'|' stands right of"),
    "direction before the last arrow": (RIGHT, "-> it oc kh kw ^~row -> it | oc kh kw | row", "'~' stands right of"),
    "join before the last arrow": (RIGHT, "-> it oc ^kij:(kh kw) row -> it | oc | row", "axis 'kij'"),
    "axis unknown in a stage": (RIGHT, "-> it ^ic kh kw oc row -> it | oc kh kw | row", "axis 'ic' is unknown"),
    "axis missing in a stage": (RIGHT, "-> it oc kh row ^-> it | oc kh | row", "axis 'kw' is missing left"),
    "axis repeated in a stage": (RIGHT, "-> it oc kh kw row ^kh -> it | oc kh kw | row", "axis 'kh' is repeated"),
    "axis repeated in a join of a stage": (RIGHT, "-> (kh kw ^kh)=(a b) -> a | b |", "axis 'kh' is repeated"),
    "part of a stage with an earlier name": (
        RIGHT, "-> it oc row (kh kw)=(a ^ic) -> it | oc a ic | row", "axis 'ic' is there already"
    ),
    "part of a stage with a name of the stage": (RIGHT, "-> it oc kh kw (row)=(^it) -> |||", "axis 'it' is there"),
    "split of a stage without its axes": (RIGHT, "-> it oc row (^a b) kw -> it | a b | row", "(axes)=(parts)"),
    "split of a stage without parts": (RIGHT, "-> it oc row (kh kw)= ^a -> it | oc a | row", "expected '(' after '='"),
    "stage that is empty": (RIGHT, "-> ^-> it | oc kh kw | row", "axis 'oc' is missing left"),
    "axis of an earlier stage right": (
        RIGHT, "-> oc it row (kh kw)=(kij) -> it | oc ^kh | row", "axis 'kh' is unknown; left of the arrow stand oc"
    ),
    "size not given in a stage": (
        RIGHT, "-> it oc row (kh kw)=(a ^b) -> it | oc a b | row", "size of axis 'b' is not given"
    ),
    "one group": (RIGHT + '"', '-> it oc kij:(kh kw) row^"', "three"),
    "two groups": (RIGHT + '"', '-> it | oc kij:(kh kw) row^"', "three"),
    "four groups": (RIGHT, "-> it | oc | kij:(kh kw) ^| ~row", "three"),
    "parenthesis not closed left": (LEFT, "oc (it row ^-> ", "'->'"),
    "parenthesis not closed right": (RIGHT, "-> it | oc kij:(kh kw ^| ~row", "'|'"),
    "parenthesis not closed at the end": (RIGHT + '"', '-> it | oc | ~row kij:(kh kw^"', "parenthesis is not closed"),
    "empty parenthesis": (LEFT, "oc (^) kh kw ->", "')'"),
    "stray sign": (LEFT, "oc (it row) kh ^@ kw ->", "'@'"),
    "file axis backwards": (RIGHT, "-> ^~it | oc kij:(kh kw) | row", "'~'"),
    "size not given": (
        LEFT + RIGHT[2:], "oc (it ^rows) kh kw -> it | oc kij:(kh kw) | ~rows", "size of axis 'rows' is not given"
    ),
    "size zero": ("row = 8", "row = ^0", "size 0 of 'row'"),
    "size negative": ("row = 8", "row = ^-8", "size -8 of 'row'"),
    "size not an integer": ("row = 8", "row = ^8.0", "size 8.0 of 'row'"),
    "size a truth": ("row = 8", "row = ^true", "size True of 'row'"),
    "size a text": ("row = 8", 'row = "^8"', "size '8' of 'row'"),
    "size of a tensor's axis": ("row = 8", "row = 8\noc = ^8", "'oc' is a tensor's axis"),
    "size that makes a word too wide": (
        "row = 8", "row = ^1000000", "memory 'weight': a word would have 1000000 bits, more than 65536"
    ),
    "two memories with one name": ('name   = "input"', 'name = "^weight"', "name: 'weight' is taken by memory 1"),
    "two memories with one Verilog name": (INPUT, 'name = "^WEIGHT"', "name: 'WEIGHT' is taken by memory 1"),
    "two memories with one file": (
        'order  = "n ic iy ix -> | n ic iy ix |"\nfile   = "input.txt"',
        'order = "n (it row) iy ix -> it | n iy ix | row"\nfile = "^weight_{it}.txt"',
        "file: 'weight_{it}.txt' is taken by memory 1",
    ),
    "file lacks a file axis": (
        '-> it | oc kij:(kh kw) | ~row"\nfile   = "weight_{it}.txt"',
        '-> row | oc kij:(kh kw) it |"\nfile = "^weight.txt"',
        "lacks the file axis '{row}'; two files would have one name",
    ),
    "file has an unknown field": ('"weight_{it}.txt"', '"weight_{it}^{ot}.txt"', "'{ot}' is not a file axis"),
    "file has an address axis": ('"weight_{it}.txt"', '"weight_{it}^{oc}.txt"', "'{oc}' is not a file axis"),
    "file has a lone brace": ('"weight_{it}.txt"', '"weight_{it}^{.txt"', "brace"),
    "file is the manifest": ('"input.txt"', '"^manifest.json"', "'manifest.json'"),
    "file is the sums": ('"input.txt"', '"^SHA256SUMS"', "'SHA256SUMS'"),
    "file is the capture": ('"input.txt"', '"^capture.safetensors"', "'capture.safetensors'"),
    "file is the manifest in other letters": ('"input.txt"', '"^Manifest.json"', "own manifest.json"),
    "file is the sums in other letters": ('"input.txt"', '"^sha256sums"', "own SHA256SUMS"),
    "file is of the bench": ('"input.txt"', '"^Makefile"', "own Makefile"),
    "file is a core": ('"input.txt"', '"^mine.core"', "'mine.core' is a name of the set's bench"),
    "file is of assertions": ('"input.txt"', '"^a_axis_checks.sv"', "'a_axis_checks.sv' is a name of the set's bench"),
    "file is a bench": ('"input.txt"', '"^tb_mine.sv"', "'tb_mine.sv' is a name of the set's bench"),
    "file is too long": ('"input.txt"', '"^' + "x" * 201 + '"', "is longer than 200 characters"),
    "file lies under the manifest": ('"input.txt"', '"^manifest.json/x"', "manifest.json"),
    "file leaves the folder": ('"input.txt"', '"^../x"', "'../x'"),
    "file leaves the folder from within": ('"input.txt"', '"^a/../../x"', "'a/../../x'"),
    "file is absolute": ('"input.txt"', '"^/x"', "'/x'"),
    "file has a backslash": ('"input.txt"', "'^a\\b'", "'a\\b'"),
    "file is empty": ('"input.txt"', '"^"', "''"),
    "file with a shell's quotes": ('"input.txt"', '"^a`id`.txt"', "'a`id`.txt'"),
    "file with a shell's command": ('"input.txt"', '"^$(id).txt"', "'$(id).txt'"),
    "file ends with a blank": ('"input.txt"', '"^a/b "', "'b '"),
    "file with a comment of make": ('"input.txt"', '"^a#b.txt"', "'a#b.txt'"),
    "file with a semicolon": ('"input.txt"', '"^a;b.txt"', "'a;b.txt'"),
    "file like an option": ('"input.txt"', '"^-rf"', "'-rf'"),
    "file that is hidden": ('"input.txt"', '"^.a/b.txt"', "'.a'"),
    "file with other letters": ('"input.txt"', '"^\u00e4.txt"', "in letters, digits, blanks"),
    "file is a folder": ('"input.txt"', '"^a/"', "'a/'"),
    "bits 0": ("bits   = 8", "bits = ^0", "bits: 0 is outside 1..64"),
    "bits 65": ("bits   = 8", "bits = ^65", "bits: 65 is outside 1..64"),
    "offset too large": ("bits   = 8", f"offset = ^{2**60}", "offset"),
    "header with a newline": ('header = ["# input"]', 'header = ^["# in\\nput"]', "header: '# in\\nput'"),
    "header where the format has no place for one": (
        'radix  = "hex"\nbits   = 8\nheader = ["# input"]', 'radix = "npz"\nheader = ^["# input"]',
        "a file of radix 'npz' has no place for one; take the key out",
    ),
    "header that is not a comment of the format": (
        'radix  = "hex"\nbits   = 8\nheader = ["# input"]', 'radix = "coe"\nheader = ^["# input"]',
        "'# input' is not a comment of radix 'coe'; begin it with ;",
    ),
    "header of numbers": ('header = ["# input"]', "header = ^[1]", "header: 1"),
}  # fmt: skip


def marked(text: str) -> tuple[str, tuple[int, int]]:
    """The text without its mark; line and column of the mark, from 1."""
    before, _, after = text.partition("^")
    return before + after, (before.count("\n") + 1, len(before) - before.rfind("\n"))


@pytest.mark.parametrize(("old", "new", "message"), list(ERRORS.values()), ids=list(ERRORS))
def test_layout_error_names_the_thing_and_its_place(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    text, place = marked(GOOD.replace(old, new))
    with pytest.raises(LayoutError) as caught:
        parse_layout(text, "my.toml")
    error = caught.value
    assert message in error.message
    assert (error.line, error.column) == place
    assert error.source == text.split("\n")[place[0] - 1]
    assert str(error) == f"layout my.toml:{error.line}:{error.column}: {error.message}"
    assert len(str(error).splitlines()) == 1
    assert len(layout_errors(text, "my.toml")) == 1


@pytest.mark.parametrize(
    ("marked_text", "message"),
    [
        ('name = "x"\n^[memory]\nname = "m"\n', "write double brackets, [[memory]]"),
        ('name = "x"\nmemory = ^3\n', "[[memory]]"),
        ('name = "x"\narray = ^8\n' + GOOD[GOOD.index("[[memory]]\n" + INPUT) :], "[array]"),
        ('^name = "x"\n', "at least one [[memory]]"),
    ],
)
def test_memory_and_array_of_the_wrong_kind_are_refused(marked_text: str, message: str) -> None:
    text, place = marked(marked_text)
    (error,) = layout_errors(text, "my.toml")
    assert message in error.message
    assert (error.line, error.column) == place


def check(tmp_path: Path, text: str) -> tuple[Path, Result]:
    path = tmp_path / "my.toml"
    path.write_text(text)
    return path, cli("layout", "check", path)


def test_layout_check_accepts_a_good_file(tmp_path: Path) -> None:
    path, result = check(tmp_path, GOOD)
    assert (result.exit_code, result.output) == (0, f"{path}: ok\n")


def test_psum_tiles_may_be_split_and_joined(tmp_path: Path) -> None:
    order = "n (outer inner) kh kw oc py px -> | n outer inner kh kw py px | oc"
    checked_dump(make_capture(in_channels=20), one_memory_layout(order, "psum", array={"row": 4, "inner": 2}), tmp_path)


def test_layout_check_reports_every_error_with_a_caret(tmp_path: Path) -> None:
    text = GOOD.replace("row = 8", "row = 0").replace("~row", "~rwo").replace('"hex"', '"octal"')
    path, result = check(tmp_path, text)
    fails(result, str(path), "3 error(s)")
    assert result.stdout.splitlines()[:3] == [
        f"{path}:4:7: array: size 0 of 'row' must be a whole number above 0, up to {SIZE}",
        "    row = 0",
        "          ^",
    ]
    assert result.stdout.splitlines()[3:] == [
        f"{path}:9:55: order: axis 'rwo' is unknown; left of the arrow stand oc it row kh kw",
        '    order  = "oc (it row) kh kw -> it | oc kij:(kh kw) | ~rwo"',
        "    " + " " * 54 + "^",
        f"{path}:18:11: unknown radix 'octal'; choose one of {', '.join(FORMATS)}",
        '    radix  = "octal"',
        "              ^",
    ]


@pytest.mark.parametrize("line", ['\tradix\t=\t"octal"', 'radix = "octal" # :warning: [red]'])
def test_layout_check_shows_the_line_as_it_stands(tmp_path: Path, line: str) -> None:
    _, result = check(tmp_path, GOOD.replace('radix  = "hex"', line))
    _, source, caret = result.stdout.splitlines()
    assert source.split() == line.split()
    assert source.index("octal") == caret.index("^")


def test_layout_check_of_a_missing_file_says_so(tmp_path: Path) -> None:
    fails(cli("layout", "check", tmp_path / "none.toml"), "none.toml", *preset_names())


def test_layout_check_of_other_bytes_says_so(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"name = '\xff'\n")
    fails(cli("layout", "check", tmp_path / "my.toml"), "my.toml", "UTF-8", "byte 8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("~row", "~rwo", "my.toml:9:55: order: axis 'rwo'"), ("row = 8", f"row = {10**14}", "row")],
    ids=["unknown axis", "size beyond all memory"],
)
def test_dump_with_a_bad_layout_leaves_nothing(tmp_path: Path, old: str, new: str, message: str) -> None:
    capture, layout = tmp_path / "c.safetensors", tmp_path / "my.toml"
    capture.write_bytes(make_capture().to_bytes())
    layout.write_text(GOOD.replace(old, new))
    fails(cli("dump", "--capture", capture, "--layout", layout, "--out", tmp_path / "o"), message)
    assert not (tmp_path / "o").exists()


def test_layout_check_of_a_number_beyond_pythons_limit_says_so(tmp_path: Path) -> None:
    _, result = check(tmp_path, GOOD.replace("row = 8", "row = " + "9" * 5000))
    fails(result, "my.toml", "1 error(s)")


def test_a_size_whose_name_is_no_axis_name_is_refused(tmp_path: Path) -> None:
    _, result = check(tmp_path, GOOD.replace("row = 8", 'row = 8\n"my-size" = 3'))
    assert result.exit_code == 2
    assert "'my-size' is not an axis name" in result.stdout


def test_sizes_that_differ_between_memories_are_told_apart_in_the_constants(tmp_path: Path) -> None:
    capture = make_capture(in_channels=32, out_channels=16, groups=2)
    text = (checked_dump(capture, "ws8x8", tmp_path) / "params.vh").read_text()
    assert "localparam ACTIVATION_IT = 4;" in text  # tiles of all input channels
    assert "localparam WEIGHT_IT = 2;" in text  # tiles of one group's
    assert "localparam IT " not in text
    assert "localparam ROW = 8;" in text


def test_names_that_give_one_constant_twice_are_refused(tmp_path: Path) -> None:
    layout = one_memory_layout("oc (m_words row) kh kw -> | oc m_words kh kw | row")
    with pytest.raises(QexportError, match="names of axes and memories give the constant M_WORDS twice; rename one"):
        dump(make_capture(), layout, tmp_path)
