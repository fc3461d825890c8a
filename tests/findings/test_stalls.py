"""What stalls alone do to words, told from the words of a run without stalls; the set's own words are not needed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qexport.core.intformat import Int64
from qexport.findings.stalls import diagnose_stalled
from qexport.findings.words import Actual
from tests.conftest import checked_dump, cli, make_capture
from tests.findings.test_diagnose import came_back, model_of, write

CHANGES: dict[str, tuple[Callable[[Int64], Int64], str]] = {
    "lost": (lambda w: np.delete(w, [5, 23], axis=0), "words_lost (words 5, 23)"),
    "doubled": (lambda w: np.concatenate([w[:12], w[11:-1]]), "words_doubled (word 12)"),
    "repeated": (lambda w: np.concatenate([w[:12], w[11:12], w[13:]]), "words_held (word 12)"),
    "late from a stall on": (lambda w: np.concatenate([w[:30], w[29:-1]]), "words_doubled (word 30)"),
    "pairs": (lambda w: w[np.r_[0:10, 11, 10, 13, 12, 14 : len(w)]], "words_swapped (pairs from words 10, 12)"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    capture = make_capture(in_channels=4, out_channels=8, plane=(5, 5), images=2)
    return checked_dump(capture, "default", tmp_path_factory.mktemp("stalls"))


def words(folder: Path, values: Int64) -> Actual:
    """So many words, whose values need not be those of the set."""
    model = model_of(folder, "accumulator")
    count = len(came_back(model, model.golden).values)
    there = np.arange(count) < len(values)
    full = np.pad(values, ((0, count - len(values)), (0, 0)))
    known = np.broadcast_to(there[:, np.newaxis], full.shape)
    return Actual(model.entry, full, known, int((~there).sum()), 0, (), ~there, True)


@pytest.mark.parametrize("right", [True, False], ids=["right without stalls", "wrong without stalls"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_stream_s_fault_is_named_whatever_the_words_are(name: str, right: bool, folder: Path) -> None:
    model = model_of(folder, "accumulator")
    change, said = CHANGES[name]
    smooth = came_back(model, model.golden).values
    smooth = smooth if right else smooth[:, ::-1] * 2 + 1  # no hypothesis for the numbers is needed
    changed, found = diagnose_stalled(folder, words(folder, smooth), words(folder, change(smooth)))
    assert changed
    assert found.explained
    assert str(found.causes[0]).startswith(said), str(found)
    assert ("without stalls all words are right" in found.findings) == right


def test_words_that_stalls_leave_as_they_are_are_of_arithmetic(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder, "accumulator")
    same = write(tmp_path / "accumulator.hex", model.entry, came_back(model, model.stored(model.golden * 2)).values)
    result = cli("diagnose", folder, "--actual", same, "--smooth", same)
    assert "stalls change nothing" in result.output
    assert "scale_power_of_two (by 2)" in result.output
    other = tmp_path / "relu.hex"
    other.write_bytes(same.read_bytes())
    refused = cli("diagnose", folder, "--actual", same, "--smooth", other, "--from", 3)
    assert refused.exit_code == 2
