"""An independent reader of memory files: which element of a tensor stands where, and what the text of a file says.

Written from the contract alone, against the grain of a writer: each place of a file asks which element stands there."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
Ints = NDArray[np.int64]

PART = r"(?:\d+\+)?[A-Za-z_]\w*(?:\+\d+)?"  # an axis, or a tile with neighbours: row+2, 1+row+1
TERM = rf"(~?)(?:(\([\w ]+\)|\w+)[=:])?(\({PART}(?: +{PART})*\)|\w+)"  # [~][joined= or name:] axis or (axes)


@dataclass(frozen=True)
class Part:
    name: str
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Term:
    back: bool  # ~
    head: list[str]  # what stands before = or :
    parts: list[Part]


def code_range(form: Json) -> tuple[int, int]:
    return -(form["signed"] << form["bits"] - 1), (1 << form["bits"] - form["signed"]) - 1


def read_terms(text: str) -> list[Term]:
    """The terms of a stage or group."""
    if re.sub(TERM + "| ", "", text):
        raise ValueError(f"the order is unreadable at {text}")

    def part(word: str) -> Part:
        before, name, after = re.fullmatch(r"(?:(\d+)\+)?(\w+?)(?:\+(\d+))?", word).groups()  # type: ignore[union-attr]
        return Part(name, int(before or 0), int(after or 0))

    return [
        Term(bool(back), head.strip("()").split(), [part(word) for word in names.strip("()").split()])
        for back, head, names in re.findall(TERM, text)
    ]


@dataclass(frozen=True)
class Split:
    """One term left of the arrow: axes before it, the joined size, and the parts with their sizes."""

    axes: list[str]
    lengths: list[int]
    parts: list[Part]
    sizes: list[int]  # of tiles without their neighbours

    @property
    def total(self) -> int:
        return math.prod(self.lengths)


def read_stages(mem: Json, array: dict[str, int]) -> tuple[list[list[Split]], dict[str, int]]:
    """The stages, and the size of each axis that the last one gives."""
    *stages, _ = mem["order"].split("->")
    size = {str(axis): length for axis, length in enumerate(mem["shape"])}
    found = []
    for number, stage in enumerate(stages):
        rest, splits, after = list(size), [], dict[str, int]()
        for term in read_terms(stage):
            names = [part.name for part in term.parts]
            axes = term.head or names if number else rest[: len(term.head) or 1]  # the tensor's come in their order
            for axis in axes:
                rest.remove(axis)
            lengths = [size[axis] for axis in axes]
            total, given = math.prod(lengths), math.prod(array.get(name, 1) for name in names)
            last = term.parts[-1]
            if last.before or last.after:
                given = math.prod(array.get(name, 1) for name in names)
                total = max(total - (0 if last.before else last.after), 1)
            if number and not term.head:
                sizes = [size[name] for name in names]  # axes that stand alone
            else:
                sizes = [array.get(name, -(-total // given)) for name in names]
            splits.append(Split(axes, lengths, term.parts, sizes))
            after |= {
                part.name: length + part.before + part.after
                for part, length in zip(term.parts, sizes, strict=True)
            }  # fmt: skip
        if rest:
            raise ValueError(f"stage {number} lacks {rest}")
        found.append(splits)
        size = after
    return found, size


def place_of(splits: list[Split], index: dict[str, Ints]) -> tuple[dict[str, Ints], Any]:
    """One stage backwards: indices of the axes before it, and where there is such an element."""
    found: dict[str, Ints] = {}
    there: Any = True
    for split in splits:
        flat: Any = 0
        for part, size in zip(split.parts, split.sizes, strict=True):
            flat = flat * size + index[part.name] - part.before
        there = there & (flat >= 0) & (flat < split.total)
        for axis, length in zip(reversed(split.axes), reversed(split.lengths), strict=True):
            flat, found[axis] = np.divmod(flat, length)
    return found, there


def read_order(mem: Json, array: dict[str, int]) -> tuple[Ints, dict[str, int]]:
    """Each place's element, flat in the tensor [file, word, lane], -1 where filled; sizes of the file axes."""
    stages, size = read_stages(mem, array)
    groups = [read_terms(part) for part in mem["order"].split("->")[-1].split("|")]
    named = [part.name for group in groups for term in group for part in term.parts]
    again = {name: array[name] for name in named if name not in size}  # these repeat each element
    size = size | again
    if sorted(named) != sorted(size) or any(term.back for term in groups[0]):
        raise ValueError("the order lacks an axis right of the arrow or reverses a file axis")
    for split in (split for splits in stages for split in splits):
        last = split.parts[-1].name
        bank = any(last == part.name for term in groups[0] for part in term.parts) and len(split.parts) > 1
        if bank and math.prod(split.sizes) != split.total:
            raise ValueError(f"{split.total} elements do not go evenly into the files {last}")
    terms = [term for group in groups for term in group]
    runs = [math.prod(size[part.name] for part in term.parts) for term in terms]
    late = 0
    if "skew" in mem:
        late = (size[mem["skew"]] - 1) * mem.get("skew_by", 1)
        if mem["skew"] not in [part.name for term in groups[2] for part in term.parts]:
            raise ValueError(f"skew: {mem['skew']} is not an axis of the lanes")
    last_address = len(groups[0]) + len(groups[1]) - 1 if groups[1] else -1  # -1: each file is one word
    shape = [run + late * (number == last_address) for number, run in enumerate(runs)]
    at = dict(enumerate(np.indices(shape).reshape(len(shape), -1)))
    index: dict[str, Ints] = {}

    def open_term(number: int, flat: Ints) -> None:
        flat = runs[number] - 1 - flat if terms[number].back else flat
        for part in reversed(terms[number].parts):
            flat, index[part.name] = np.divmod(flat, size[part.name])

    for number in range(len(terms)):
        if number != last_address:
            open_term(number, at[number])
    there: Any = np.ones(math.prod(shape), bool)
    if last_address >= 0:
        time = at[last_address] - (index[mem["skew"]] * mem.get("skew_by", 1) if late else 0)
        there &= (time >= 0) & (time < runs[last_address])
        open_term(last_address, time)
    for splits in reversed(stages):
        index, inside = place_of(splits, index)
        there = there & inside
    flat: Any = np.zeros(math.prod(shape), np.int64)
    for axis, length in enumerate(mem["shape"]):
        flat = flat * length + index[str(axis)]
    cut = len(groups[0]), len(groups[0]) + len(groups[1])
    grid = [math.prod(shape[a:b]) for a, b in ((0, cut[0]), cut, (cut[1], len(shape)))]
    axes = {(*term.head, *(p.name for p in term.parts))[0]: run for term, run in zip(terms, runs, strict=False)}
    return np.where(there, flat, -1).reshape(grid), dict(list(axes.items())[: len(groups[0])])


