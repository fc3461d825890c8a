"""`make sim` judges a set with Icarus alone."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import checked_dump, one_memory_layout
from tests.sim.conftest import copied, edited, path_of, ragged_capture, resealed, state, tiny_capture
from tests.sim.test_bench import DUT_FAULTS, STALL_FAULTS, without_relu

pytestmark = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
TOOLS = ("sh", "make", "iverilog", "vvp", "mktemp", "od", "tr", "cat", "grep", "rm", "ln", "cmp", "sha256sum")
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(simulator: str, tmp_path: Path) -> Make:
    """Runs `make -C <folder> sim` with nothing on the PATH but the tools that it may use."""
    path = path_of(tmp_path / "tools", *TOOLS)
    (tmp_path / "temporary").mkdir()

    def run(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": path, "TMPDIR": str(tmp_path / "temporary")}
        done = subprocess.run(
            ["make", "-C", str(folder), "sim", *variables], env=env, cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert list((tmp_path / "temporary").iterdir()) == []
        return done

    return run


def test_set_passes_with_icarus_alone_and_stays_as_it_is(make: Make, tiny_set: Path) -> None:
    before = state(tiny_set)
    done = make(tiny_set)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS checks=96 nonce=" in done.stdout
    assert done.stderr == ""
    assert state(tiny_set) == before


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of weights, from which nothing comes back: its bench only loads."""
    layout = one_memory_layout("(ot col) ic kh kw -> ot | ic kh kw | ~col", file="m{ot}.txt", radix="bin")
    return checked_dump(ragged_capture(), layout, tmp_path_factory.mktemp("alone"))


def test_stub_loads(make: Make, alone: Path) -> None:
    done = make(alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"LOADED words={2 * 10 * 6} nonce=" in done.stdout


def test_every_run_of_a_bench_passes_and_a_design_that_fails_when_stalled_is_told(
    make: Make, tiny_set: Path, tmp_path: Path
) -> None:
    done = make(tiny_set)
    assert done.stdout.count("PASS checks=96 nonce=") == 6
    edits, _ = STALL_FAULTS["drops an offer"]
    done = make(tiny_set, f"DUT={edited(tiny_set / 'dut.sv', tmp_path / 'dut.sv', edits)}")
    assert done.returncode != 0
    assert "simulation FAILED, streams=random: no 'PASS checks=96' of this run" in done.stdout
    assert "handshake: the design passes with streams: smooth\n" in done.stdout


def test_set_may_lie_in_a_folder_with_spaces_and_other_letters(make: Make, tmp_path: Path) -> None:
    folder = checked_dump(tiny_capture(), "default", tmp_path / "Größe der Sätze")
    done = make(folder)
    assert done.returncode == 0, done.stdout + done.stderr


# a weight of output channel 0, which is in lane 7 of the results; a result of output channel 7
@pytest.mark.parametrize(
    ("file", "said"), [("weight.hex", "psum.hex line=1 lane=7"), ("relu.hex", "relu.hex line=1 lane=0")]
)
def test_changed_word_fails(make: Make, file: str, said: str, tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    text = (folder / file).read_text()
    (folder / file).write_text(("1" if text[0] == "0" else "0") + text[1:])
    done = make(folder)
    assert done.returncode != 0
    assert f"FAIL file={file} line=0 has the checksum" in done.stdout
    done = make(resealed(folder))
    assert done.returncode != 0
    assert f"file={said} image=0 " in done.stdout


def test_files_that_were_changed_to_agree_with_a_wrong_design_never_pass(
    make: Make, tiny_set: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    done = make(folder, f"DUT={without_relu(folder, tmp_path)}")
    assert done.returncode != 0
    assert "relu.hex: FAILED" in done.stdout
    assert "simulation FAILED: the set is not as dumped" in done.stdout


def test_missing_design_is_said_in_one_line(make: Make, tiny_set: Path) -> None:
    done = make(tiny_set, "DUT=my_dut.sv")
    assert done.returncode != 0
    assert f"DUT=my_dut.sv is not a file; a relative path starts at {tiny_set}" in done.stdout


def test_missing_file_fails(make: Make, tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    (folder / "psum.hex").unlink()
    done = make(folder)
    assert done.returncode != 0
    assert "FAIL file=psum.hex line=0 cannot be opened" in done.stdout


def test_own_design_is_taken_from_dut(make: Make, tiny_set: Path, tmp_path: Path) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "my dut.sv", [("endmodule", 'initial $display("mine");\nendmodule')])
    done = make(tiny_set, f"DUT={dut}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine" in done.stdout.splitlines()


def test_own_design_may_be_several_files_and_options_of_icarus(make: Make, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include/own.vh").write_text("localparam OWN = `OWN;\n")
    top = edited(
        tiny_set / "dut.sv", tmp_path / "top.sv", [("endmodule", '`include "own.vh"\n  part part ();\nendmodule')]
    )
    (tmp_path / "part.sv").write_text('module part; initial $display("part"); endmodule\n')
    options = f"-I{tmp_path / 'include'} -DOWN=3"
    done = make(tiny_set, f"DUT={top} {tmp_path / 'part.sv'} {options}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "part" in done.stdout.splitlines()
    done = make(tiny_set, f"DUT={top} {tmp_path / 'party.sv'} {options}")
    assert done.returncode != 0
    assert f"DUT={tmp_path / 'party.sv'} is not a file; a relative path starts at" in done.stdout


@pytest.mark.parametrize("fault", DUT_FAULTS)
def test_faulty_design_never_passes(make: Make, fault: str, tiny_set: Path, tmp_path: Path) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", DUT_FAULTS[fault][0])
    assert make(tiny_set, f"DUT={dut}").returncode != 0


def test_design_that_does_not_compile_fails_with_its_line(make: Make, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "dut.sv").write_text("module dut;\n  wire = 1;\nendmodule\n")
    done = make(tiny_set, f"DUT={tmp_path / 'dut.sv'}")
    assert done.returncode != 0
    assert f"{tmp_path / 'dut.sv'}:2: syntax error" in done.stderr


def test_missing_icarus_is_said_in_one_line(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    path = path_of(tmp_path / "bare", *(tool for tool in TOOLS if tool not in ("iverilog", "vvp")))
    done = subprocess.run(
        ["make", "-C", str(tiny_set), "sim"], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "iverilog is missing: install Icarus Verilog" in done.stdout.splitlines()


def test_a_design_for_a_bench_that_only_loads_is_refused(make: Make, alone: Path) -> None:
    done = make(alone, "DUT=/nonexistent")
    assert (done.returncode, "LOADED" in done.stdout) == (2, False)
    assert "DUT is given, but the bench of this layout only loads its files" in done.stdout


def test_the_name_of_the_folder_runs_nothing(make: Make, tiny_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "$(touch made)`touch made`\"'; touch made #"
    folder.mkdir()
    done = make(copied(tiny_set, folder / "set"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.rglob("made"))
