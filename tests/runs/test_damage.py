"""Damaged plans, stores and indices: one line that names what to do, or every verdict as it was; never a traceback."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qexport.errors import QexportError
from qexport.runs.index import rows_of
from qexport.runs.plan import read_plan
from qexport.runs.store import LABELLED, MARK, RESULTS, Result, Store
from tests.conftest import cases, cli, disk, fails
from tests.fuzz import mutate

rngs = st.randoms(use_true_random=False)
patient = settings(suppress_health_check=list(HealthCheck), max_examples=cases(40))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of three jobs, one of which fails and one of which is flaky, with two labels; its index is beside it."""
    base = tmp_path_factory.mktemp("whole")
    store = Store(base / "store", create=True)
    for number, result in ((0, "PASS"), (1, "FAIL"), (2, "PASS"), (2, "FAIL")):
        store.put(Result(
            labels={"set": "one", "design": "ws", "check": "simulate", "simulator": "icarus", "streams": f"{number}"},
            content={"number": number, "set": "0" * 64}, outcome={"result": result}, result=result,  # type: ignore[arg-type]
            failure=("it is wrong", "memory=relu") if result == "FAIL" else (), seconds=1.5, host="here", log="log\n",
        ))  # fmt: skip
    store.label("a", {"one ws simulate icarus 0": ("0" * 64, "PASS")})
    store.label("b", {"one ws simulate icarus 0": ("0" * 64, "FAIL")})
    yield base
    shutil.rmtree(base)


def files_of(base: Path) -> list[Path]:
    store = base / "store"
    return sorted([store / MARK, *store.glob(f"{LABELLED}/*"), *store.glob(f"{RESULTS}/*/*"), *base.glob("*.sqlite")])


def damage(rng: random.Random, path: Path) -> None:
    """Change a file, or put something else in its place."""
    match rng.randrange(6):
        case 0:
            path.unlink()
            rng.choice([path.mkdir, path.touch, lambda: path.symlink_to(path)])()
        case 1 | 2 if path.suffix == ".json":
            text = json.dumps(mutate.document(rng, json.loads(path.read_bytes())), sort_keys=True, indent=2)
            path.write_text(f"{text}\n", errors="surrogatepass")
        case _:
            path.write_bytes(mutate.data(rng, path.read_bytes()))


@patient
@given(rngs, st.booleans())
def test_damaged_stores(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, rng: random.Random, indexed: bool
) -> None:
    base = Path(shutil.copytree(whole, tmp_path_factory.mktemp("damage"), dirs_exist_ok=True))
    store, page, other = base / "store", base / "page.html", base / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QEXPORT_CACHE", str(base))
        listed = cli("runs", "list", "--store", whole / "store", "--json").stdout  # the index of another store
        if indexed:
            assert cli("runs", "list", "--store", store, "--json").stdout == listed
        chosen = rng.choice(files_of(base))
        damage(rng, chosen)
        for command in (["list", "--json"], ["export", "--out", base / "out"], ["merge", store]):
            said = cli("runs", *command, "--store", other if command[0] == "merge" else store)
            if said.exit_code:
                fails(said, str(chosen))
            elif command[0] == "list":
                assert said.stdout == listed
        said = cli("report", store, "--out", page)
        if said.exit_code:
            fails(said, str(base))


def rows_of_index(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as base:
        base.execute(statement)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: rows_of_index(path, "UPDATE results SET result = 'PASS'"),
        lambda path: rows_of_index(path, "DELETE FROM results"),
        lambda path: rows_of_index(path, "ALTER TABLE results DROP COLUMN why"),
        lambda path: rows_of_index(path, "PRAGMA user_version = 9"),
        lambda path: path.with_name(f"{path.name}-journal").write_bytes(path.read_bytes()),
        lambda path: path.write_bytes(b""),
    ],
)
def test_an_index_that_says_something_else(
    whole: Path, tmp_path: Path, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path))
    store = Store(whole / "store")
    rows = rows_of(store)
    harm(next(tmp_path.glob("*.sqlite")))
    assert rows_of(store) == rows


def test_an_index_without_room(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(whole / "store")
    rows = rows_of(store)
    with disk(tmp_path / "small", "16k") as folder:
        monkeypatch.setenv("QEXPORT_CACHE", str(folder))
        (folder / "full").write_bytes(b"x" * 12288)
        assert rows_of(store) == rows


@patient
@given(rngs)
def test_damaged_plans(sets: Path, tmp_path_factory: pytest.TempPathFactory, rng: random.Random) -> None:
    folder = tmp_path_factory.mktemp("plan")
    shutil.copyfile(sets / "one/dut.sv", folder / "right.sv")
    shutil.copytree(sets, folder / "sets")
    text = """sets = ["sets"]
simulators = ["icarus"]
streams = ["smooth", "random"]
seeds = 2
checks = ["simulate", "verify"]
time_limit = 60
[[design]]
name = "right"
files = ["right.sv"]
includes = ["sets"]
defines = ["FAST"]
params = { ROWS = 8 }
sets = ["o*"]
[[resource]]
name = "licence"
at_once = 1
used_by = ["icarus"]
"""
    (folder / "plan.toml").write_text(mutate.text(rng, text), errors="surrogatepass")
    said, jobs = "", []
    try:
        jobs, _ = read_plan(folder / "plan.toml")
    except (QexportError, OSError) as error:  # which the program tells in one line, too
        said = str(error)
    assert "\n" not in said
    assert len({job.address for job in jobs}) == len({job.name for job in jobs}) == len(jobs)
