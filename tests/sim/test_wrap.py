"""A foreign core comes to its first verdict through the adapter that `qexport wrap` writes, with few own lines."""

import re
from pathlib import Path

import pytest
from click.testing import Result

from qexport.core.capture import LayerCapture
from qexport.layout.toml import layout_text, parse_layout
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.judges.cores import layers
from tests.sim.conftest import edited
from tests.sim.test_ports import without

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "docs" / "examples"
MOST_LINES = 25  # of one's own
BOTH = pytest.mark.parametrize("simulator", ["icarus", "verilator"], indirect=True)
ICARUS = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)


def conv_capture() -> LayerCapture:
    return make_capture(plane=(3, 4), images=2, in_channels=12, out_channels=9, kernel=(3, 3), padding=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def conv_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(conv_capture(), "default", tmp_path_factory.mktemp("wrap"))


def wrapped(folder: Path, out: Path, *core: str | Path) -> Path:
    result = cli("wrap", *core, "--set", folder, "--out", out)
    assert result.exit_code == 0, result.output
    (adapter,) = out.glob("*_adapter.sv")
    return adapter


def run(folder: Path, adapter: Path, simulator: str, *more: str) -> Result:
    given = ("--dut", adapter.parent / "files.f", "--top", adapter.stem, "--simulator", simulator)
    return cli("simulate", folder, *given, *more)


def fill(adapter: Path, edits: list[tuple[str, str]]) -> int:
    """How many lines are one's own then."""
    before = adapter.read_text().splitlines()
    edited(adapter, adapter, edits)
    own = set(adapter.read_text().splitlines()) - set(before)
    assert len(own) <= MOST_LINES
    return len(own)


# core, its file, what is filled in: a port's or wire's line as it was written and as it must be
CORES: dict[str, tuple[Path, list[tuple[str, str]]]] = {
    "loop": (EXAMPLES / "mac_loop.v", [
        (".addr('0)", ".addr(16'(input_valid ? (input_iy * IX + input_ix) * IC + input_ic : "
                      "((weight_kh * KW + weight_kw) * IC + weight_ic) * OC + weight_oc))"),
    ]),
    "memory": (HERE / "wrap_cores.sv", [
        (".weight_addr_i('0)", ".weight_addr_i(16'(((weight_oc * IC + weight_ic) * KH + weight_kh) * KW + weight_kw))"),
        (".pixel_addr_i('0)", ".pixel_addr_i(16'((input_ic * IY + input_iy) * IX + input_ix))"),
        ("result_oc = result_index % OC;", "result_oc = result_index / (OY * OX);"),
        ("result_ox = result_index / OC % OX;", "result_ox = result_index % OX;"),
        ("result_oy = result_index / (OC * OX);", "result_oy = result_index / OX % OY;"),
    ]),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", CORES)
def test_an_adapter_compiles_and_fails_and_passes_when_it_is_filled_in(
    simulator: str, name: str, conv_set: Path, tmp_path: Path
) -> None:
    core, edits = CORES[name]
    adapter = wrapped(conv_set, tmp_path / "adapter", core)
    marked = [line for line in adapter.read_text().splitlines() if "  // FILL IN" in line]
    assert len(marked) == sum("('0)" in old for old, _ in edits)
    result = run(conv_set, adapter, simulator)
    assert result.exit_code == 1, result.output
    assert "FAIL memory=accumulator" in result.stderr
    fill(adapter, edits)
    for seed in ("0", "1"):
        result = run(conv_set, adapter, simulator, "--seed", seed)
        assert result.exit_code == 0, result.output
        assert "PASS, 384 values" in result.stdout  # of 16 channels, because tiles have 8


@ICARUS
def test_whole_words_go_over_at_once_where_the_core_takes_them(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    text = (tiny_set / "dut.sv").read_text().replace("tiny_pkg", "sizes")
    for memory in ("psum", "relu"):
        text = without(text, memory)
    text = re.sub(r"\bs_weight_t(\w+)", r"wgt_\1", re.sub(r"\bs_input_t(\w+)", r"pix_\1", text))
    text = re.sub(r"\bm_accumulator_t(\w+)", r"acc_\1", text).replace("module dut (", "module words (")
    (tmp_path / "words.sv").write_text((tiny_set / "tiny_pkg.sv").read_text().replace("tiny_pkg", "sizes") + text)
    adapter = wrapped(tiny_set, tmp_path / "adapter", tmp_path / "words.sv")
    assert "FILL IN" not in adapter.read_text()
    result = run(tiny_set, adapter, simulator, "--seed", "1")
    assert result.exit_code == 0, result.output


@ICARUS
def test_a_fault_of_the_core_fails_at_its_place_through_the_adapter(
    simulator: str, conv_set: Path, tmp_path: Path
) -> None:
    core = edited(EXAMPLES / "mac_loop.v", tmp_path / "mac_loop.v", [("px >= 0 && px < W;", "px >= 0;")])
    adapter = wrapped(conv_set, tmp_path / "adapter", core)
    fill(adapter, CORES["loop"][1])
    result = run(conv_set, adapter, simulator)
    assert result.exit_code == 1, result.output
    assert set(re.findall(r"FAIL memory=accumulator .* x=(\d+) got", result.stderr)) == {"3"}


@ICARUS
@pytest.mark.parametrize("name", ["line_buffer", "bit_serial", "os_2x2"])
def test_cores_of_another_style_pass_without_a_line_of_ones_own(simulator: str, name: str, tmp_path: Path) -> None:
    """Results while pixels still come, psums beside the sums, words of which some are fill alone."""
    folder = layers.set_of(name, tmp_path).folder
    adapter = wrapped(folder, tmp_path / "adapter", layers.design_of(name))
    assert fill(adapter, []) == 0
    result = run(folder, adapter, simulator)
    assert result.exit_code == 0, result.output


@ICARUS
@pytest.mark.parametrize("layout", ["decimals", "stream_nhwc32"])
def test_an_adapter_parts_and_makes_the_words_of_other_layouts(simulator: str, layout: str, tmp_path: Path) -> None:
    """Words of a code and of eight, results in 32 bits, channels last; and one without the constants of the preset."""
    capture = make_capture(plane=(3, 4), images=2, in_channels=3, out_channels=2)
    folder = checked_dump(capture, layout, tmp_path / "set")
    adapter = wrapped(folder, tmp_path / "adapter", EXAMPLES / "mac_loop.v")
    fill(adapter, CORES["loop"][1])
    result = run(folder, adapter, simulator, "--seed", "1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("os8x8", "memory 'activation' of .* has tensor = 'patches'"),
        ("bitplanes", r"memory 'weight' of .* has order = '\(ot col\) \(it row\) kh kw bit"),
        ("ws8x8_taps", "memory 'activation' of .* has order = "),  # a tile of all images, and then the next
    ],
)
def test_the_key_of_a_layout_that_stands_in_the_way_is_named(layout: str, says: str, tmp_path: Path) -> None:
    text = re.sub(r"(row|col) = 8", r"\1 = 2", layout_text(layout))
    capture = make_capture(plane=(3, 3), images=2, in_channels=4, out_channels=2)
    folder = checked_dump(capture, parse_layout(text, "two.toml"), tmp_path / "set")
    result = cli("wrap", EXAMPLES / "mac_loop.v", "--set", folder, "--out", tmp_path / "adapter")
    fails(result, "wrap: ", "--layout default")
    assert re.search(says, result.stderr)


@ICARUS
def test_what_cannot_be_wrapped_is_named(simulator: str, conv_set: Path, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "two.v").write_text("module a; endmodule\nmodule b; endmodule\n")
    fails(cli("wrap", tmp_path / "two.v", "--set", tiny_set, "--out", tmp_path / "new"), "a, b", "name one with --top")
    core = HERE / "vhdl" / "conv.vhd"
    fails(cli("wrap", core, "--set", tiny_set, "--out", tmp_path / "new"), "name its entity with --top")
    fails(cli("wrap", tmp_path / "no.v", "--set", tiny_set, "--out", tmp_path / "new"), "no.v does not exist")
    core = EXAMPLES / "mac_loop.v"
    fails(cli("wrap", core, "--set", tiny_set, "--out", tmp_path), f"{tmp_path} is there already and not empty")
    assert not (tmp_path / "new").exists()
