"""Overlapping tiles, repetition and skew: a plain-Python walk over what is stored is the oracle."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport import api
from qexport.build.dump import dump, plan
from qexport.build.verify import verify
from qexport.core import budget
from qexport.core.operations.registry import operation
from qexport.errors import CheckFailed, QexportError
from qexport.layout.order import OrderFault, parse_order
from qexport.layout.tiling import Tiling
from tests.build.test_verify import reseal
from tests.conftest import cases, make_capture, one_memory_layout

FILL = -1


@st.composite
def overlaps(draw: st.DrawFn) -> tuple[int, int, int, int, int | None]:
    """The size of an axis, the tile, the neighbours before and behind it, and the tiles where they are given."""
    size, step = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    before, after = draw(st.sampled_from([(0, 1), (0, 2), (1, 0), (1, 1), (2, 1), (0, 5)]))
    least = max(1, math.ceil((size if before else size - after) / step))
    return size, step, before, after, draw(st.sampled_from([None, least, least + 1]))


def window_text(name: str, before: int, after: int) -> str:
    return f"{before}+" * (before > 0) + name + f"+{after}" * (after > 0)


@settings(max_examples=cases(150))
@given(overlaps(), overlaps(), st.booleans(), st.booleans())
def test_tiles_hold_their_neighbours_and_the_fill_beyond_the_edge(
    rows: tuple[int, int, int, int, int | None],
    cols: tuple[int, int, int, int, int | None],
    later: bool,
    backwards: bool,
) -> None:
    array = {"row": rows[1], "col": cols[1]}
    array |= {name: tiles for name, (*_, tiles) in (("ty", rows), ("tx", cols)) if tiles is not None}
    terms = [f"(t{axis} {window_text(name, before, after)})"
             for axis, name, (_, _, before, after, _) in (("y", "row", rows), ("x", "col", cols))]  # fmt: skip
    stages = f"n ic iy ix -> n ic (iy)={terms[0]} (ix)={terms[1]}" if later else f"n ic {' '.join(terms)}"
    tilde = "~" * backwards
    text = f"{stages} -> | n {tilde}ty tx ic | {tilde}row col"
    shape = (2, 2, rows[0], cols[0])
    order = parse_order(text, "input", sized=array)
    tiling = Tiling(order, shape, array)
    tensor = np.arange(math.prod(shape)).reshape(shape)
    blocks = tiling.tile(tensor, FILL)

    def places(size: int, step: int, before: int, after: int, tiles: int | None) -> list[list[int]]:
        count = tiles or max(1, math.ceil((size if before else size - after) / step))
        return [[tile * step - before + at for at in range(before + step + after)] for tile in range(count)]

    down, across = places(*rows), places(*cols)
    if backwards:
        down = [run[::-1] for run in down[::-1]]
    want = [
        [tensor[n, ic, y, x] if 0 <= y < shape[2] and 0 <= x < shape[3] else FILL for y in run for x in other]
        for n in range(2) for run in down for other in across for ic in range(2)
    ]  # fmt: skip
    np.testing.assert_array_equal(blocks[0], want)
    assert tiling.fill == np.count_nonzero(blocks == FILL)
    np.testing.assert_array_equal(tiling.untile(blocks), tensor)
    assert tiling.unequal_copy(blocks) is None
    for index in itertools.product(*map(range, shape)):
        assert blocks[tiling.place(*index)] == tensor[index]
    for place in np.argwhere(blocks == FILL)[:9].tolist():
        assert tiling.origin(*place) is None


@pytest.mark.parametrize(
    ("order", "size", "tiles"),
    [("row+2", 6, 1), ("row+2", 7, 2), ("row+2", 1, 1), ("1+row+1", 6, 2), ("1+row+1", 4, 1), ("1+row+1", 9, 3)],
)
def test_the_number_of_tiles_is_the_contracts(order: str, size: int, tiles: int) -> None:
    parsed = parse_order(f"n ic (ty {order}) ix -> | n ic ty row ix |", "input")
    assert Tiling(parsed, (1, 1, size, 1), {"row": 4}).sizes["ty"] == tiles


def test_tiles_that_do_not_reach_the_end_are_refused() -> None:
    order = parse_order("n ic (ty row+2) ix -> | n ic ty row ix |", "input")
    with pytest.raises(QexportError, match=r"\(ty row\) reaches 6 elements of the 7 of iy; leave the number of tiles"):
        Tiling(order, (1, 1, 7, 1), {"row": 4, "ty": 1})


@pytest.mark.parametrize(
    ("order", "message", "offset"),
    [
        ("n ic (row+1 ty) ix -> | n ic ty row ix |", "only the tiles of a split's last name have neighbours", 12),
        ("n ic (ty row+0) ix -> | n ic ty row ix |", "'0' neighbours; give a number from 1", 13),
        ("n ic (ty row+x) ix -> | n ic ty row ix |", "'x' neighbours", 13),
        ("n ic (ty 1 row) ix -> | n ic ty row ix |", r"expected '\+' after 1, found 'row'", 11),
        ("n ic (iy+1)=(ty row) ix -> | n ic ty row ix |", "neighbours stand right of the '='", 12),
        ("n ic iy+1 ix -> | n ic iy ix |", r"expected an axis name, found '\+'", 7),
    ],
)
def test_neighbours_that_cannot_be_are_refused_in_their_place(order: str, message: str, offset: int) -> None:
    with pytest.raises(OrderFault, match=message) as caught:
        parse_order(order, "input")
    assert caught.value.offset == offset


@settings(max_examples=cases(100))
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    repeats=st.permutations(["a", "b", "n", "ic", "iy", "ix"]),
    cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    backwards=st.booleans(),
)
def test_an_axis_that_no_stage_has_repeats_every_element(
    shape: tuple[int, ...], repeats: list[str], cuts: list[int], sizes: tuple[int, int], backwards: bool
) -> None:
    groups = [repeats[: cuts[0]], repeats[cuts[0] : cuts[1]], repeats[cuts[1] :]]
    tilde = "~" * backwards
    text = " | ".join(
        " ".join(group if at == 0 else [tilde + axis for axis in group]) for at, group in enumerate(groups)
    )
    array = dict(zip("ab", sizes, strict=True))
    tiling = Tiling(parse_order(f"n ic iy ix -> {text}", "input", sized=array), shape, array)
    tensor = np.arange(math.prod(shape)).reshape(shape)
    blocks = tiling.tile(tensor)
    extent = dict(zip(("n", "ic", "iy", "ix"), shape, strict=True)) | array
    want = []
    for values in itertools.product(*(range(extent[axis]) for axis in repeats)):
        at = dict(zip(repeats, values, strict=True))
        turned = {axis: extent[axis] - 1 - i if backwards and axis not in groups[0] else i for axis, i in at.items()}
        want.append(tensor[turned["n"], turned["ic"], turned["iy"], turned["ix"]])
    np.testing.assert_array_equal(blocks.ravel(), want)
    assert tiling.fill == 0
    np.testing.assert_array_equal(tiling.untile(blocks), tensor)
    assert all(blocks[tiling.place(*index)] == tensor[index] for index in itertools.product(*map(range, shape)))


@settings(max_examples=cases(100))
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    lanes=st.sampled_from(["ic", "~ic", "ix ic", "~ic iy", "j:(iy ic)", "~j:(iy ic)"]),
    last=st.sampled_from(["", "~", "join"]),
    by=st.integers(1, 3),
)
def test_a_skew_delays_each_lane_by_its_index_along_the_last_address_item(
    shape: tuple[int, ...], lanes: str, last: str, by: int
) -> None:
    extent = dict(zip(("n", "ic", "iy", "ix"), shape, strict=True))
    rest = [axis for axis in ("n", "iy", "ix") if axis not in lanes]
    addresses = f"k:({' '.join(rest)})" if last == "join" else " ".join([*rest[:-1], f"{last}{rest[-1]}"])
    text = f"n ic iy ix -> | {addresses} | {lanes}"
    plain = Tiling(parse_order(text, "input"), shape, {})
    tensor = np.arange(math.prod(shape)).reshape(shape)
    flat = plain.tile(tensor)[0]
    run = math.prod(extent[axis] for axis in rest) if last == "join" else extent[rest[-1]]
    want = []
    for start in range(0, len(flat), run):
        for cycle in range(run + (extent["ic"] - 1) * by):
            word = []
            for lane in range(flat.shape[1]):
                (place,) = np.argwhere(tensor == flat[start, lane])
                at = cycle - int(place[1]) * by
                word.append(flat[start + at, lane] if 0 <= at < run else FILL)
            want.append(word)
    tiling = Tiling(parse_order(text, "input").skewed("ic", by), shape, {})
    blocks = tiling.tile(tensor, FILL)
    np.testing.assert_array_equal(blocks[0], want)
    assert tiling.words == len(want)
    assert tiling.fill == np.count_nonzero(blocks == FILL)
    np.testing.assert_array_equal(tiling.untile(blocks), tensor)
    assert all(blocks[tiling.place(*index)] == tensor[index] for index in itertools.product(*map(range, shape)))


@pytest.mark.parametrize(
    ("order", "skew", "message"),
    [
        ("n ic iy ix -> | n iy ix | ic", "ix", "'ix' is not a lane axis of the order; choose one of ic"),
        ("n ic iy ix -> | n iy ix ic |", "ic", "'ic' is not a lane axis of the order; choose one of those"),
        ("n ic iy ix -> n | | iy ix ic", "ic", "no address axis along which words could be delayed"),
    ],
)
def test_a_skew_that_cannot_be_is_refused(order: str, skew: str, message: str) -> None:
    with pytest.raises(OrderFault, match=message):
        parse_order(order, "input").skewed(skew, 1)


# --- in sets --------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "overlap": ("n ic (ty row+2) px -> | n ty ic row | px", {}, {"row": 3}),
    "overlap in files": ("n ic (ty 1+row+1) px -> ty | n ic px | row", {"file": "m{ty}.txt"}, {"row": 4}),
    "repetition": ("n ic py px -> | n rep ic py | px", {}, {"rep": 3}),
    "repetition in files": ("n ic py px -> n rep | ic py | px", {"file": "m{n}_{rep}.txt"}, {"rep": 2}),
    "skew": ("n (it row) py px -> | n it py px | ~row", {"skew": "row", "skew_by": 2}, {"row": 3}),
    "skew over images": ("n (it row) py px -> | it py px n | ~row", {"skew": "row"}, {"row": 3}),
    "skew along images": (
        "n ic py px -> n py (ic px)=(it row) -> py it | n | row", {"skew": "row", "file": "m{py}_{it}.txt"}, {"row": 5}
    ),
}  # fmt: skip


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_gives_the_tensor_back(name: str, zero: int, tmp_path: Path) -> None:
    order, keys, array = LAYOUTS[name]
    capture = make_capture(images=3, in_channels=4, plane=(5, 4))
    zeroed = msgspec.structs.replace(capture.formats.input, zero_point=zero)
    capture = replace(capture, formats=msgspec.structs.replace(capture.formats, input=zeroed))
    layout = one_memory_layout(order, "input_padded", radix="dec", array=array, **keys)
    folder = dump(capture, layout, tmp_path).folder
    assert verify(folder).ok
    entry = api.open(folder).manifest.memories[0]
    assert (entry.skew, entry.skew_by) == (keys.get("skew", ""), keys.get("skew_by", 1))
    padded = np.pad(capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=zero)
    np.testing.assert_array_equal(api.open(folder)["input_padded"], padded)
    stored = sum((folder / file.path).read_text().split().count(str(zero)) for file in entry.files)
    assert stored >= entry.fill > 0 or "repetition" in name or name == "overlap"


@pytest.mark.parametrize("name", ["overlap", "repetition"])
def test_copies_that_differ_are_found(name: str, tmp_path: Path) -> None:
    order, keys, array = LAYOUTS[name]
    layout = one_memory_layout(order, "input_padded", radix="dec", array=array, **keys)
    folder = dump(make_capture(images=1, plane=(5, 4)), layout, tmp_path).folder
    lines = (folder / "m.txt").read_text().split("\n")
    at = 8 * 5 + 1 if name == "overlap" else 49  # a row of the second tile, or of the first copy
    lines[at] = "7 7 7 7 7 7" if lines[at] != "7 7 7 7 7 7" else "1 1 1 1 1 1"
    (folder / "m.txt").write_text("\n".join(lines))
    assert [fault.line for fault in verify(folder).faults if fault.lane == 0] == [at + 1]
    reseal(folder)
    with pytest.raises(CheckFailed, match="memory 'm': the copies of n=0 ic="):
        api.open(folder)["input_padded"]


@pytest.mark.parametrize(
    ("order", "keys", "array"),
    [
        ("n ic iy ix -> | n rep ic iy ix |", {}, {"rep": 1 << 20}),
        ("n ic (ty row+1000000) ix -> | n ic ty row ix |", {}, {"row": 1}),
        ("n ic iy ix -> | n iy ix | ic", {"skew": "ic", "skew_by": 1 << 20}, {}),
    ],
)
def test_what_would_fill_memory_is_refused_before_the_work(
    order: str, keys: dict[str, object], array: dict[str, int]
) -> None:
    layout = one_memory_layout(order, "input", array=array, **keys)
    facts = operation(make_capture(plane=(20, 40)), None)
    with pytest.raises(QexportError, match=f"more than ({budget.ELEMENTS:,}|{budget.STORED:,}); lower"):
        plan(facts, layout, 2)
