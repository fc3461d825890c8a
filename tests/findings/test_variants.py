"""The listed mistakes with other numbers and in parts, and parts of the results that are constant."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qexport.core.intformat import Int64
from qexport.findings.diagnose import diagnose
from qexport.findings.words import Actual
from tests.conftest import checked_dump, make_capture
from tests.findings.test_diagnose import came_back, model_of

SHAPE = {"in_channels": 4, "out_channels": 8, "plane": (4, 5), "images": 2, "bias": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(make_capture(**SHAPE), "default", tmp_path_factory.mktemp("variants"))  # type: ignore[arg-type]


def conv(folder: Path, weight: Int64 | None = None, codes: Int64 | None = None, right: int = 0, bias: int = 0) -> Int64:
    """The accumulators said with loops; `right`: what stands on the right, `bias`: the bits it is read with."""
    capture = model_of(folder, "accumulator").capture
    w, x = capture.weight if weight is None else weight, capture.input if codes is None else codes
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    wide[:, :, :, 6] = right
    assert capture.bias is not None
    added = capture.bias % (1 << bias) if bias else capture.bias
    taps = [np.einsum("oi,niyx->noyx", w[:, :, kh, kw], wide[:, :, kh : kh + 4, kw : kw + 5])
            for kh in range(3) for kw in range(3)]  # fmt: skip
    return np.sum(taps, axis=0) + added.reshape(-1, 1, 1)


def fetched(folder: Path, addresses: Int64, behind: bool = False) -> Int64:
    """Positions of each plane at other addresses: round it, or on into the next image."""
    codes = model_of(folder, "accumulator").capture.input
    flat = codes.reshape(2, 4, 20)
    if behind:
        return np.concatenate([flat, [flat[1], 0 * flat[1]]], axis=2)[:, :, addresses].reshape(codes.shape)
    return flat[:, :, addresses % 20].reshape(codes.shape)


def displaced(folder: Path, axes: tuple[int, ...], addresses: Int64) -> Int64:
    """The weights, which lie with their axes in this order, from other addresses."""
    turned = model_of(folder, "accumulator").capture.weight.transpose(axes)
    return np.asarray(turned.ravel()[addresses].reshape(turned.shape).transpose(np.argsort(axes)))


def weights(folder: Path, order: list[int]) -> Int64:
    return np.asarray(model_of(folder, "accumulator").capture.weight[:, order])


def of_words(folder: Path, change: Callable[[Int64], None]) -> Int64:
    model = model_of(folder, "accumulator")
    blocks = model.tiling.tile(model.golden).copy()
    change(blocks[0])
    return model.tiling.untile(blocks)


def late(words: Int64) -> None:
    words[2:, 3:5] = words[:-2, 3:5].copy()
    words[:2, 3:5] = 0


def all_late(words: Int64) -> None:
    words[2:] = words[:-2].copy()
    words[:2] = 0


def exchanged(words: Int64) -> None:
    words[11:, [1, 6]] = words[11:, [6, 1]]


def put(at: slice, value: int) -> Callable[[Int64], None]:
    def change(words: Int64) -> None:
        words[at] = value

    return change


def repeated(words: Int64) -> None:
    words[17:] = words[16]


PLACES = np.arange(20)
CASES: dict[str, tuple[Callable[[Path], Int64], str]] = {
    "counter": (
        lambda f: conv(f, codes=fetched(f, PLACES - 3)), "input_address (of positions of each image: -3, cyclic)",
    ),
    "pitch": (
        lambda f: conv(f, codes=fetched(f, PLACES % 5 + PLACES // 5 * 7, True)),
        "input_address (of positions of each image: the pitch of iy is 7, not 5, on into the next)",
    ),
    "weights far off": (
        lambda f: conv(f, displaced(f, (0, 1, 2, 3), np.arange(288) - 97)), "weight_address (of codes: -97, cyclic)",
    ),
    "weights held at the end": (
        lambda f: conv(f, displaced(f, (2, 3, 0, 1), np.minimum(np.arange(288) + 46, 287))),
        "weight_address (of codes in the order kh kw oc ic: +46, held at the end)",
    ),
    "bit": (
        lambda f: conv(f, codes=fetched(f, PLACES & ~2)),
        "input_address (of codes: bit 1 of the address is always 0)",
    ),
    "rows": (lambda f: conv(f, weights(f, [0, 3, 2, 1])), "rows_exchanged (input channels 1 and 3 exchanged)"),
    "copied row": (lambda f: conv(f, weights(f, [0, 1, 0, 3])), "rows_exchanged (input channel 2 has those of 0)"),
    "lanes from a word on": (lambda f: of_words(f, exchanged), "results_exchanged (lanes 1 and 6 exchanged; only in "),
    "all lanes late": (
        lambda f: of_words(f, all_late), "words_shifted (all late by 2, counted in ",
    ),
    "late lanes": (
        lambda f: of_words(f, late), "skew (results of output channels 3, 4 late by 2",
    ),
    "padding on the right": (lambda f: conv(f, right=5), "padding_value (5 on the right)"),
    "narrow bias": (lambda f: conv(f, bias=7), "bias_wrong (cut to 7 bits without sign)"),
    "every sixth word": (
        lambda f: of_words(f, put(slice(3, None, 6), 0)),
        "results_constant (every value is 0, only in word 3 and every 6th behind it)",
    ),
    "words in the middle": (
        lambda f: of_words(f, put(slice(7, 19), -1)), "results_constant (every value is -1, only in word 7 to 18)",
    ),
    "stuck": (
        lambda f: of_words(f, repeated), "results_constant (every word is the same, only in word 17 to the last)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_variant_is_named_with_its_numbers(name: str, folder: Path) -> None:
    given, said = CASES[name]
    model = model_of(folder, "accumulator")
    found = diagnose(folder, came_back(model, given(folder)))
    assert found.explained, str(found)
    assert str(found.causes[0]).startswith(said), str(found)


def test_words_of_the_middle_find_their_place_by_the_mistake(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    turned = conv(folder, model.capture.weight[:, :, ::-1, ::-1])
    words = came_back(model, turned).values[13:24]
    there = np.arange(40) < 11
    full = np.pad(words, ((0, 29), (0, 0)))
    known = np.broadcast_to(there[:, np.newaxis], full.shape)
    found = diagnose(folder, Actual(model.entry, full, known, 29, 0, (), ~there, True))
    assert str(found.causes[0]) == "kernel_rotated", str(found)
    assert "words 13 to 23 of 40 are compared" in found.findings
