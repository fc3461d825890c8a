"""A plan, its jobs and their results: what runs, what does not run again, and what is said of it."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import pytest

from qexport.errors import QexportError
from qexport.runs.checks import run_job
from qexport.runs.index import Row, rows_of, verdicts
from qexport.runs.job import Job, Unable, set_sha256
from qexport.runs.plan import Plan, Resource, read_plan
from qexport.runs.regress import Driver, judged, longest_first
from qexport.runs.shard import parse_shard, shard_here
from qexport.runs.store import Result, Store
from qexport.sim.supervisor import MEMORY_LIMIT, call, memory_limit, workers
from tests.conftest import cli, disk, fails
from tests.runs.conftest import regress
from tests.sim.conftest import edited


def test_a_plan_runs_once_and_what_it_says(plan: Path, sets: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    found = regress(plan, "--store", store, "--jobs", 2, "--label", "a")
    assert (found["exit"], found["ran"], len(found["runs"])) == (1, 10, 10)
    by_result = {run["result"]: run for run in found["runs"]}
    assert {run["design"] for run in found["runs"] if run["result"] == "FAIL"} == {"wrong"}
    assert "4 of 10 jobs failed, 0 not run" in found["stderr"]
    assert "FAIL one wrong simulate icarus smooth: simulate: " in found["stderr"]
    assert regress(plan, "--store", store)["ran"] == 0
    shown = cli("runs", "show", by_result["FAIL"]["address"][:16], "--store", store).stdout
    assert "diagnosis" in shown
    assert "signed" in shown
    assert "FAIL memory=accumulator 32 of 32 values are wrong" in shown
    record = json.loads(cli("runs", "show", by_result["PASS"]["address"], "--store", store, "--json").stdout)
    assert {result["result"] for result in record["results"]} == {"PASS"}
    verdict, design = tmp_path / "verdict.json", tmp_path / "wrong.sv"
    shown = cli("runs", "show", by_result["FAIL"]["address"], "--store", store, "--verdict", verdict)
    assert shown.exit_code == 0
    name = by_result["FAIL"]["set"]
    assert cli("audit", verdict, "--set", sets / name, "--dut", design).exit_code == 0
    for form in ("json", "junit", "csv"):
        assert cli("runs", "export", "--store", store, "--format", form, "--out", tmp_path / form).exit_code == 0
    assert len(json.loads((tmp_path / "json").read_text())["runs"]) == 10
    suites = ET.parse(tmp_path / "junit").getroot().findall("testsuite")
    assert [sum(int(suite.get(key, "")) for suite in suites) for key in ("tests", "failures")] == [10, 4]
    assert len(list(csv.DictReader((tmp_path / "csv").read_text().splitlines()))) == 10

    shutil.copyfile(tmp_path / "right.sv", tmp_path / "wrong.sv")  # the design is corrected
    found = regress(plan, "--store", store, "--label", "b")
    assert (found["exit"], found["ran"]) == (0, 0)  # its content has a verdict already
    assert len(found["since"]["newly passing"]) == 4
    assert cli("report", store, "--out", tmp_path / "matrix.html").exit_code == 0
    page = (tmp_path / "matrix.html").read_text()
    for said in ("10 of 10", "Label b", "wrong simulate icarus", "newly passing"):
        assert said in page
    (tmp_path / "wrong.sv").write_text((tmp_path / "right.sv").read_text() + "// other content\n")
    assert regress(plan, "--store", store)["ran"] == 4


def test_shards_of_a_plan_merge(plan: Path, sets: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        regress(plan, "--store", tmp_path / f"{number}", "--shard", f"{number}/3", "--jobs", 1, "--label", "a")
    stores = [tmp_path / f"{number}" for number in (1, 2, 3)]
    for _ in range(2):  # merging twice counts once
        assert cli("runs", "merge", *stores, "--store", tmp_path / "all").exit_code == 0
    found = regress(plan, "--store", tmp_path / "all")
    assert (found["ran"], len(found["runs"])) == (0, 10)
    ((name, jobs),) = Store(tmp_path / "all").labels()
    assert (name, len(jobs)) == ("a", 10)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, "1/1"),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4",
          "SLURM_ARRAY_TASK_STEP": "2"}, "3/4, from SLURM_ARRAY_TASK_ID"),
        ({"LSB_JOBINDEX": "0"}, "1/1"),
        ({"LSB_JOBINDEX": "2", "LSB_JOBINDEX_END": "3"}, "2/3, from LSB_JOBINDEX"),
        ({"TEST_SHARD_INDEX": "0", "TEST_TOTAL_SHARDS": "2"}, "1/2, from TEST_SHARD_INDEX"),
    ],
)  # fmt: skip
def test_farms_tell_the_shard(environment: dict[str, str], shard: str) -> None:
    assert str(shard_here(environment)) == shard


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"},  # --array=1,2,7
        {"LSB_JOBINDEX": "2", "LSB_JOBINDEX_END": "3", "LSB_JOBINDEX_STEP": "2"},
        {"TEST_SHARD_INDEX": "x", "TEST_TOTAL_SHARDS": "2"},
    ],
)
def test_arrays_that_are_no_shards_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(QexportError, match=r"shard: .*; .*give --shard I/N"):
        shard_here(environment)


def test_shards_are_a_partition() -> None:
    for length in range(20):
        jobs = list(range(length))
        assert [job for number in range(1, 8) for job in parse_shard(f"{number}/7").of(jobs)] == jobs


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(shard: str, sets: Path, tmp_path: Path) -> None:
    fails(cli("regress", sets, "--store", tmp_path / "s", "--shard", shard), "shard: ", shard)


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("", "sets"),
        ("sets = 3", "sets"),
        ('sets = ["nowhere"]', "nowhere"),
        ('sets = ["."]\nwrong = 1', "wrong"),
        ('sets = ["."]\nsimulators = ["icarsu"]', "icarus"),
        ('sets = ["."]\nseeds = 0', "seeds"),
        ("sets = [", "plan.toml"),
        ('sets = ["SETS"]\nchecks = ["exhaust"]', "design"),
        ('sets = ["SETS"]\n[[design]]\nname = "own"\nfiles = ["a.sv"]', "'own' is taken"),
        ('sets = ["SETS"]\n[[design]]\nname = "a"\nfiles = ["nowhere.sv"]', "nowhere.sv"),
        ('sets = ["SETS"]\n[[design]]\nname = "a"\nfiles = ["a.f"]\nsets = ["none"]', "a.f"),
    ],
)
def test_plans_that_cannot_be_carried_out(text: str, needle: str, sets: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text.replace("SETS", str(sets)))
    fails(cli("regress", tmp_path / "plan.toml", "--store", tmp_path / "store"), needle)
    assert not (tmp_path / "store").exists()


def test_the_plan_of_the_page_is_one() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/how-to/runs.md").read_text()
    plan = msgspec.convert(tomllib.loads(page.split("```toml\n")[1].split("```")[0]), Plan)
    assert [design.name for design in plan.design] == ["ws", "post"]


def job_of(plan: Path, name: str) -> Job:
    return next(job for job in read_plan(plan)[0] if job.name == name)


def test_addresses_are_of_content_not_of_places(plan: Path, sets: Path, tmp_path: Path) -> None:
    before = {job.name: job.address for job in read_plan(plan)[0]}
    other = tmp_path / "other"
    shutil.copytree(sets, other / "sets")
    for name in ("right.sv", "wrong.sv"):
        shutil.copyfile(tmp_path / name, other / name)
    (other / "plan.toml").write_text(plan.read_text().replace(str(sets), "sets"))
    assert {job.name: job.address for job in read_plan(other / "plan.toml")[0]} == before
    (other / "right.sv").write_text('`include "part.svh"\n' + (other / "right.sv").read_text())
    (other / "part.svh").write_text("// one\n")
    first = job_of(other / "plan.toml", "one right simulate icarus smooth").address
    (other / "part.svh").write_text("// two\n")
    second = job_of(other / "plan.toml", "one right simulate icarus smooth").address
    assert len({first, second, before["one right simulate icarus smooth"]}) == 3
    with (other / "sets/one/relu.hex").open("a") as file:
        file.write("\n")
    changed = {name for name, address in before.items() if job_of(other / "plan.toml", name).address != address}
    assert {name for name in changed if name.startswith("two")} == {
        "two right simulate icarus smooth", "two right simulate icarus random seed=1",
    }  # fmt: skip
    assert {"one verify", "one wrong simulate icarus smooth"} <= changed


def test_all_that_lies_in_a_set_counts(sets: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sets / "one", tmp_path / "one"))
    found = [set_sha256(folder)]
    for change in (
        lambda: Path(os.fsdecode(bytes(folder) + b"/\xff")).touch(), (folder / "empty").mkdir,
        lambda: (folder / "link").symlink_to("/"),
    ):  # fmt: skip
        change()
        found.append(set_sha256(folder))
    assert len({*found}) == 4


def test_a_worker_with_other_tools_is_refused(plan: Path, tmp_path: Path) -> None:
    job = job_of(plan, "one right simulate icarus smooth")
    store = Store(tmp_path / "store", create=True)
    with pytest.raises(Unable, match=r"has qexport .*, the plan was read with qexport 0\.0"):
        run_job(replace(job, tools={**job.tools, "qexport": "0.0"}), store.root)
    with pytest.raises(QexportError, match=r"right\.sv changed since the plan was read"):
        run_job(replace(job, sources=dict.fromkeys(job.sources, "0" * 64)), store.root)
    assert list(store.files()) == []


def result(number: int = 0, **facts: object) -> Result:
    facts = {"outcome": {"result": "PASS"}, "result": "PASS", "failure": (), **facts}
    labels = {"set": "one", "design": "", "check": "verify", "simulator": "", "streams": f"{number}"}
    return Result(labels=labels, content={"number": number}, seconds=1.0, host="here", **facts)  # type: ignore[arg-type]


def test_another_result_of_the_same_content_is_flaky(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store", create=True), Store(tmp_path / "other", create=True)
    store.put(result())
    other.put(result())
    assert store.merge(other) == 0  # equal results are one
    other.put(result(outcome={"result": "FAIL"}, result="FAIL", failure=("why",)))
    assert store.merge(other) == 1
    (verdict,) = verdicts(rows_of(store)).values()
    assert (verdict.result, len(verdict.rows)) == ("FLAKY", 2)
    line = ("runs", "export", "--store", store.root, "--out", store.root / "x.json")
    fails(cli(*line), "holds its own files only")
    shown = cli("runs", "export", "--store", store.root, "--format", "junit", "--out", tmp_path / "junit.xml")
    assert shown.exit_code == 0
    assert 'type="FLAKY"' in (tmp_path / "junit.xml").read_text()


def test_a_full_disk_and_damage_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store", create=True)
    store.put(result(1))
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limit[1]))
        with pytest.raises(Unable, match=r"cannot be written \(File too large\); make room"):
            store.put(result(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert [row.labels["streams"] for row in rows_of(store)] == ["1"]
    path = store.path(store.put(result(2)))
    path.write_bytes(path.read_bytes()[:100])
    fails(cli("runs", "list", "--store", store.root), str(path), "is damaged")
    path.unlink()
    assert len(rows_of(store)) == 1


def test_writers_whose_clocks_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half of a file of each writer looks two hours old to the other ones, who take it away."""
    store, monkey = Store(tmp_path / "store", create=True), time.time
    monkeypatch.setattr("qexport.core.atomic.time.time", lambda: monkey() + 7200)
    writers = [threading.Thread(target=lambda: [store.put(result(number)) for number in range(20)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(rows_of(store)) == 20


def test_an_index_that_lags_or_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "store", create=True)
    store.put(result(1))
    late = Store.files
    monkeypatch.setattr(Store, "files", lambda self: iter(()))  # a listing that shows nothing yet
    assert rows_of(store) == []
    store.put(result(1))  # so the job runs again
    monkeypatch.setattr(Store, "files", late)
    assert len(rows_of(store)) == 1
    (index,) = (tmp_path / "cache").glob("*.sqlite")
    index.write_bytes(b"x" * 4096)
    assert len(rows_of(store)) == 1


def test_memory_is_limited_in_each_process() -> None:
    with memory_limit(1 << 30):
        assert call(["sh", "-c", "ulimit -v"]).stdout == f"{1 << 20}\n"
        with workers() as pool:
            assert pool.submit(call, ["sh", "-c", "ulimit -v"]).result().stdout == f"{1 << 20}\n"
    assert call(["sh", "-c", "ulimit -v"]).stdout == f"{MEMORY_LIMIT >> 10}\n"


def test_labels_are_numbered_not_dated(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    for label in ("b", "a", "c", "a"):
        store.label(label, {"job": ("address", label)})
    assert [name for name, _ in store.labels()] == ["b", "a", "c"]


def test_what_is_no_store_is_refused(tmp_path: Path, sets: Path) -> None:
    fails(cli("runs", "list", "--store", tmp_path / "nowhere"), "nowhere", "not a store")
    fails(cli("regress", sets, "--store", sets), "not a store")
    fails(cli("regress", sets, "--store", sets / "one/store"), "lies in the set")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.qexport-store.json.0123abcd.partial").touch()  # of a driver that makes it at the same time
    assert [*Store(tmp_path / "new", create=True).files()] == []
    fails(cli("regress", sets, "--store", tmp_path / "s", "--executor", "slurm"), "executor: 'slurm'")


class Threads:
    """An executor of threads that do nothing, or lose the first jobs."""

    def __init__(self, losses: int) -> None:
        self.at_once, self.executor, self.losses = 4, ThreadPoolExecutor(4), count(losses, -1)

    def renew(self) -> None: ...

    def work(self, job: Job, root: Path) -> str:
        if next(self.losses) > 0:
            raise OSError("the worker went away")
        return job.address


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (3, 3), (9, 4)])
def test_no_more_at_once_than_there_is(plan: Path, tmp_path: Path, at_once: int, most: int) -> None:
    driver = Driver(Threads(0), tmp_path, [Resource(name="r", at_once=at_once, used_by=("icarus", "verify"))])
    seen: list[int] = []
    driver.run(read_plan(plan)[0], lambda step, done, total: seen.append(len(driver._running)))
    assert max(seen) == most
    assert driver.not_run == {}


def test_lost_jobs_run_again_and_not_for_ever(plan: Path, tmp_path: Path) -> None:
    jobs = read_plan(plan)[0]
    driver = Driver(Threads(2), tmp_path)
    driver.run(jobs)
    assert driver.not_run == {}
    driver = Driver(Threads(1000), tmp_path)
    driver.run(jobs)
    assert {*driver.not_run} == {job.name for job in jobs}
    assert "lost 3 times, at last: OSError: the worker went away" in str(driver.not_run["one verify"])


def test_a_worker_that_can_do_nothing_ends_the_call(plan: Path, tmp_path: Path) -> None:
    class Refusing(Threads):
        def work(self, job: Job, root: Path) -> str:
            raise Unable("worker: far has qexport 0.0")

    driver = Driver(Refusing(0), tmp_path)
    with pytest.raises(Unable, match=r"far has qexport 0\.0"):
        driver.run(read_plan(plan)[0])
    assert driver.not_run == {}


def test_what_took_long_starts_first(plan: Path) -> None:
    jobs = read_plan(plan)[0]
    took = {"one": 1.0, "two": 5.0}
    ran = [job for job in jobs if job.check == "simulate"]
    rows = [Row(job.address, "PASS", "", took[job.set.name], "here", job.labels, "") for job in ran]
    order = [(job.check, job.set.name) for job in longest_first(jobs, rows)]
    assert order == [("verify", "one"), ("verify", "two"), *[("simulate", "two")] * 4, *[("simulate", "one")] * 4]


def test_listings_that_lag_lose_no_verdict(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's listing shows nothing of what the workers made; nor does that of the next call."""
    plan.write_text(plan.read_text().replace('"simulate", "verify"', '"verify"'))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "files", lambda self: iter(()))
        for _ in range(2):
            found = regress(plan, "--store", tmp_path / "store")
            assert (found["exit"], found["ran"], len(found["runs"])) == (0, 2, 2)
    found = regress(plan, "--store", tmp_path / "store")
    assert (found["exit"], found["ran"], [run["result"] for run in found["runs"]]) == (0, 0, ["PASS"] * 2)


def test_a_result_that_nobody_sees_is_told(plan: Path, tmp_path: Path) -> None:
    """As of workers that have another folder under the store's path."""
    job = job_of(plan, "one verify")
    driver = Driver(Threads(0), tmp_path)
    driver.run([job])
    with pytest.raises(QexportError, match="NOT RUN one verify: its result is not in the store; workers must see"):
        judged([job], rows_of(Store(tmp_path / "store", create=True), driver.made), 1, driver.not_run).check()


def test_a_store_whose_disk_is_full_goes_on_when_there_is_room(plan: Path, tmp_path: Path) -> None:
    plan.write_text(plan.read_text().replace('"smooth", "random"', '"smooth"'))
    with disk(tmp_path / "disk", "40k") as folder:
        line = ("regress", plan, "--store", folder / "store", "--jobs", 1)
        fails(cli(*line), "cannot be written (No space left on device); make room and check its permissions")
        before = {*Store(folder / "store").files()}
        assert 0 < len(before) < 6
        subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
        found = regress(*line[1:])
        assert (found["exit"], found["ran"]) == (1, 6 - len(before))
        assert sorted(run["result"] for run in found["runs"]) == ["FAIL"] * 2 + ["PASS"] * 4


def test_limits_flaky_designs_and_labels(plan: Path, sets: Path, tmp_path: Path) -> None:
    """A design that takes no end, one that takes more memory than there is, one that is not the same twice."""
    right, package = tmp_path / "right.sv", "  import tiny_pkg::*;\n"
    edited(right, tmp_path / "hangs.sv", [("case (state)", "while (1) begin end case (state)")])
    large = "reg [63:0] big [0:16777215]; initial begin big[0] = 1; big[16777215] = big[0]; end\n"
    edited(right, tmp_path / "large.sv", [(package, package + large)])
    noise = 'integer entropy; reg [31:0] noise; initial begin entropy = $fopen("/dev/urandom", "rb");\n'
    noise += "noise = $fgetc(entropy) * 65536 + $fgetc(entropy) * 256 + $fgetc(entropy) * 2 + 1; end\n"  # never 0
    drawn = [(package, package + noise), ("sum_of = sum_of +", "sum_of = noise + sum_of +")]
    edited(right, tmp_path / "flaky.sv", drawn)
    head = f'sets = ["{sets}/one"]\nsimulators = ["icarus"]\nstreams = ["smooth"]\ndiagnose = false\n'
    design = '[[design]]\nname = "{0}"\nfiles = ["{0}.sv"]\nallow = ["files"]\n'
    store, why = tmp_path / "store", dict[str, str]()
    for limit, names in (("time_limit = 2", ["hangs"]), ("memory_limit = 0.2", ["large", "flaky"])):
        plan.write_text("\n".join([head, limit, *map(design.format, names)]))
        found = regress(plan, "--store", store, "--label", "a")
        assert {run["result"] for run in found["runs"]} == {"FAIL"}
        why |= {run["design"]: run["why"] for run in found["runs"]}
    assert "no end after 2 s" in why["hangs"]
    assert "a process may take 0.2 GiB" in why["large"]
    plan.write_text("\n".join([head, limit, design.format("flaky")]))
    found = regress(plan, "--store", store, "--again", "--label", "b")
    assert (found["exit"], [run["result"] for run in found["runs"]]) == (1, ["FLAKY"])
    assert found["since"]["flaky"] == ["one flaky simulate icarus smooth"]
    assert len(found["since"]["gone"]) == 2
    listed = json.loads(cli("runs", "list", "--store", store, "--label", "b", "--json").stdout)["runs"]
    assert [run["design"] for run in listed] == ["flaky"]
    fails(cli("runs", "list", "--store", store, "--label", "c"), "'c'", "it has a, b")
