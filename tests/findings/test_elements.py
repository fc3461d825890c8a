"""An element, a column's adder or all multipliers that are broken, in each kind of memory and operation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qexport as qx
from qexport.core.intformat import Int64
from qexport.findings.diagnose import diagnose
from qexport.findings.model import Model
from qexport.findings.words import Actual
from qexport.sets.manifest import read_manifest
from tests.conftest import checked_dump, make_capture
from tests.findings.test_diagnose import came_back, model_of

ROW, COLUMN = 2, 1  # of an array of 4 rows and 4 columns
PSUMS = """name = "psums"
[array]
row = 4
col = 4
[[memory]]
name = "sums"
tensor = "psum"
order = "n it kh kw (ot col) py px -> | n it kh kw ot py px | col"
file = "sums.hex"
radix = "hex"
[[memory]]
name = "accumulator"
tensor = "accumulator"
order = "n (ot col) oy ox -> | n ot oy ox | col"
file = "accumulator.hex"
radix = "hex"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("elements")
    (place / "psums.toml").write_text(PSUMS)
    return checked_dump(make_capture(in_channels=6, out_channels=5, plane=(4, 4), images=2, bias=True),
                        str(place / "psums.toml"), place)  # fmt: skip


def products(model: Model, channel: int, row: int) -> Int64:
    """What a row multiplies for an output channel, (n, tile, tap, y, x), said with loops."""
    wide = np.pad(model.capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight = model.capture.weight
    tiles = [[weight[channel, ic, kh, kw] * wide[:, ic, kh : kh + 4, kw : kw + 4] for kh in range(3) for kw in range(3)]
             for ic in range(row, 6, 4)]  # fmt: skip
    return np.array(tiles).transpose(2, 0, 1, 3, 4)


KINDS: dict[str, tuple[Callable[[Int64], Int64], str]] = {
    "off by 3": (lambda p: p + 3, "row 2, column 1, off by +3 or row 3, column 1, off by +3"),
    "negated": (lambda p: -p, "pe_product_wrong (row 2, column 1, its products negated)"),
    "the sign's bit at 0": (lambda p: p & 0x7F, "pe_product_bit (row 2, column 1, bit 7 at 0, its sign)"),
    "above its sign": (lambda p: p & ~256, "pe_product_bit (row 2, column 1, bit 8 at 0)"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_an_element_gives_is_named(name: str, folder: Path) -> None:
    change, said = KINDS[name]
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    given = products(model, COLUMN, ROW)
    values[:, COLUMN] += (change(given) - given).sum(axis=(1, 2))
    found = diagnose(folder, came_back(model, values))
    assert found.explained
    assert any(said in str(cause) for cause in found.causes), str(found)


def test_a_sum_from_above_that_is_lost_is_named(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    for row in range(ROW):
        values[:, COLUMN] -= products(model, COLUMN, row).sum(axis=(1, 2))
    found = diagnose(folder, came_back(model, values))
    assert str(found.causes[0]) == "pe_sum_lost (row 2, column 1, from above)", str(found)


def test_an_element_is_named_in_psums(folder: Path) -> None:
    model = model_of(folder, "sums")
    values = model.golden.copy()  # n it kh kw oc py px
    wide = np.pad(model.capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for kh in range(3):
        for kw in range(3):
            given = model.capture.weight[COLUMN, ROW, kh, kw] * wide[:, ROW]
            values[:, 0, kh, kw, COLUMN] += (given | 8) - given
    found = diagnose(folder, came_back(model, values))
    assert str(found.causes[0]) == "pe_product_bit (row 2, column 1, bit 3 at 1)", str(found)


@pytest.mark.parametrize(("bit", "held"), [(2, False), (4, True)])
def test_a_bit_of_all_accumulators_is_named(bit: int, held: bool, folder: Path) -> None:
    model = model_of(folder, "accumulator")
    values = np.empty_like(model.golden)
    assert model.capture.bias is not None
    for channel in range(5):
        terms = np.concatenate([products(model, channel, row)[:, :1] for row in range(4)], axis=1)  # of the first tile
        more = np.concatenate([products(model, channel, row)[:, 1:] for row in range(2)], axis=1)
        running = np.full((2, 4, 4), model.capture.bias[channel])
        for step in [*terms.sum(axis=1).swapaxes(0, 1), *more.sum(axis=1).swapaxes(0, 1)]:
            running = (running & ~(1 << bit)) + step if held else (running + step) | 1 << bit
        values[:, channel] = running
    found = diagnose(folder, came_back(model, values))
    said = f"bit {bit} of what it holds at 0" if held else f"bit {bit} at 1"
    assert str(found.causes[0]).startswith(f"pe_sum_bit (all elements, {said}"), str(found)


def test_a_product_bit_that_idle_beats_add_too_is_named(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    for channel in range(5):
        for row in range(4):
            given = products(model, channel, row)
            values[:, channel] += ((given | 2) - given).sum(axis=(1, 2))
        values[:, channel].reshape(2, -1, 2)[...] += [2 * (channel % 4), 4]  # even positions, odd ones
    found = diagnose(folder, came_back(model, values))
    said = "pe_product_bit (all elements, bit 1 at 1, idle beats add to it, too: 0 to 3 of them)"
    assert str(found.causes[0]) == said, str(found)


LEFT, RIGHT = (np.random.default_rng(3).integers(-8, 8, shape) for shape in ((2, 5, 12), (2, 12, 9)))


@pytest.fixture(scope="module")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    capture = qx.capture(input=LEFT, input2=RIGHT, inputs="int4", inputs2="int4", name="m")
    return Path(qx.dump(capture, tmp_path_factory.mktemp("matrices"), layout="matmul").folder)


def element_broken() -> Int64:
    values = LEFT @ RIGHT
    given = LEFT[:, :, 6] * RIGHT[:, 6, np.newaxis, 4]
    values[:, :, 4] += (given | 4) - given
    return values


MATRICES: dict[str, tuple[Callable[[], Int64], str]] = {
    "element": (element_broken, "pe_product_bit (row 6, column 4, bit 2 at 1)"),
    "address": (
        lambda: LEFT @ np.roll(RIGHT.reshape(2, -1), -41, axis=1).reshape(RIGHT.shape),
        "weight_address (of codes of input2 of each image: +41, cyclic)",
    ),
}


def of_matrices(folder: Path, change: Callable[[Int64], Int64]) -> str:
    """The first cause of words of the accumulator."""
    manifest = read_manifest(folder)
    entry = next(memory for memory in manifest.memories if memory.name == "accumulator")
    words = change(entry.tiling(manifest.array).tile(LEFT @ RIGHT)[0])
    return str(diagnose(folder, Actual(entry, words, words == words, 0, 0)).causes[0])


@pytest.mark.parametrize("name", MATRICES)
def test_a_mistake_of_a_matrix_product_is_named(name: str, matrices: Path) -> None:
    values, said = MATRICES[name]
    manifest = read_manifest(matrices)
    tiling = next(memory for memory in manifest.memories if memory.name == "accumulator").tiling(manifest.array)
    assert of_matrices(matrices, lambda words: tiling.tile(values())[0]) == said


@pytest.mark.parametrize(("by", "way"), [(-1, "early by 1"), (3, "late by 3")])
def test_a_late_lane_that_shows_only_fill_is_not_stuck(by: int, way: str, matrices: Path) -> None:
    def late(words: Int64) -> Int64:
        words = words.copy()
        words[:, 1] = np.roll(words[:, 1], by)  # of the last tile it is filled
        return words

    assert of_matrices(matrices, late) == f"skew (results of lane 1 {way}, counted in words, cyclic)"


def stuck(words: Int64) -> Int64:
    words = words.copy()
    words[:, 1] = 5
    return words


def stale(words: Int64) -> Int64:
    return np.repeat(words[::2], 2, axis=0)  # two tiles of p


@pytest.mark.parametrize(
    ("change", "said"),
    [(stuck, "lane_stuck (lane 1 at 5)"), (stale, "output_tile_order (tile 1 shows the tile before it)")],
)
def test_filled_lanes_contradict_no_cause_of_lanes_or_tiles(
    change: Callable[[Int64], Int64], said: str, matrices: Path
) -> None:
    assert of_matrices(matrices, change) == said
