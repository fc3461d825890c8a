"""A sample of the faults: no wrong cause is certain, results that do not depend on the data are not arithmetic."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.judges.cores.bench import Edit
from tests.judges.faults import rtl, run
from tests.judges.faults.case import KINDS, Case, accepted
from tests.judges.faults.machine import Machine, pad, psums
from tests.judges.faults.sets import MADE, set_of
from tests.judges.notation import Json

CASES = run.all_cases()
CRASHED = (
    "listed/tflite.accumulator/packed products without the borrow"  # once: steps were applied to half the channels
)
SAMPLE = [*run.sampled(CASES, 30, seed=21), *(case for case in CASES if case.id == CRASHED)]
PLANTED = [
    pair for pair in rtl.cases() if pair[0].name in ("padding of 1", "code wraps", "sums of 8 bits", "dead element")
]
FEW = "rtl/mac_fsm/clip at 14"  # three values are wrong: the set alone says too little


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def never_certain_and_wrong(case: Case, found: Json) -> None:
    assert found["certainty"] != "crashed", found["summary"]
    assert found["certainty"] != "certain" or accepted(case, found), run.miss(case, found)


@pytest.mark.parametrize("name", MADE)
def test_the_machine_without_a_fault_gives_the_set(name: str, root: Path) -> None:
    found = set_of(name, root / "sets")
    results = Machine().run(found.layer)
    for mem in found.manifest["memories"]:
        if mem["tensor"] in results:
            assert np.array_equal(results[mem["tensor"]], found.right[mem["name"]])
            stored = found.write(mem["tensor"], found.read(mem["tensor"]), root / name / mem["name"])
            for entry in mem["files"]:
                path = stored / entry["path"] if stored.is_dir() else stored
                assert path.read_bytes() == (found.folder / entry["path"]).read_bytes()
    if name == "stationary":
        assert np.array_equal(psums(found.layer, found.layer.w, pad(found.layer, found.layer.x)), found.right["psum"])


def test_each_fault_has_a_name_of_its_own_and_every_kind_is_there() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 300
    assert {case.kind for case in SAMPLE} == set(KINDS)
    assert CRASHED in {case.id for case in SAMPLE}
    assert len({case.on for case in CASES}) >= 8


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.id)
def test_sampled_fault(case: Case, root: Path) -> None:
    found = set_of(case.on, root / "sets")
    mem = found.memory(case.tensor)
    changed = (case.words(found) - found.read(case.tensor)) % (1 << mem["bits"]) != 0
    assert changed.sum() >= 2, "this fault changes too little to be told"
    told = run.answer(case, root)
    never_certain_and_wrong(case, told)
    if case.kind == "constant":
        names = [cause["name"] for cause in told["causes"][:1] if told["explained"]]
        assert not names or re.search("constant|stuck", names[0]), run.miss(case, told)


@pytest.mark.whole
@pytest.mark.parametrize("pair", PLANTED, ids=lambda pair: f"{pair[0].on} {pair[0].name}")
def test_planted_fault(pair: tuple[Case, Edit], root: Path) -> None:
    never_certain_and_wrong(pair[0], rtl.answer(*pair, root, {}))


@pytest.mark.whole
def test_fresh_stimulus_decides_where_a_set_says_too_little(root: Path) -> None:
    [pair] = [pair for pair in rtl.cases() if pair[0].id == FEW]
    told = rtl.answer(*pair, root, {})
    assert (told["differing"], told["certainty"]) == (3, "certain")
    assert accepted(pair[0], told), run.miss(pair[0], told)
