"""Where a mistake was made: the part of the memory, the element of the array, the numbers that were solved for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.findings.diagnose import diagnose
from qexport.findings.model import Model
from qexport.findings.words import Actual
from tests.conftest import checked_dump, make_capture
from tests.findings.test_diagnose import came_back, model_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    capture = make_capture(in_channels=12, out_channels=11, plane=(5, 5), images=3, bias=True)
    return checked_dump(capture, "default", tmp_path_factory.mktemp("localised"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return model_of(folder, "accumulator")


def products(model: Model, channel: int, row: int) -> Int64:
    """(n, terms, 5, 5): what row `row` of the array multiplies for an output channel, said with loops."""
    wide = np.pad(model.capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)))
    terms = [
        model.capture.weight[channel, ic, kh, kw] * wide[:, ic, kh : kh + 5, kw : kw + 5]
        for ic in range(row, 12, 8) for kh in range(3) for kw in range(3)
    ]  # fmt: skip
    return np.stack(terms, axis=1)


ELEMENTS: dict[str, tuple[Callable[[Int64], Int64], str]] = {
    "dead": (lambda p: 0 * p, "pe_dead (row 5, column 2)"),
    "bit 3 at 1": (lambda p: p | 8, "pe_product_bit (row 5, column 2, bit 3 at 1)"),
    "bit 0 at 0": (lambda p: p & ~1, "pe_product_bit (row 5, column 2, bit 0 at 0)"),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_the_broken_element_is_named(name: str, folder: Path, model: Model) -> None:
    change, said = ELEMENTS[name]
    values = model.golden.copy()
    for channel in (2, 10):  # both are of column 2
        given = products(model, channel, 5)
        values[:, channel] += (change(given) - given).sum(axis=1)
    found = diagnose(folder, came_back(model, values))
    assert found.explained
    assert str(found.causes[0]) == said, str(found)


def test_one_wrong_product_is_named(folder: Path, model: Model) -> None:
    values = model.golden.copy()
    wide = np.pad(model.capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight = model.capture.weight[3]
    w = int(weight[1].ravel()[np.argmax(np.abs(weight[1]).ravel())])
    for ic in (1, 9):
        for kh in range(3):
            for kw in range(3):
                if weight[ic, kh, kw] == w:
                    values[:, 3] += 16 * (wide[:, ic, kh : kh + 5, kw : kw + 5] == 6)
    found = diagnose(folder, came_back(model, values))
    assert str(found.causes[0]) == f"pe_product_wrong (row 1, column 3, {w} x 6 gives {6 * w + 16})", str(found)


PARTS: dict[str, tuple[Callable[[Int64, Int64], Int64] | None, str]] = {
    "channel": (lambda g, b: put(g, b, np.s_[:, 4]), "only in output channel 4"),
    "image": (lambda g, b: put(g, b, np.s_[1]), "only in image 1"),
    "last row": (lambda g, b: put(g, b, np.s_[:, :, 4]), "only in row 4"),
    "even columns": (lambda g, b: put(g, b, np.s_[:, :, :, ::2]), "only in column 0 and every 2nd behind it"),
    "from a word on": (None, "only in word 37 to the last"),
}  # fmt: skip


def put(golden: Int64, other: Int64, where: object) -> Int64:
    out = golden.copy()
    out[where] = other[where]  # type: ignore[index]
    return out


@pytest.mark.parametrize("name", PARTS)
def test_a_mistake_in_a_part_is_named_with_the_part(name: str, folder: Path, model: Model) -> None:
    part, said = PARTS[name]
    capture = model.capture
    rotated = type(capture)(
        capture.layer, capture.formats, capture.weight[..., ::-1, ::-1].copy(), capture.input, capture.bias
    )
    wrong = Golden(rotated).accumulator
    if part is None:
        blocks = [model.tiling.tile(values) for values in (model.golden, wrong)]
        values = model.tiling.untile(np.concatenate([blocks[0][:, :37], blocks[1][:, 37:]], axis=1))
    else:
        values = part(model.golden, wrong)
    found = diagnose(folder, came_back(model, values))
    assert found.explained, str(found)
    assert (found.causes[0].name, said in found.causes[0].detail) == ("kernel_rotated", True), str(found)


def test_a_part_that_says_too_little_is_no_cause(folder: Path, model: Model) -> None:
    values = model.golden.copy()
    values[0, 4, 2, 2] = Golden(model.capture).accumulator[0, 4, 2, 1]
    found = diagnose(folder, came_back(model, values))
    assert not found.explained


def test_other_weights_are_solved_for(folder: Path, model: Model) -> None:
    capture = model.capture
    weight = capture.weight.copy()
    weight[6, 3] = [[1, -2, 3], [0, 5, -6], [7, 0, 2]]
    other = type(capture)(capture.layer, capture.formats, weight, capture.input, capture.bias)
    found = diagnose(folder, came_back(model, Golden(other).accumulator))
    assert found.causes[0].name == "effective_kernel", str(found)
    assert "input channel 3: [[1, -2, 3], [0, 5, -6], [7, 0, 2]]" in found.causes[0].detail
    weight = capture.weight.copy()
    weight[6, :, 0, 1] = weight[6, :, 2, 1]
    other = type(capture)(capture.layer, capture.formats, weight, capture.input, capture.bias)
    found = diagnose(folder, came_back(model, Golden(other).accumulator))
    assert "tap kh=0 kw=1 has the weights of tap kh=2 kw=1" in found.causes[0].detail, str(found)


STREAMS: dict[str, tuple[Callable[[Int64], Int64], str]] = {
    "lost": (lambda w: np.delete(w, 9, axis=0), "words_lost (word 9)"),
    "lost twice": (lambda w: np.delete(w, [9, 40], axis=0), "words_lost (words 9, 40)"),
    "doubled": (lambda w: np.concatenate([w[:20], w[19:-1]]), "words_doubled (word 20)"),
    "held": (lambda w: np.concatenate([w[:20], w[19:20], w[21:]]), "words_held (word 20)"),
    "every fourth held": (lambda w: np.where((np.arange(len(w)) % 4 == 3)[:, None], np.roll(w, 1, 0), w),
                          "words_held (word 3 and every 4 behind it)"),
    "pairs": (lambda w: w[np.arange(len(w)) ^ 1], "words_swapped (pairs from word 0 and every 2 behind it)"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_words_of_a_stream_are_found_where_they_went(name: str, folder: Path, model: Model) -> None:
    change, said = STREAMS[name]
    words = came_back(model, model.golden).values
    assert len(words) == 150
    given = change(words)
    there = np.arange(150) < len(given)
    given = np.pad(given, ((0, 150 - len(given)), (0, 0)))
    known = np.broadcast_to(there[:, np.newaxis], given.shape)
    found = diagnose(folder, Actual(model.entry, given, known, int((~there).sum()), 0, (), ~there, True))
    assert found.explained, str(found)
    assert str(found.causes[0]).startswith(said), str(found)
