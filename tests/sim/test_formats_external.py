"""Every format is read, or was written, by something that we did not write."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from qexport.core.intformat import Int64, IntFormat
from qexport.layout.formats.base import WordSpec
from qexport.layout.formats.registry import FORMATS
from qexport.sim.registry import SIMULATORS
from qexport.sim.tools import Job
from tests.sim.conftest import Tool

# bits of an element, lanes: words of a part of a digit, of 20 lanes, of whole bytes, and of 64 bits
SHAPES = [(3, False, 3), (4, True, 20), (8, True, 2), (4, True, 8), (16, True, 4), (63, True, 1)]
each_shape = pytest.mark.parametrize(("bits", "signed", "lanes"), SHAPES)
WORDS = 300


def block(bits: int, signed: bool, lanes: int, words: int = WORDS) -> tuple[WordSpec, Int64]:
    """Random words, the extreme codes among them."""
    fmt = IntFormat(bits, signed)
    elements = np.random.default_rng(bits).integers(fmt.low, fmt.high, (words, lanes), endpoint=True)
    elements[0], elements[-1] = fmt.low, fmt.high
    return WordSpec(lanes, fmt, (), "weight"), elements


def patterns(spec: WordSpec, elements: Int64) -> list[int]:
    """The words as whole numbers, put together in plain Python."""
    words = []
    for row in elements.tolist():
        word = 0
        for code in row:
            word = word << spec.element.bits | code % (1 << spec.element.bits)
        words.append(word)
    return words


def octets(spec: WordSpec, elements: Int64, order: str = "big") -> bytes:
    size = -(-spec.word_bits // 8)
    return b"".join(word.to_bytes(size, "big" if order == "big" else "little") for word in patterns(spec, elements))


# --- Verilog --------------------------------------------------------------------------------------------------------

READERS = {
    "hex": '$readmemh("{file}", m);',
    "mem": '$readmemh("{file}", m);',
    "bin": '$readmemb("{file}", m);',
    "dec": """f = $fopen("{file}", "r");
    for (i = 0; i < {words}; i = i + 1) for (l = {lanes} - 1; l >= 0; l = l - 1) begin
      if ($fscanf(f, "%d", v) != 1) $display("unread");
      m[i][l * {bits} +: {bits}] = v[{bits} - 1:0];
    end""",
}


def loads(simulator: str, files: dict[str, tuple[WordSpec, Int64]], folder: Path) -> list[list[int]]:
    """What a simulator reads from files; names begin with the radix."""
    modules, top = "", "module top;\n"
    for number, (name, (spec, elements)) in enumerate(files.items()):
        radix, width = name.split(".")[-1], spec.word_bits
        values = {"words": len(elements), "lanes": spec.lanes, "bits": spec.element.bits, "file": name}
        read = READERS[radix]
        for key, value in values.items():
            read = read.replace(f"{{{key}}}", str(value))
        modules += f"""module r{number};
  reg [{width - 1}:0] m [0:{len(elements) - 1}];
  reg signed [63:0] v; integer i, l, f;
  initial begin
    {read}
    for (i = 0; i < {len(elements)}; i = i + 1) $display("{number} %h", m[i]);
  end
