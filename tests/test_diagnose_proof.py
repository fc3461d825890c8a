"""`qexport diagnose` against a witness that shares no code with it: mistakes built into a model of the array."""

from pathlib import Path

import pytest

from tests.faults import RESULTS, Machine
from tests.proof import make_sets

Sets = dict[tuple[str, str], Path]


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("proof"))


def test_without_a_mistake_the_model_writes_every_result_memory_of_the_sets(sets: Sets) -> None:
    for folder in sets.values():
        machine = Machine(folder)
        for tensor in RESULTS:
            memory, words = machine.memory(tensor), list[str]()
            for file in memory["files"]:
                words += (folder / file["path"]).read_text().splitlines()[len(memory["header"]) :]
            assert machine.text(tensor).splitlines() == words, (folder, tensor)
