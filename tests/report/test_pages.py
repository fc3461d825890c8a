"""Pages and pictures as text: what they say is what the set holds, and whatever stands in a name is text."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

import qexport as qx
from qexport.build.coverage import coverage_of_set
from qexport.report.sets import PLOTS, plot, set_page
from tests.conftest import cli, fails, make_capture, one_memory_layout
from tests.findings.test_network import ORDER, dumped, ran
from tests.networks import small_network

EXAMPLE = Path(__file__).parents[2] / "vectors/features_33"
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>\u202e&amp;"


class Tables(HTMLParser):
    """The tables of a page by their captions, and how often each tag stands in it."""

    def __init__(self, page: bytes):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: dict[str, int] = {}
        self._rows: list[list[str]] = []
        self._caption, self._in = "", ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag in ("caption", "td", "th"):
            self._in = tag
        if tag == "caption":
            self._caption, self._rows = "", []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = ""
        if tag == "table":
            self.tables[self._caption] = self._rows[1:]

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self._caption += data
        elif self._in and self._rows:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def page() -> bytes:
    return set_page(EXAMPLE, EXAMPLE.parent / "report.html")


def test_the_numbers_of_a_page_are_those_of_the_set(page: bytes) -> None:
    tables, vs = Tables(page).tables, qx.open(EXAMPLE)
    for name in ("weight", "input", "output"):
        low = -8 if name == "weight" else 0
        want = np.bincount(vs[name].ravel() - low, minlength=16).tolist()
        assert [int(row[2]) for row in tables[f"How often each value of {name} occurs"]] == want
    sums = vs["accumulator"]
    rows = [[int(cell.replace(",", "")) for cell in row] for row in tables["Accumulators by channel"]]
    seen = np.stack([sums.min(axis=(0, 2, 3)), sums.max(axis=(0, 2, 3))], axis=1)
    weight = vs["weight"].reshape(8, -1)
    bounds = np.stack([np.minimum(weight, 0).sum(axis=1) * 15, np.maximum(weight, 0).sum(axis=1) * 15], axis=1)
    assert [row[1:5] for row in rows] == np.concatenate([seen, bounds], axis=1).tolist()
    assert ["accumulator", "10", "12", "16"] in tables["Bits of each tensor"]
    listed = json.loads(cli("strength", EXAMPLE, "--json").stdout)["sets"][0]["unexercised"]["relu"]
    assert [list(map(int, row)) for row in tables["Weights of which no error shows in relu"]] == listed
    found = coverage_of_set(EXAMPLE, vs.manifest)
    assert found.products is not None
    never = int((~found.products.array().any(axis=0)).sum())
    assert f"{never} of 256 products no element has seen" in page.decode()
    assert [row[:2] for row in tables["Edges that no vector reaches"]] == [edge.split(": ") for edge in found.missed]
    for file in json.loads((EXAMPLE / "manifest.json").read_text())["memories"]:
        assert file["files"][0]["sha256"] in page.decode()


def test_a_page_is_the_same_bytes_wherever_set_and_page_lie_and_asks_for_nothing(page: bytes, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name)
    assert set_page(tmp_path / EXAMPLE.name, tmp_path / "report.html") == page
    assert str(tmp_path) not in page.decode()
    assert len(page) < 5_000_000
    asked = re.findall(r"""(?:src|href)="(?!#|data:|features_33/)([^"]*)""", page.decode())
    assert not asked
    assert "default-src &#39;none&#39;" in page.decode()


def test_what_stands_in_a_name_is_text(tmp_path: Path) -> None:
    capture = make_capture(plane=(2, 2), images=1)
    capture = replace(capture, layer=msgspec.structs.replace(capture.layer, name=HOSTILE))
    vs = qx.dump(capture, tmp_path)
    page = vs.report(tmp_path / "page.html").read_bytes()
    tags = Tables(page).tags
    assert (tags["script"], tags.get("img", 0)) == (1, 0)
    assert "&lt;script&gt;alert(1)" in page.decode()
    assert "\u202e" not in page.decode()
    drawn = ElementTree.fromstring(plot(vs.folder, "codes"))  # all codes below each other, with the layer's name above
    assert (drawn[0].text or "").startswith('codes of "><script>alert(1)</script>')


@pytest.mark.parametrize("what", PLOTS)
def test_each_plot_is_a_picture_with_a_title(what: str, tmp_path: Path) -> None:
    out = tmp_path / "x.svg"
    done = cli("plot", EXAMPLE, "--what", what, "--out", out)
    if what == "scaling":  # this layer has one multiplier for all channels
        fails(done, "has none, not 'scaling'")
        return
    assert done.exit_code == 0, done.output
    picture = ElementTree.parse(out).getroot()
    names = {child.tag.rpartition("}")[2]: child.text for child in picture}
    assert names["title"]
    assert names["desc"]
    assert "prefers-color-scheme:dark" in names["style"]


def test_layers_of_every_kind_and_changed_files_have_a_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = [{"op": "multiply", "by": [3, 5]}, {"op": "shift_right", "by": 4, "round": "half_up"}]
    plain = {"input": rng.integers(0, 256, (2, 2, 4, 4)), "inputs": "uint8"}
    captures = [
        qx.capture(**plain, weight=rng.integers(-8, 8, (2, 2, 3, 3)), weights="int4", steps=steps, name="conv"),
        qx.capture(input=rng.integers(0, 9, (2, 6)), weight=rng.integers(-8, 8, (3, 6)), bias=[1, 2, 3], name="linear"),
        qx.capture(input=rng.integers(0, 16, (1, 3, 5)), input2=rng.integers(0, 2, (1, 5, 4)), inputs="e2m1",
                   inputs2=[-1, 1], name="matmul"),
        qx.capture(**plain, mul=[3], name="sum", steps=[{"op": "sum_pool", "kernel": [2, 2]}]),
    ]  # fmt: skip
    for capture in captures:
        page = qx.dump(capture, tmp_path).report(tmp_path / f"{capture.layer.name}.html").read_text()
        assert "verified" in page
    assert "step0_by by channel" in (tmp_path / "conv.html").read_text()
    drawn = {name: "from accumulator to code" in (tmp_path / f"{name}.html").read_text() for name in ("conv", "sum")}
    assert drawn == {"conv": True, "sum": False}  # behind a sum_pool a code is of several accumulators
    cli("report", tmp_path, "--out", tmp_path / "all.html")
    assert all(f">{capture.layer.name}</a>" in (tmp_path / "all.html").read_text() for capture in captures)
    for file in (tmp_path / "conv").glob("weight*.hex"):
        file.write_text(file.read_text().replace(file.read_text()[0], "x", 1))
    page = qx.open(tmp_path / "conv").report(tmp_path / "conv.html").read_text()
    assert "weight.hex is missing, or its SHA-256 differs" in page
    assert str(tmp_path) not in page


def test_wide_words_ragged_tiles_and_many_files_are_shown_by_their_first(tmp_path: Path) -> None:
    layout = one_memory_layout("(ot col) (it row) kh kw -> kh | ot it kw | ~row col", array={"row": 5, "col": 7})
    layout = replace(layout, memories=(replace(layout.memories[0], file="m_{kh}.txt"),))
    page = qx.dump(make_capture(plane=(3, 3)), tmp_path, layout).report(tmp_path / "page.html").read_bytes()
    words = next(rows for caption, rows in Tables(page).tables.items() if caption.startswith("m_0.txt: first words"))
    assert [len(row) for row in words] == [2 + 16] * 12  # place, what lanes share, elements
    assert "19 further lanes, 2 further files" in page.decode()
    assert 'class="fill"' in page.decode()


def test_a_folder_shows_its_network_and_a_run_of_it_which_layers_are_wrong(tmp_path: Path) -> None:
    sets, page = dumped(small_network(), tmp_path / "right"), tmp_path / "network.html"
    assert cli("report", sets, "--out", page).exit_code == 0
    text = page.read_text()
    assert f"{len(ORDER)} layers, " in text
    assert text.index(">conv1</a>") < text.index(">add</a>") < text.index(">classifier</a>")  # in the graph's order
    taken = json.loads((sets / "graph.json").read_text())["layers"][2]["operands"]
    assert "add takes conv1" in text  # over an arc, past conv2
    assert text.count('class="edge"') >= len(ORDER)
    assert {"conv1", "conv2"} <= {name for names in taken.values() for name in names}
    run = ran(tmp_path, "conv1", "classifier")
    assert cli("report", run, "--set", sets, "--out", page).exit_code == 0
    rows = Tables(page.read_bytes()).tables["Layers in the order of computation"]
    assert [(row[0], row[1]) for row in rows if row[1] == "faulty"] == [("conv1", "faulty"), ("classifier", "faulty")]
    assert "kernel_rotated" in page.read_text()
    graph = json.loads((sets / "graph.json").read_text())
    counted = {"network_sha256": graph["network_sha256"], "total": 200, "correct": 177, "by": "in float64"}
    result = tmp_path / "accuracy.json"
    for line in (("report", sets), ("report", run, "--set", sets)):
        result.write_text(json.dumps(counted | {"different": 3, "model_correct": 176}))
        assert cli(*line, "--eval", result, "--out", page).exit_code == 0
        assert "177 of 200 (88.50%)" in page.read_text()
        assert "176 of 200 (88.00%) classified rightly, in float64" in page.read_text()
        assert "3 of 200 (1.50%) classified otherwise" in page.read_text()
    for wrong, needle in (
        ({"different": 3, "checkpoint_correct": 0, "network_sha256": "0" * 64}, "is not of the network of"),
        ({"different": 201, "checkpoint_correct": 0}, "counts 201 of 200 pictures"),
        ({"different": 3}, "has neither checkpoint_correct nor"),
        ({}, "different"),
        ({"different": -1}, "different"),
    ):
        result.write_text(json.dumps(counted | wrong))
        fails(cli("report", sets, "--eval", result, "--out", page), "eval: ", needle)
    fails(cli("report", EXAMPLE, "--eval", result, "--out", page), "eval: ")
    graph["layers"][0] |= {"name": HOSTILE, "operands": {"input": [HOSTILE[:20]]}}
    (sets / "graph.json").write_text(json.dumps(graph))
    assert cli("report", sets, "--out", page).exit_code == 0
    assert Tables(page.read_bytes()).tags["script"] == 1


def test_the_commands_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "vectors" / EXAMPLE.name)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/how-to/report.md").read_text()
    commands = re.findall(r"^qexport ((?:report|plot) vectors/.*)$", text, re.M)
    commands = [command for command in commands if "--data" not in command]  # which is not there
    assert len(commands) == 4
    for command in commands:
        assert cli(*command.split()).exit_code == 0, command
        assert (tmp_path / command.split()[-1]).stat().st_size > 1000


def test_a_page_is_written_where_it_may_be(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "set")
    fails(cli("report", tmp_path / "set", "--out", tmp_path / "set" / "page.html"), "holds its own files only")
    fails(cli("report", EXAMPLE, "--out", tmp_path / "page.txt"), "ends in '.txt'")
    fails(cli("plot", EXAMPLE, "--what", "layer", "--out", tmp_path / "none" / "x.svg"), "is not a folder")
    fails(cli("plot", EXAMPLE, "--what", "colour", "--out", tmp_path / "x.svg"), "'colour' is not a plot")
    fails(cli("plot", EXAMPLE, "--what", "codes-x", "--out", tmp_path / "x.svg"), "codes-weight")
    fails(cli("report", tmp_path, "--set", EXAMPLE, "--out", tmp_path / "x.html"), "has no run.log")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_training_is_shown_and_a_log_of_others_refused(tmp_path: Path) -> None:
    squeeze = {"layer": 3, "dead_inputs": [1], "dead_outputs": [], "effective_rank": 2.5}
    record = {"loss": 1.5, "top1": 20.0, "quantized": False, "squeeze": squeeze}
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record | {"epoch": epoch}) + "\n" for epoch in (1, 2)))
    assert cli("report", tmp_path, "--out", tmp_path / "page.html").exit_code == 0
    assert "quantizers off" in (tmp_path / "page.html").read_text()
    log.write_text(log.read_text() + '{"epoch": 3}\n')
    fails(
        cli("report", tmp_path, "--out", tmp_path / "page.html"),
        "log.jsonl:3 is not a record of `qexport train`",
        "loss",
    )
