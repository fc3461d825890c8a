"""The cocotb bench judges as the Verilog bench does, to the line and the cycle, and needs nothing of qexport."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from qexport.errors import CheckFailed
from qexport.sim.run import simulate
from tests.conftest import checked_dump, cli, fails, make_capture, one_memory_layout
from tests.sim.conftest import copied, edited, state
from tests.sim.test_bench import DUT_FAULTS, FILE_FAULTS, STALL_FAULTS, Edits, at_end
from tests.sim.test_ports import without

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "vectors" / "features_33"
SetOf = Callable[[str], Path]
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
on_verilator = pytest.mark.parametrize("simulator", ["verilator"], indirect=True)


def render(folder: Path, out: Path, *arguments: object) -> Path:
    """The bench of a set, rendered into a new folder."""
    result = cli("cocotb", folder, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    (bench,) = out.glob("*.py")
    return bench


def environment(tmp_path: Path) -> dict[str, str]:
    """One in which Python finds a qexport that cannot be imported, and cocotb does not know of this pytest."""
    (tmp_path / "hidden").mkdir(exist_ok=True)
    (tmp_path / "hidden" / "qexport.py").write_text("raise ImportError('the bench must not need qexport')\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "SIM")}
    return kept | {"PYTHONPATH": str(tmp_path / "hidden")}


def run(bench: Path, tmp_path: Path, simulator: str = "icarus", seed: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bench), "--simulator", simulator, "--seed", str(seed)]
    return subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, errors="replace", check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The bench's own lines."""
    return re.findall(r"^(?:FAIL|NOT COMPARED|DONE|PASS) .*$", done.stdout, re.MULTILINE)


def passed(done: subprocess.CompletedProcess[str], checks: int, cycles: int) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    lines = said(done)
    assert lines[0].startswith(f"DONE cycles={cycles} ")
    assert lines[1:] == [f"PASS checks={checks}"]


def load(bench: Path) -> ModuleType:
    """The bench as a module of this process."""
    spec = importlib.util.spec_from_file_location(bench.stem, bench)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[bench.stem] = module
    spec.loader.exec_module(module)
    return module


# --- what is right ----------------------------------------------------------------------------------------------------


@on_icarus
@pytest.mark.parametrize("seed", [0, 3])
def test_the_example_passes_in_as_many_cycles_as_with_the_verilog_bench(
    simulator: str, seed: int, tmp_path: Path
) -> None:
    before, bench = state(EXAMPLE), render(EXAMPLE, tmp_path / "bench")
    verdict = simulate(EXAMPLE, simulator, seed=seed).check()
    passed(run(bench, tmp_path, seed=seed), verdict.checks, verdict.cycles)
    for memory in verdict.compared:
        came_back = bench.parent / "run" / f"icarus_seed{seed}" / f"{memory}.hex"
        assert came_back.read_bytes() == (EXAMPLE / f"{memory}.hex").read_bytes()
    assert state(EXAMPLE) == before


@on_icarus
def test_the_ragged_layer_passes_in_folders_with_spaces_and_other_letters(
    simulator: str, ragged_set: Path, tmp_path: Path
) -> None:
    folder = copied(ragged_set, tmp_path / "Größe der Sätze" / "set")
    bench = render(folder, tmp_path / "Bänke aus Python" / "1")
    verdict = simulate(folder, simulator, seed=1).check()
    passed(run(bench, tmp_path, seed=1), verdict.checks, verdict.cycles)


@on_icarus
def test_the_reference_rtl_passes(simulator: str, set_of: SetOf, tmp_path: Path) -> None:
    folder, rtl = set_of("default"), tmp_path / "rtl"
    assert cli("rtl", folder, "--style", "ws", "--out", rtl).exit_code == 0
    files = [rtl / name for name in (rtl / "files.f").read_text().split()]
    bench = render(folder, tmp_path / "bench", *(argument for file in files for argument in ("--dut", file)))
    verdict = simulate(folder, simulator, files, seed=2).check()
    passed(run(bench, tmp_path, seed=2), verdict.checks, verdict.cycles)