endmodule
"""
        top += f"  r{number} u{number}();\n"
    source = folder / "top.sv"
    source.write_text(modules + top + "  initial #1 $finish;\nendmodule\n")
    built = SIMULATORS[simulator].compile(Job((source,), folder, "top"), folder)
    assert built.returncode == 0, built.stderr
    command = SIMULATORS[simulator].command(folder / "sim")
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "unread" not in run.stdout
    assert "WARNING" not in (run.stdout + run.stderr).upper(), run.stdout
    found = [line.split() for line in run.stdout.splitlines() if line[:1].isdigit()]
    return [[int(word, 16) for number, word in found if number == str(at)] for at in range(len(files))]


def test_simulators_read_the_words_of_hex_bin_dec_and_mem(simulator: str, tmp_path: Path) -> None:
    files: dict[str, tuple[WordSpec, Int64]] = {}
    for shape in SHAPES:
        for radix in READERS:
            spec, elements = block(*shape, words=9)
            name = f"{len(files)}.{radix}"
            (tmp_path / name).write_bytes(FORMATS[radix].write(elements, spec))
            files[name] = spec, elements
    read = loads(simulator, files, tmp_path)
    assert read == [patterns(spec, elements) for spec, elements in files.values()]


@pytest.mark.parametrize("radix", ["hex", "bin", "mem"])
def test_icarus_and_our_reader_take_the_same_decorated_text(tool: Tool, radix: str, tmp_path: Path) -> None:
    tool("iverilog", "iverilog")
    spec, elements = block(4, True, 8, words=20)
    words = FORMATS[radix].write(elements, spec).decode().splitlines()[-20:]
    text = "// the second half first\n@0a /* ten */\n" + "".join(f"{w[:3]}_{w[3:]} // {w}\n" for w in words[10:])
    text += "/* a\n@ff */ @0\n" + "".join(f"/* x */ {word}\n" for word in words[:10])
    (tmp_path / f"x.{radix}").write_text(text)
    np.testing.assert_array_equal(FORMATS[radix].read(text.encode(), spec), elements)
    assert loads("icarus", {f"x.{radix}": (spec, elements)}, tmp_path) == [patterns(spec, elements)]


# --- srecord --------------------------------------------------------------------------------------------------------


def srec_cat(tool: Tool, folder: Path, data: bytes, kind: str, *output: str) -> bytes:
    """What srec_cat makes of a file of a kind; it may have nothing to say."""
    (folder / "in").write_bytes(data)
    command = [tool("srec_cat", "srecord"), "in", kind, "-o", "out", *output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    return (folder / "out").read_bytes()


@each_shape
@pytest.mark.parametrize(("radix", "kind"), [("ihex", "-Intel"), ("srec", "-Motorola")])
def test_srecord_reads_and_writes_the_bytes_of_ihex_and_srec(
    tool: Tool, tmp_path: Path, radix: str, kind: str, bits: int, signed: bool, lanes: int
) -> None:
    spec, elements = block(bits, signed, lanes)
    raw = octets(spec, elements)
    assert srec_cat(tool, tmp_path, FORMATS[radix].write(elements, spec), kind, "-Binary") == raw
    theirs = srec_cat(tool, tmp_path, raw, "-Binary", kind)
    np.testing.assert_array_equal(FORMATS[radix].read(theirs, spec), elements)


@pytest.mark.parametrize(("radix", "kind"), [("ihex", "-Intel"), ("srec", "-Motorola")])
def test_words_of_three_bytes_cross_the_first_64_kilobytes(tool: Tool, tmp_path: Path, radix: str, kind: str) -> None:
    spec, elements = block(8, True, 3, words=22000)
    data = FORMATS[radix].write(elements, spec)
    assert srec_cat(tool, tmp_path, data, kind, "-Binary") == octets(spec, elements)
    theirs = srec_cat(tool, tmp_path, octets(spec, elements), "-Binary", kind)
    np.testing.assert_array_equal(FORMATS[radix].read(theirs, spec), elements)
    np.testing.assert_array_equal(FORMATS[radix].read(data, spec), elements)


@pytest.mark.parametrize(("bits", "lanes"), [(8, 1), (4, 4), (4, 8), (1, 16), (16, 2)])
def test_srecord_reads_and_writes_the_words_of_mif(tool: Tool, tmp_path: Path, bits: int, lanes: int) -> None:
    spec, elements = block(bits, True, lanes)
    # srec_cat reads the words of a MIF as little-endian, and writes them from big-endian bytes
    ours = srec_cat(tool, tmp_path, FORMATS["mif"].write(elements, spec), "-Memory_Initialization_File", "-Binary")
    assert ours == octets(spec, elements, "little")
    width = str(spec.word_bits)
    theirs = srec_cat(tool, tmp_path, octets(spec, elements), "-Binary", "-Memory_Initialization_File", width)
    np.testing.assert_array_equal(FORMATS["mif"].read(theirs, spec), elements)


@pytest.mark.parametrize(("bits", "lanes"), [(8, 1), (4, 4), (4, 8), (16, 2)])
def test_coe_has_the_words_that_srecord_writes(tool: Tool, tmp_path: Path, bits: int, lanes: int) -> None:
    spec, elements = block(bits, True, lanes, words=128 // (bits * lanes))  # srec_cat 1.64 writes one record of COE
    theirs = srec_cat(tool, tmp_path, octets(spec, elements), "-Binary", "-COE", str(spec.word_bits))
    np.testing.assert_array_equal(FORMATS["coe"].read(theirs, spec), elements)
    ours = FORMATS["coe"].write(elements, spec)

    def statements(text: bytes) -> str:
        lines = [line for line in text.decode().lower().splitlines() if not line.startswith(";")]
        return "".join("".join(lines).split())

    assert statements(ours) == statements(theirs)


# --- C, NumPy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "signed", "lanes"), [shape for shape in SHAPES if shape[0] * shape[2] <= 64])
def test_gcc_compiles_the_header_and_its_program_prints_the_words(
    tool: Tool, tmp_path: Path, bits: int, signed: bool, lanes: int
) -> None:
    spec, elements = block(bits, signed, lanes)
    spec = WordSpec(spec.lanes, spec.element, ("// weights of one layer",), "weight_it0")
    (tmp_path / "weight.h").write_bytes(FORMATS["c"].write(elements, spec))
    (tmp_path / "main.c").write_text(
        '#include "weight.h"\n#include "weight.h"\n#include <inttypes.h>\n#include <stdio.h>\n'
        "int main(void) {\n  for (size_t i = 0; i < sizeof weight_it0_mem / sizeof *weight_it0_mem; i++)\n"
        '    printf("%" PRIu64 "\\n", (uint64_t)weight_it0_mem[i]);\n  return 0;\n}\n'
    )
    options = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", "main", "main.c"]
    subprocess.run([tool("gcc", "gcc"), *options], cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in printed.split()] == patterns(spec, elements)


@pytest.mark.parametrize(("radix", "byte_order"), [("raw_be", ">"), ("raw_le", "<")])
@pytest.mark.parametrize(("bits", "signed"), [(8, True), (16, True), (16, False), (32, True)])
def test_numpy_reads_raw_elements(radix: str, byte_order: str, bits: int, signed: bool, tmp_path: Path) -> None:
    spec, elements = block(bits, signed, 1)
    (tmp_path / "x").write_bytes(FORMATS[radix].write(elements, spec))
    read = np.fromfile(tmp_path / "x", f"{byte_order}{'i' if signed else 'u'}{bits // 8}")
    np.testing.assert_array_equal(read, elements[:, 0])


@each_shape
def test_raw_words_are_padded_on_top(bits: int, signed: bool, lanes: int) -> None:
    spec, elements = block(bits, signed, lanes)
    assert FORMATS["raw_be"].write(elements, spec) == octets(spec, elements, "big")
    assert FORMATS["raw_le"].write(elements, spec) == octets(spec, elements, "little")


@each_shape
def test_numpy_loads_npz(bits: int, signed: bool, lanes: int, tmp_path: Path) -> None:
    spec, elements = block(bits, signed, lanes)
    (tmp_path / "x.npz").write_bytes(FORMATS["npz"].write(elements, spec))
    with np.load(tmp_path / "x.npz") as archive:
        assert set(archive.files) == {"elements", "bits", "signed"}
        np.testing.assert_array_equal(archive["elements"], elements)
        assert archive["elements"].dtype.itemsize == next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
        assert (archive["bits"], archive["signed"]) == (bits, signed)
    file = tmp_path / "theirs.npz"
    np.savez_compressed(file, elements=archive_like(elements, bits, signed), bits=bits, signed=signed)
    np.testing.assert_array_equal(FORMATS["npz"].read(file.read_bytes(), spec), elements)


def archive_like(elements: Int64, bits: int, signed: bool) -> np.ndarray:
    size = next(size for size in (8, 16, 32, 64) if size >= bits)
    return elements.astype(f"{'' if signed else 'u'}int{size}")
