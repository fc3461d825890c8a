"""A stub loads the memories that Verilog can load and names the others; without any there is no stub."""

import subprocess
from pathlib import Path

from qexport.build.dump import dump
from qexport.layout.toml import parse_layout
from tests.conftest import cli, fails, make_capture
from tests.sim.conftest import Tool

HEAD = 'name = "many"\n[array]\nrow = 4\n'
MEMORY = """[[memory]]
name = "{radix}"
tensor = "weight"
order = "oc (it row) kh kw -> it | oc kh kw | ~row"
file = "weight_{{it}}.{radix}"
radix = "{radix}"
"""
NOT_LOADED = ("raw_be", "raw_le", "coe", "mif", "ihex", "srec", "c", "npz")


def test_stub_loads_mem_and_names_what_it_does_not_load(tool: Tool, tmp_path: Path) -> None:
    header = 'header = ["// eight by four"]\n'
    text = HEAD + MEMORY.format(radix="mem") + header + "".join(MEMORY.format(radix=radix) for radix in NOT_LOADED)
    folder = dump(make_capture(), parse_layout(text, "many.toml"), tmp_path).folder
    stub = (folder / "stub_features_33.sv").read_text()
    for radix in NOT_LOADED:
        assert f"  // {radix} is not loaded: weight_0.{radix}, ... has the format {radix}, for " in stub
        assert f"{radix}_mem" not in stub
    words = (folder / "weight_0.mem").read_text().splitlines()[2:] + (folder / "weight_1.mem").read_text().splitlines()[
        2:
    ]
    assert len(words) == 2 * 72
    printing = 'for (int i = 0; i < 144; i = i + 1) $display("%h", mem_mem[i]);\n'
    place = "    // Your design goes here"
    assert place in stub
    (tmp_path / "stub.sv").write_text(stub.replace(place, printing + place))
    sources = [folder / "features_33_pkg.sv", tmp_path / "stub.sv"]
    command = [
        tool("iverilog", "iverilog"),
        "-g2012",
        "-Wall",
        "-s",
        "stub_features_33",
        "-o",
        tmp_path / "sim",
        *sources,
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    run = ["vvp", "-N", tmp_path / "sim", f"+dir={folder}", "+nonce=7"]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[:144] == words
    assert printed[144] == "LOADED words=144 nonce=7"
    made = subprocess.run(["make", "-C", folder, "sim"], capture_output=True, text=True, check=True)
    assert "LOADED words=144" in made.stdout
    (folder / "weight_1.mem").write_text("// eight by four\n@00000000\n" + "\n".join(words[72:-1]) + "\n")
    broken = subprocess.run(run, capture_output=True, text=True, check=False)
    assert broken.returncode != 0
    assert broken.stdout.startswith("FAIL file=weight_1.mem line=74 has 71 words, needs 72")


def test_set_that_verilog_cannot_load_has_no_stub(tmp_path: Path) -> None:
    text = HEAD + "".join(MEMORY.format(radix=radix) for radix in NOT_LOADED)
    dumped = dump(make_capture(), parse_layout(text, "many.toml"), tmp_path)
    assert [file.path for file in dumped.manifest.bench] == ["features_33_pkg.sv", "params.vh"]
    for name in ("features_33_pkg.sv", "params.vh"):
        constants = (dumped.folder / name).read_text()
        assert "WORDS_EXPECTED" not in constants
        assert "localparam NPZ_WORDS = 72;" in constants.replace("localparam int", "localparam")
        assert "None" not in constants
    assert cli("verify", dumped.folder).exit_code == 0
    fails(cli("simulate", dumped.folder), "without a self-checking bench")