# ---- the text -------------------------------------------------------------------------------------------------------


def word_text(mem: Json, lanes: list[int]) -> str:
    """A word as the contract writes it."""
    bits, between = mem["bits"], mem.get("between")
    if mem["radix"] == "dec":
        return (" " if between is None else between).join(str(lane).rjust(mem.get("pad", 0)) for lane in lanes)
    base, digit = {"hex": ("x", 4), "bin": ("b", 1)}[mem["radix"]]
    raw = [lane % (1 << bits) for lane in lanes]
    if between:
        text = between.join(format(lane, f"0{-(-bits // digit)}{base}") for lane in raw)
    else:
        word = 0
        for lane in raw:
            word = word << bits | lane
        text = format(word, f"0{-(-bits * len(lanes) // digit)}{base}")
    return text.upper() if mem.get("case") == "upper" else text


def file_text(mem: Json, words: list[str]) -> str:
    """A file of those words; `mem` gives the style."""
    per_line, group = mem.get("per_line", 1), mem.get("group", 0)
    lines = list(mem.get("header", []))
    for number in range(0, len(words), per_line):
        line = words[number : number + per_line]
        lines.append(mem.get("word_between", " ").join(word + mem.get("word_end", "") for word in line))
        if group and (number + per_line) % group == 0 and number + per_line < len(words):
            lines.append("")
    return "".join(line + {"crlf": "\r\n"}.get(mem.get("newline", ""), "\n") for line in lines)


def read_tokens(mem: Json, text: str) -> list[str]:
    """The numbers of a file: whole words, or lanes where something stands between them."""
    skipped = len(mem.get("header", []))
    lines = text.replace("\r\n", "\n").split("\n")[skipped:]
    pattern = {"hex": r"[0-9a-fA-F]+", "bin": r"[01]+", "dec": r"-?[0-9]+"}[mem["radix"]]
    return re.findall(pattern, " ".join(lines).replace("_", " "))


def lanes_of(mem: Json, tokens: list[str]) -> list[int]:
    """The codes of one word."""
    bits, (low, _), count = mem["bits"], code_range(mem), mem["word_bits"] // mem["bits"]
    if mem["radix"] == "dec":
        return [int(token) for token in tokens]
    base = {"hex": 16, "bin": 2}[mem["radix"]]
    if mem.get("between"):
        raw = [int(token, base) for token in tokens]
    else:
        raw = [int(tokens[0], base) >> shift for shift in range((count - 1) * bits, -1, -bits)]
    return [(value - low) % (1 << bits) + low for value in raw]


