"""`qexport diagnose` against witnesses that share no code with it: mistakes built into a model of the array, and into
the reference RTL. Here a sample; the whole table is part of `make bench`."""

import random
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.conftest import checked_dump
from tests.findings.proof import Case, Cases, Sets, causes_by_text, judge, layer_33, make_cases, make_sets
from tests.judges.machine import RESULTS, Machine
from tests.sim.mistakes import MUTANTS, reference, simulated

pytestmark = pytest.mark.whole  # the sets and their hundreds of mistakes take half a minute
LISTED, STRANGE = 40, 12  # mistakes of the sample
IN_RTL = ("padding not masked", "no skew", "weights' address a pass late")


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("proof"))


@pytest.fixture(scope="session")
def cases(sets: Sets) -> Cases:
    """A third of the sets, all of whose mistakes are made; which of them `diagnose` sees is drawn below."""
    some = [make_cases(sets, *key) for key in (("features_33", "default"), ("ragged", "mirror"), ("multi", "default"))]
    return Cases(
        *([case for one in some for case in getattr(one, kind)] for kind in (field.name for field in fields(Cases)))
    )


def test_without_a_mistake_the_model_writes_every_result_memory_of_the_sets(sets: Sets) -> None:
    for folder in sets.values():
        machine = Machine(folder)
        for tensor in RESULTS:
            memory, words = machine.memory(tensor), list[str]()
            for file in memory["files"]:
                words += (folder / file["path"]).read_text().splitlines()[len(memory["header"]) :]
            assert machine.text(tensor).splitlines() == words, (folder, tensor)


def test_the_cause_of_a_listed_mistake_stands_first_or_with_its_class(sets: Sets, cases: Cases, tmp_path: Path) -> None:
    """At least 95 % first, all among the first three."""
    drawn = random.Random(0).sample(cases.listed, LISTED)
    said = [judge(case, sets[case.layer, case.layout], tmp_path) for case in drawn]
    assert [f"{one.case}: {one.said}" for one in said if not one.among_three] == []
    assert sum(one.first for one in said) >= 0.95 * len(said), [f"{x.case}: {x.said}" for x in said if not x.first]


def test_a_mistake_that_no_cause_names_is_unexplained(sets: Sets, cases: Cases, tmp_path: Path) -> None:
    """At least 90 %; of the closest three those are named that explain something."""
    drawn = random.Random(0).sample(cases.outside, STRANGE)
    said = [judge(case, sets[case.layer, case.layout], tmp_path) for case in drawn]
    wrong = [f"{one.case}: {one.said}" for one in said if one.explained]
    assert len(wrong) <= 0.1 * len(said), "\n".join(wrong)
    assert all(share > 0 for one in said for _, _, share, _ in one.said)  # what explains nothing is not shown


@dataclass(frozen=True)
class RtlSet:
    folder: Path
    rtl: Path
    causes: dict[str, dict[str, set[str]]]  # by result and words, of the model


@pytest.fixture(scope="session")
def rtl_set(tmp_path_factory: pytest.TempPathFactory) -> RtlSet:
    scratch = tmp_path_factory.mktemp("rtl")
    folder = checked_dump(layer_33().part(0, 2), "default", scratch)
    return RtlSet(folder, reference(folder, scratch / "ws"), causes_by_text(folder))


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("how", IN_RTL)
def test_a_mistake_in_the_rtl_gives_the_words_of_the_model_and_is_named(
    simulator: str, how: str, rtl_set: RtlSet, tmp_path: Path
) -> None:
    mutant = MUTANTS[how]
    text = simulated(mutant, rtl_set.folder, rtl_set.rtl, tmp_path / "mutant").read_text()
    causes = rtl_set.causes[mutant.memory][text]
    assert mutant.name in causes
    case = Case("features_33", "default", mutant.memory, mutant.name, how, text, frozenset(causes))
    said = judge(case, rtl_set.folder, tmp_path)
    assert said.first, said.said
