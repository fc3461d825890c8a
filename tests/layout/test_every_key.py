"""All keys of a layout at once: what is dumped is read by the independent decoder; what cannot be is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core import golden
from qexport.errors import QexportError
from qexport.layout.formats.registry import FORMATS
from qexport.layout.toml import MEMORY_KEYS, LayoutError, parse_layout
from tests.build.test_verify import read_json, reseal
from tests.conftest import cases, checked_dump, cli, make_capture

ORDERS = {
    "weight": ["oc (it row) kh kw -> {} | oc kh kw it | ~row", "oc (it row) kh kw -> {} | rep oc kh kw | it row",
               "(ot 1+col+1) ic kh kw -> {} | ot kh kw ic | col", "oc ic kh kw -> {} | ic kh kw oc |"],
    "input": ["n ic (ty row+2) (tx 1+col+1) -> {} | n ic ty tx | row col", "n (it row) iy ix -> {} | n it iy ix | ~row",
              "n ic iy ix -> n ic (iy ix)=(k col+1) -> {} | n k rep | col ic", "n ic iy ix -> {} | iy ix n | ic"],
    "relu": ["n (ot col) oy ox -> {} | n ot oy ox | ~col", "n oc oy ox -> n (oy ox oc)=(k col) -> {} | n k | col",
             "n oc (ty row+2) ox -> {} | n ~ty ~row (oc ox) |"],
    "bias": ["(ot col) -> {} | ot | ~col", "oc -> {} | rep oc | pass", "oc bit -> {} | oc | bit"],
}  # fmt: skip
SIGNS = st.sampled_from([" ", "_", ",", " | ", ";", ", "])


def listed(value: Any) -> str:
    return (
        "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}" if isinstance(value, dict) else json.dumps(value)
    )


def table(keys: dict[str, Any]) -> str:
    return "[[memory]]\n" + "".join(f"{key} = {listed(value)}\n" for key, value in keys.items())


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """A layout of one to four memories; those that are text may share their files."""
    sizes = {axis: draw(st.integers(1, 3)) for axis in ("row", "col", "rep", "pass", "file")}
    memories: list[dict[str, Any]] = []
    for name in draw(st.lists(st.sampled_from(sorted(ORDERS)), min_size=1, max_size=4, unique=True)):
        order = draw(st.sampled_from(ORDERS[name])).format(draw(st.sampled_from(["", "", "file"])))
        keys: dict[str, Any] = {"name": name, "tensor": name, "order": order, "bits": 24, "signed": True}
        lanes = order.rsplit("|", 1)[1].replace("~", "").split()
        if lanes and draw(st.booleans()):
            keys |= {"skew": draw(st.sampled_from(lanes)), "skew_by": draw(st.integers(1, 2))}
        leader = memories[-1] if memories else None
        if leader is not None and ("file" in leader["order"]) == ("file" in order) and draw(st.booleans()):
            memories.append(keys | {"follows": leader["name"]})
            continue
        radix = draw(st.sampled_from(["hex", "bin", "dec"]))
        file = f"{name}{{file}}.txt" if "file" in order else f"{name}.txt"
        keys |= {"file": file, "radix": radix}
        style: dict[str, Any] = {
            "between": draw(SIGNS), "per_line": draw(st.integers(1, 5)), "word_between": draw(SIGNS),
            "word_end": draw(SIGNS), "newline": draw(st.sampled_from(["lf", "crlf"])),
            "header": draw(st.sampled_from([[], ["# one", "# two"]])), "pad": draw(st.integers(0, 5)),
            "case": draw(st.sampled_from(["lower", "upper"])),
        }  # fmt: skip
        style["group"] = draw(st.integers(0, 3)) * style["per_line"]
        takes = {*FORMATS[radix].styles, "header"}
        chosen = draw(st.sets(st.sampled_from(sorted(takes & style.keys()))))
        memories.append(keys | {key: style[key] for key in sorted(chosen)})
    return (
        'name = "any"\n[array]\n'
        + "".join(f"{key} = {size}\n" for key, size in sizes.items())
        + "".join(map(table, memories))
    )


@settings(max_examples=cases(60))
@given(layouts(), st.sampled_from([1, golden.PART_ELEMENTS]), st.integers(0, 3))
def test_the_independent_decoder_reads_every_key(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, seed: int
) -> None:
    capture = make_capture(seed=seed, in_channels=3, out_channels=4, plane=(4, 5), images=2, bias=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "PART_ELEMENTS", size)
        checked_dump(capture, parse_layout(text, "any.toml"), tmp_path_factory.mktemp("set"))


ANY = st.one_of(
    st.integers(-3, 70), st.integers(-(1 << 70), 1 << 70), st.booleans(), st.text(max_size=5),
    st.sampled_from(["row", "ic", "weight", "hex", "c", "dec", "int8_t", "upper", "crlf", "oc", " ", ",", "m{it}.txt"]),
    st.dictionaries(st.sampled_from(["it", "row", "oc"]), st.integers(-1, 3), max_size=2), st.just([]),
)  # fmt: skip


@settings(max_examples=cases(300))
@given(st.dictionaries(st.sampled_from(sorted(MEMORY_KEYS)), ANY, max_size=3))
def test_any_value_of_a_key_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]
) -> None:
    first = {"name": "a", "tensor": "weight", "order": "oc (it row) kh kw -> it | oc kh kw | row", "file": "a{it}.txt"}
    keys = {"name": "m", "tensor": "input", "order": "n (it row) iy ix -> it | n iy ix | row", "file": "m{it}.txt"}
    text = 'name = "x"\n[array]\nrow = 2\n' + table(first | {"radix": "hex"}) + table(keys | {"radix": "hex"} | changed)
    try:
        layout = parse_layout(text, "any.toml")
        checked_dump(make_capture(plane=(2, 2), images=1), layout, tmp_path_factory.mktemp("set"))
    except QexportError as error:
        refused = error
    else:
        return
    assert len(str(refused).splitlines()) == 1
    assert not isinstance(refused, LayoutError) or 1 <= refused.column <= len(refused.source) + 1


@pytest.mark.parametrize(
    ("memory", "changes"),
    [
        (0, {"per_line": 3}), (0, {"group": 2}), (0, {"word_end": "x"}), (0, {"newline": "crlf"}),
        (0, {"between": "_"}), (0, {"skew": "row"}), (0, {"skew": "colour"}), (0, {"skew_by": 0}),
        (0, {"case": "upper"}), (0, {"type": "int8_t"}),
        (1, {"follows": ""}), (1, {"follows": "bias"}), (1, {"radix": "dec"}),
        (1, {"files": 7}), (1, {"files": 1 << 40}), (0, {"first": "x"}),
    ],
)  # fmt: skip
def test_a_manifest_that_says_another_style_is_a_fault_in_one_line(
    memory: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    text = (
        'name = "x"\n[array]\nrow = 2\n'
        + table({"name": "weight", "tensor": "weight", "order": "oc (it row) kh kw -> | oc it kh kw | row",
                 "file": "m.txt", "radix": "hex", "per_line": 2})
        + table({"name": "bias", "tensor": "bias", "order": "oc -> | oc |", "follows": "weight"})
    )  # fmt: skip
    folder = checked_dump(make_capture(bias=True), parse_layout(text, "x.toml"), tmp_path)
    document = read_json(folder)
    entry = document["memories"][memory]
    if "files" in changes:
        entry["files"][0]["first_word"] = changes["files"]
    else:
        entry.update(changes)
    (folder / "manifest.json").write_text(json.dumps(document, sort_keys=True, indent=2) + "\n")
    reseal(folder)
    for command in (["verify", folder], ["show", folder, "m.txt:1"]):
        result = cli(*command)
        assert result.exit_code in (0, 1, 2), result.output
        assert "Traceback" not in result.output
        assert command[0] == "show" or result.exit_code in (1, 2)