def read_c(mem: Json, text: str) -> tuple[str, str, int, list[list[int]]]:
    """Type, name and length of a C header's array, and its words."""
    found = re.findall(r"(?:static )?const (\w+) (\w+)\[(\d+)\] = \{([^}]*)\};", text)
    if len(found) != 1:
        raise ValueError(f"{len(found)} arrays in a header")
    kind, name, length, body = found[0]
    bits, (low, _), count = mem["bits"], code_range(mem), mem["word_bits"] // mem["bits"]
    words = [int(re.sub("[uUlL]+$", "", word), 0) for word in re.split(r"[,\s]+", body.strip().strip(",")) if word]
    rows = [
        [(word >> shift) % (1 << bits) - low & (1 << bits) - 1 for shift in range((count - 1) * bits, -1, -bits)]
        for word in words
    ]
    return kind, name, int(length), [[value + low for value in row] for row in rows]


def read_file(root: Path, path: str, sharing: list[Json]) -> dict[str, list[list[int]]]:
    """Words of one file for each memory that stands in it, in turn; the text must be that of the contract."""
    text = (root / path).read_bytes().decode()
    first, found, written = sharing[0], dict[str, list[list[int]]](), list[str]()
    if first["radix"] == "c":
        return {first["name"]: read_c(first, text)[3]}
    tokens = read_tokens(first, text)
    for mem in sharing:
        entry = next(file for file in mem["files"] if file["path"] == path)
        if entry.get("first_word", 0) != len(written):
            raise ValueError(f"{path}: {mem['name']} begins at word {len(written)}, not {entry.get('first_word')}")
        apart = mem["radix"] == "dec" or mem.get("between")
        step = mem["word_bits"] // mem["bits"] if apart else 1
        taken, tokens = tokens[: step * entry["words"]], tokens[step * entry["words"] :]
        if len(taken) != step * entry["words"]:
            raise ValueError(f"{path}: too few words")
        rows = [lanes_of(mem, taken[at : at + step]) for at in range(0, len(taken), step)]
        found[mem["name"]] = rows
        written += [word_text(mem, row) for row in rows]
    want = file_text(first, written)
    if tokens or text != want:
        differ = next(
            (n for n, (a, b) in enumerate(zip(text, want, strict=False)) if a != b), min(len(text), len(want))
        )
        start = max(differ - 20, 0)
        raise ValueError(f"{path}: {text[start : differ + 20]!r} for {want[start : differ + 20]!r} at {differ}")
    return found


def read_memory(
    root: Path, mem: Json, array: dict[str, int], all_of: list[Json] | None = None
) -> tuple[Ints, Ints, Ints]:
    """The stored elements [file, word, lane], their places, the tensor that untiling gives (no offset)."""
    place, axes = read_order(mem, array)
    (files, words, lanes), bits, (low, high) = place.shape, mem["bits"], code_range(mem)
    facts = [lanes * bits, int(np.sum(place < 0)), [words] * files, list(np.ndindex(*axes.values()))]
    said = [tuple(file["index"].get(a, 0) for a in axes) for file in mem["files"]]
    if facts != [mem["word_bits"], mem["fill"], [file["words"] for file in mem["files"]], said]:
        raise ValueError(f"word_bits, fill, words or file indices differ; they are {str(facts)[:200]}")
    rows: list[list[int]] = []
    for file in mem["files"]:
        sharing = [m for m in all_of or [mem] if any(f["path"] == file["path"] for f in m["files"])]
        sharing.sort(key=lambda m: next(f.get("first_word", 0) for f in m["files"] if f["path"] == file["path"]))
        rows += read_file(root, file["path"], sharing)[mem["name"]]
    if len(rows) != files * words or any(len(row) != lanes for row in rows):
        raise ValueError(f"{len(rows)} words for {files * words}, or other lanes than {lanes}")
    if not all(low <= value <= high for row in rows for value in row):
        raise ValueError(f"a number outside {low}..{high}")
    stored, tensor = np.array(rows, np.int64).reshape(place.shape), np.zeros(mem["shape"], np.int64)
    there = place >= 0
    if len(np.unique(place[there])) != tensor.size:
        raise ValueError("an element stands nowhere")
    tensor.flat[place[there]] = stored[there] - mem["offset"]
    if (tensor.ravel()[place[there]] != stored[there] - mem["offset"]).any():
        raise ValueError("copies of one element differ")
    return stored, place, tensor


def decode(folder: str | Path) -> dict[str, Ints]:
    """Memory name -> stored codes less the offset, in the tensor's axis order and shape."""
    root, manifest = Path(folder), json.loads((Path(folder) / "manifest.json").read_bytes())
    memories = manifest["memories"]
    return {mem["name"]: read_memory(root, mem, manifest["array"], memories)[2] for mem in memories}
