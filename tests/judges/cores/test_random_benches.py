"""The benches of random layouts: a design that plays back what the judge's reader finds in the files passes.

With one bit of one element changed it fails, and the report names that element and no other."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.judges.cores.bench import FAIL, REPORTED, Set, made, passes, simulate
from tests.judges.notation import Json, read_terms
from tests.judges.test_random_layouts import AXES, MATRICES, Memory, capture

pytestmark = pytest.mark.whole
SEEDS = (0, 1, 3, 4, 5, 6, 8)
OPERANDS = {"input": "input", "input_padded": "input", "patches": "input"}


def words_of_image(mem: Json, images: int) -> int:
    """After how many words tlast comes: an image's where `n` is the first file or address axis, else the memory's."""
    files, address, _ = (read_terms(group) for group in mem["order"].split("->")[-1].split("|"))
    words = [int(file["words"]) for file in mem["files"]]
    if files and [part.name for part in files[0].parts] == ["n"]:
        return sum(words) // images
    if address and [part.name for part in address[0].parts] == ["n"]:
        return words[0] // images
    return sum(words)


def playback(found: Set, results: list[str], root: Path, flipped: tuple[str, int, int] | None = None) -> Path:
    """A design that takes all that it is given, and gives the stored words; (memory, word, bit) of one changes."""
    ports, body, operands = ["input wire clk, input wire rst"], list[str](), set[str]()
    for mem in found.manifest["memories"]:
        name, bits, operand = mem["name"], mem["word_bits"], OPERANDS.get(mem["tensor"], mem["tensor"])
        if name not in results:
            if operand in ("input", "input2", "weight", "bias") and operand not in operands:
                operands.add(operand)
                ports.append(f"input wire s_{name}_tvalid, input wire s_{name}_tlast, output wire s_{name}_tready")
                ports.append(f"input wire [{bits - 1}:0] s_{name}_tdata")
                body.append(f"  assign s_{name}_tready = 1;")
            continue
        stored = found.read(name)[0]
        words = stored.reshape(-1, stored.shape[-1]) % (1 << mem["bits"])
        numbers = [int("".join(format(int(lane), f"0{mem['bits']}b") for lane in word), 2) for word in words]
        if flipped is not None and flipped[0] == name:
            numbers[flipped[1]] ^= 1 << flipped[2]
        filled = " ".join(f"{name}_words[{at}] = {bits}'h{number:x};" for at, number in enumerate(numbers))
        every = words_of_image(mem, found.memory(name)["shape"][0])
        ports.append(f"output wire m_{name}_tvalid, output wire m_{name}_tlast, input wire m_{name}_tready")
        ports.append(f"output wire [{bits - 1}:0] m_{name}_tdata")
        body.append(f"""
  reg [{bits - 1}:0] {name}_words [0:{len(words) - 1}];
  integer {name}_at;
  initial begin {filled} end
  assign m_{name}_tvalid = {name}_at < {len(words)};
  assign m_{name}_tdata = {name}_words[m_{name}_tvalid ? {name}_at : 0];
  assign m_{name}_tlast = {name}_at % {every} == {every - 1};
  always @(posedge clk)
    if (rst) {name}_at <= 0;
    else if (m_{name}_tvalid && m_{name}_tready) {name}_at <= {name}_at + 1;""")
    path = root / "playback.v"
    path.write_text("module playback (\n  " + ",\n  ".join(ports) + "\n);\n" + "\n".join(body) + "\nendmodule\n")
    return path


def random_set(seed: int, root: Path) -> Set:
    """All operands, one result at least, and now and then more, each in an order and a text of its own."""
    rng = np.random.default_rng(seed)
    matrices = bool(rng.integers(4) == 0)
    layer, axes, array = capture(rng, matrices), MATRICES if matrices else AXES, dict[str, int]()
    inputs = (
        ["input", "input2"] if matrices else ["weight", "bias", str(rng.choice(["input", "input_padded", "patches"]))]
    )
    tensors = [*inputs, str(rng.choice(["accumulator", "code"]))]
    others = [name for name in rng.permutation(list(axes)).tolist() if name not in tensors]
    memories = [Memory(rng, tensor, axes[tensor], {}, array) for tensor in tensors + others[: rng.integers(0, 3)]]
    sizes = "".join(f"{axis} = {size}\n" for axis, size in array.items())
    return made(layer, root, 'name = "l"\n[array]\n' + sizes + "".join(memory.toml() for memory in memories))


def line_of(mem: Json, word: int) -> int:
    """In which line of its file a word stands."""
    blank = word // int(mem["group"]) if "group" in mem else 0
    return len(mem["header"]) + word // int(mem.get("per_line", 1)) + blank + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_benches_of_random_layouts(seed: int, tmp_path: Path) -> None:
    found = random_set(seed, tmp_path / "set")
    results = [m["name"] for m in found.manifest["memories"] if m["name"] in ("accumulator", "code")]
    passes(found, playback(found, results, tmp_path), results, "--streams", "smooth")
    rng = np.random.default_rng(seed)
    name = str(rng.choice(results))
    mem, (stored, place, _) = found.memory(name), found.read(name)
    file, word, lane = (int(at) for at in rng.choice(np.argwhere(place >= 0)))
    lanes, bits = stored.shape[2], mem["bits"]
    bit = int(rng.integers(bits))
    number = file * stored.shape[1] + word
    design = playback(found, results, tmp_path, (name, number, (lanes - 1 - lane) * bits + bit))
    why = simulate(found, design, "--streams", "smooth", ok=False)["why"]
    (only,) = FAIL.findall(why)
    axes = ["n", "m", "p"] if len(mem["shape"]) == 3 else ["n", "oc", "oy", "ox"]
    index = zip(axes, np.unravel_index(place[file, word, lane], mem["shape"]), strict=True)
    want = int(stored[file, word, lane])
    half = 1 << bits - 1
    got = ((want ^ 1 << bit) + half) % (2 * half) - half if mem["signed"] else (want % (2 * half)) ^ 1 << bit
    assert only[:4] == (name, mem["files"][file]["path"], str(line_of(mem, word)), str(lane)), why
    assert dict(re.findall(r"(\w+)=(-?\d+)", only[4])) == {REPORTED.get(axis, axis): str(at) for axis, at in index}
    assert only[5:] == (str(got), str(want))