@on_verilator
def test_verilator_passes_in_as_many_cycles(simulator: str, set_of: SetOf, tmp_path: Path) -> None:
    verdict = simulate(set_of("default"), "icarus", seed=1).check()
    bench = render(set_of("default"), tmp_path / "bench")
    passed(run(bench, tmp_path, simulator, seed=1), verdict.checks, verdict.cycles)


@on_icarus
def test_results_that_the_design_lacks_are_not_compared_which_is_said(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    text = without((tiny_set / "dut.sv").read_text(), "psum")
    (tmp_path / "core.sv").write_text(text.replace("module dut (", "module my_core ("))
    bench = render(tiny_set, tmp_path / "bench", "--dut", tmp_path / "core.sv", "--top", "my_core")
    done = run(bench, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done)[0] == "NOT COMPARED memory=psum: the design has no m_psum ports"
    assert said(done)[-1] == "PASS checks=64"


@on_icarus
def test_parameters_macros_and_other_names_of_clock_and_reset_reach_the_design(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    edits = [
        ("module dut (", "module core #(parameter FIRST = 1) ("),
        ("wire clk,", "wire aclk,"),
        ("wire rst,", "wire aresetn,"),
        ("posedge clk", "posedge aclk"),
        ("if (rst)", "if (!aresetn)"),
        ("state <= WEIGHTS;", "state <= `BEGIN + FIRST;"),
    ]
    edited(tiny_set / "dut.sv", tmp_path / "core.sv", edits)
    (tmp_path / "core.f").write_text("+define+BEGIN=WEIGHTS\ncore.sv\n")
    given = ("--dut", tmp_path / "core.f", "--top", "core", "--clock", "aclk", "--reset", "aresetn", "--param=FIRST=0")
    bench = render(tiny_set, tmp_path / "bench", *given)
    verdict = simulate(tiny_set, simulator).check()
    passed(run(bench, tmp_path), verdict.checks, verdict.cycles)
    fails(cli("cocotb", tiny_set, "--param", "FIRST=0", "--out", tmp_path / "out"), "--param belongs to --dut")


# --- designs that are wrong -------------------------------------------------------------------------------------------

AS_THE_VERILOG_BENCH = (
    "activations signed", "X in one bit of psum", "X on tready", "undriven results", "no tlast", "too many psums",
    "result omitted", "hangs after some results",
)  # fmt: skip


def both_say(edits: Edits, folder: Path, tmp_path: Path, seed: int = 0) -> list[str]:
    """The FAIL lines of a design, which are the same with both benches, and so are the words that came back."""
    dut = edited(folder / "dut.sv", tmp_path / "dut.sv", edits)
    with pytest.raises(CheckFailed) as caught:
        simulate(folder, "icarus", [dut], seed=seed, keep=tmp_path / "keep").check()
    bench = render(folder, tmp_path / "bench", "--dut", dut)
    done = run(bench, tmp_path, seed=seed)
    assert done.returncode == 1, done.stdout + done.stderr
    assert said(done) == str(caught.value).splitlines()[1:]
    for words in bench.parent.glob("run/*/*.hex"):
        assert words.read_bytes() == (tmp_path / "keep" / words.name).read_bytes()
    assert len(list(bench.parent.glob("run/*/*.hex"))) == 3
    return said(done)


@on_icarus
@pytest.mark.parametrize("fault", AS_THE_VERILOG_BENCH)
def test_faulty_design_fails_with_the_lines_and_words_of_the_verilog_bench(
    simulator: str, fault: str, tiny_set: Path, tmp_path: Path
) -> None:
    edits, line = DUT_FAULTS[fault]
    assert line in "\n".join(both_say(edits, tiny_set, tmp_path))


@on_icarus
def test_place_in_a_ragged_layer_is_that_of_the_verilog_bench(simulator: str, ragged_set: Path, tmp_path: Path) -> None:
    wrong = [
        (
            "RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX))",
            "RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX)) ^ RELU_BITS'(n == 1 && ot == 1 && col == 2)",
        )
    ]
    lines = both_say(wrong, ragged_set, tmp_path)
    assert "image=1 oc=10 y=0 x=1 " in lines[1]
    assert "lane=5 " in lines[1]


@on_icarus
def test_pytest_runs_it_and_what_a_smooth_run_does_not_show_fails_with_stalls(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    edits, line = STALL_FAULTS["reads what is not valid"]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", edits)
    bench = render(tiny_set, tmp_path / "bench", "--dut", dut)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(bench)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout
    assert f"FAILED {bench.relative_to(tmp_path)}::test_with_stalls" in done.stdout
    assert line in done.stdout


ENDS: dict[str, tuple[Edits, int, str]] = {
    "silent $finish": (at_end("initial $finish;"), 1, ""),
    "$finish on the way": (at_end("initial #200 $finish;"), 1, ""),
    "loop that takes no time": (at_end("initial #200 while (1) begin end"), 1, "FAIL icarus gave no results"),
    "does not compile": ([("ot <= 0;", "ot <= <= 0;")], 2, "ERROR: icarus does not compile the sources"),
    "port of another size": (
        [("output reg  m_relu_tlast", "output reg [1:0] m_relu_tlast")], 1, "port m_relu_tlast has 2 bits, needs 1",
    ),
}  # fmt: skip


@on_icarus
@pytest.mark.parametrize("end", ENDS)
def test_run_that_does_not_come_to_its_end_never_passes(
    simulator: str, end: str, tiny_set: Path, tmp_path: Path
) -> None:
    edits, status, line = ENDS[end]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [])
    bench = render(tiny_set, tmp_path / "bench", "--dut", dut)
    edited(dut, dut, edits)  # ports are read anew by the bench, which may be edited too
    if end.startswith("loop"):
        edited(bench, bench, [("WALL_SECONDS = 600", "WALL_SECONDS = 2")])
    done = run(bench, tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    assert line in done.stdout + done.stderr
    assert not any(one.startswith("PASS") for one in said(done))


# --- a set that is not as dumped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_unusable_file_is_named_as_by_the_verilog_bench(fault: str, tiny_set: Path, tmp_path: Path) -> None:
    change, message = FILE_FAULTS[fault]
    folder = copied(tiny_set, tmp_path / "set")
    bench = load(render(folder, tmp_path / "bench"))
    assert bench.load()[1] == []
    path = folder / "psum.hex"
    data = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(data))
    w, d = data.count(b"\n"), data.index(b"\n")
    text = message.format(w=w, w_less=w - 1, w_more=w + 1, w_after=w + 2, d=d, d_less=d - 1, d_more=d + 1)
    (named,) = bench.load()[1]
    assert named.startswith(f"FAIL file=psum.hex {text.replace('has the checksum', 'has not the SHA-256').strip()}")


@on_icarus
def test_an_edited_file_fails_before_anything_is_built(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    bench = render(folder, tmp_path / "bench")
    lines = (folder / "relu.hex").read_text().split("\n")
    lines[2] = f"{int(lines[2], 16) ^ 1:032x}"
    (folder / "relu.hex").write_text("\n".join(lines))
    done = run(bench, tmp_path)
    assert done.returncode == 1, done.stdout
    assert done.stderr.splitlines() == [
        "FAIL file=relu.hex line=0 has not the SHA-256 that manifest.json gives",
        "FAIL the set is not as this bench needs it, nothing was built; dump it again",
    ]
    assert list(bench.parent.iterdir()) == [bench]


def test_changed_manifest_bench_and_design_of_the_set_are_named(tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    bench = load(render(folder, tmp_path / "bench"))
    for file, text, why in (
        ("dut.sv", "// mine\n", "has not the SHA-256 that manifest.json gives"),
        ("tiny_pkg.sv", "// mine\n", "has not the SHA-256 that manifest.json gives"),
        ("manifest.json", " ", "has not the SHA-256 that SHA256SUMS gives"),
        ("SHA256SUMS", f"{'0' * 64}  manifest.json\n", "has not the SHA-256 that SHA256SUMS gives"),
    ):
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(before + text.encode())
        named = file if file != "SHA256SUMS" else "manifest.json"
        assert bench.load()[1] == [f"FAIL file={named} line=0 {why}"]
        (folder / file).write_bytes(before)
    (folder / "SHA256SUMS").unlink()
    (fault,) = bench.load()[1]
    assert fault.startswith("FAIL file=SHA256SUMS line=0 cannot be opened")


def test_bench_of_another_geometry_is_named(
    tiny_set: Path, ragged_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = render(tiny_set, tmp_path / "bench")
    module = load(bench)
    monkeypatch.setattr(module, "SET", ragged_set)
    assert any("describes another memory psum; render this bench for it again" in one for one in module.load()[1])


# --- the command line -------------------------------------------------------------------------------------------------


def test_rendering_needs_no_cocotb_and_a_folder_of_sets_gives_a_folder_for_each(
    tiny_set: Path, ragged_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cocotb", None)  # an import of it fails
    copied(tiny_set, tmp_path / "sets" / "tiny")
    copied(ragged_set, tmp_path / "sets" / "ragged")
    result = cli("cocotb", tmp_path / "sets", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert json.loads(result.stdout) == {
        "folders": {str(out / "ragged"): ["test_features_33.py"], str(out / "tiny"): ["test_tiny.py"]}
    }
    assert (out / "tiny" / "test_tiny.py").is_file()


def test_a_simulator_that_the_bench_does_not_know_is_said_in_one_line(tiny_set: Path, tmp_path: Path) -> None:
    bench = render(tiny_set, tmp_path / "bench")
    done = subprocess.run(
        [sys.executable, str(bench)], env=environment(tmp_path) | {"SIM": "questa"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    said = "ERROR: SIM=questa is not known to this bench; choose icarus or verilator\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_what_cannot_be_rendered_is_said_in_one_line(tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "my.sv").write_text("module mine;\nendmodule\n")
    to = ("--out", tmp_path / "out")
    alone = checked_dump(make_capture(), one_memory_layout("oc ic kh kw -> | oc ic kh kw |"), tmp_path / "alone")
    fails(cli("cocotb", alone, *to), "'test'", "without a self-checking bench", "--layout default")
    fails(cli("cocotb", tiny_set, *to, "--dut", tmp_path / "none.sv"), "none.sv does not exist")
    fails(cli("cocotb", tiny_set, *to, "--dut", tmp_path / "my.sv"), "no module 'dut'; it has mine", "--top")
    ports = cli("cocotb", tiny_set, *to, "--dut", tmp_path / "my.sv", "--top", "mine")
    assert ports.exit_code == 2
    assert "\ns_weight_tvalid  input of 1 bit " in ports.stderr
    fails(cli("cocotb", tiny_set, *to, "--top", "mine"), "--top belongs to --dut")
    top = ("--dut", tmp_path / "my.sv", "--top", 'mine"; import os; "')
    fails(cli("cocotb", tiny_set, *to, *top), "is not the name of a module")
    latin = (tmp_path / "my.sv").rename(tmp_path / os.fsdecode(b"m\xff.sv"))
    fails(cli("cocotb", tiny_set, *to, "--dut", latin), "has a name that is not UTF-8; rename it")
    assert not (tmp_path / "out").exists()
    fails(cli("cocotb", tiny_set, "--out", tmp_path), f"{tmp_path} is there already and not empty")
