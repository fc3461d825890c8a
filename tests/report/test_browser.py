"""Pages as a browser shows them: without errors and requests, by keyboard, light, dark, narrow, printed."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qexport as qx
from qexport.build.show import dissect
from qexport.layout.tiling import describe_index
from qexport.report.facts import SetFacts
from qexport.report.run import Run, run_section
from qexport.sets.manifest import read_manifest
from tests.conftest import cli, fails, make_capture

pytestmark = pytest.mark.whole  # starts a browser and a simulator
EXAMPLE = Path(__file__).parents[2] / "vectors/features_33"
missing = pytest.fail if os.environ.get("CI") else pytest.skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        missing("chromium is not on the PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any):
        self.page = browser.new_page(**options)
        self.heard: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("dialog", lambda dialog: self.heard.append(dialog.message))
        self.page.on("request", lambda asked: self.heard.append(asked.url) if asked.url != file.as_uri() else None)
        self.page.goto(file.as_uri())

    def ground(self) -> int:
        """How light the page is, 0 to 255."""
        colour = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(re.findall(r"\d+", colour)[0])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of the example, of a run of a small set that passes, of one that fails, and of a hostile log."""
    folder = tmp_path_factory.mktemp("pages")
    assert cli("report", EXAMPLE, "--out", folder / "set.html").exit_code == 0
    capture = make_capture(plane=(3, 3), images=1, in_channels=2, out_channels=3, weight_bits=3)
    vs = qx.dump(capture, folder)
    design = (vs.folder / "dut.sv").read_text()
    assert "$signed(w)" in design
    (folder / "core.sv").write_text(design.replace("$signed(w)", "$signed({1'b0, w})"))
    arguments = (
        "simulate",
        vs.folder,
        "--simulator",
        "icarus",
        "--seed",
        1,
        "--keep",
        folder / "pass",
        "--waves",
        "vcd",
    )
    assert cli(*arguments).exit_code == 0
    failed = vs.simulate(folder / "core.sv", simulator="icarus", keep=folder / "fail")
    for name in ("pass", "fail"):
        page = folder / f"{name}-kept.html"
        assert cli("report", folder / name, "--set", vs.folder, "--out", page).exit_code == 0
    log = folder / "fail" / "run.log"
    log.write_text("FAIL </p><script>alert(1)</script><img src=x onerror=alert(2)>\n" + log.read_text())
    words = folder / "fail" / "relu.hex"
    words.write_text("<b>" + words.read_text())
    vs.report(folder / "hostile.html", failed)
    return folder


SET_PARTS = ["Layer", "Input", "Codes", "Accumulators", "Requantization", "Strength", "Coverage", "Memories"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_set_shows_every_section_in_both_schemes(browser: Any, pages: Path, scheme: str) -> None:
    visit = Visit(browser, pages / "set.html", color_scheme=scheme)
    page = visit.page
    assert page.locator("h2").all_inner_texts() == SET_PARTS
    assert page.get_by_role("navigation", name="Sections").get_by_role("link").all_inner_texts() == SET_PARTS
    for name in SET_PARTS:
        section = page.get_by_role("region", name=name, exact=True)
        box = section.bounding_box()
        assert box["height"] > 100, name
        assert section.locator("svg, table").count(), name
    said = page.locator("main").aria_snapshot()
    for part in ('heading "features.33" [level=1]', 'img "From operands to codes', 'img "weights that the images',
                 'table "Memories of layout default"', 'grid "weight.hex: first words', 'columnheader "31:28 ic=7"',
                 'link "weight.hex"'):  # fmt: skip
        assert part in said, part
    assert all(figure.get_attribute("aria-labelledby") for figure in page.locator("svg").all())
    assert (
        page.locator("figure:has(figcaption:text('picture 0')) image").count() == 1
    )  # what ships is known by its hash
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(set(ids)) == len(ids)
    assert (visit.ground() > 200) is (scheme == "light")
    page.emulate_media(media="print")
    assert visit.ground() > 200
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert visit.heard == []


def test_elements_of_words_are_reached_by_keyboard_and_said_as_show_says_them(browser: Any, pages: Path) -> None:
    visit = Visit(browser, pages / "set.html")
    page, grid = visit.page, visit.page.get_by_role("grid").first
    page.get_by_text("weight: first words and files").focus()
    stops = 0
    while page.evaluate("document.activeElement.tagName") != "TD":
        page.keyboard.press("Tab")
        assert (stops := stops + 1) < 5
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    told = grid.locator("xpath=../..").locator(".told").inner_text()
    (word,) = dissect(EXAMPLE, read_manifest(EXAMPLE), "weight.hex", 2)
    lane = word.lanes[1]
    assert told == f"weight.hex:2:1, weight {describe_index(lane.index)}, code {lane.code}, bits {lane.bits}"
    assert page.evaluate("document.activeElement.innerText") == str(lane.code)
    assert page.locator("[role=grid] td[tabindex='0']").count() == page.get_by_role("grid", include_hidden=True).count()
    grid.locator("td").nth(5).hover()
    assert "weight.hex:1:5, weight oc=0 ic=2" in grid.locator("xpath=../..").locator(".told").inner_text()
    page.keyboard.press("End")
    assert visit.heard == []
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("section > .blocks > details:not([open])").count() == 0


def test_a_failed_run_shows_cause_place_and_terms(browser: Any, pages: Path) -> None:
    visit = Visit(browser, pages / "fail-kept.html")
    page = visit.page
    assert page.locator("h2").all_inner_texts() == ["Run", "Failure", "Where", "Layer", "Memories"]
    assert page.locator(".tiles b").first.inner_text() == "FAIL"
    failure = page.get_by_role("region", name="Failure", exact=True)
    assert "cause: weight_unsigned, explains all" in failure.inner_text()
    assert "remedy: Read the weights as signed" in failure.inner_text()
    assert "memory relu " in failure.inner_text()
    found = qx.open(pages / "features_33").diagnose(pages / "fail", memory="psum").first
    place = failure.get_by_role("link", name=f"{found.file}:{found.line} lane {found.lane}", exact=True)
    assert (pages / place.get_attribute("href")).is_file()
    table = failure.locator("table")
    got = table.locator("tr", has_text=f"psum, got {found.got}")
    assert str(found.want) in got.inner_text().split("\t")
    assert page.get_by_role("img", name="wrong values of psum").count() == 1
    assert visit.heard == []


def test_a_run_that_passed_shows_its_streams_and_words_that_changed_since_fail(browser: Any, pages: Path) -> None:
    visit = Visit(browser, pages / "pass-kept.html")
    assert visit.page.locator(".tiles b").first.inner_text() == "PASS"
    visit.page.get_by_text("Numbers of: streams over time").click()
    rows = visit.page.get_by_role("table", name="Streams over the run").locator("tbody tr").all_inner_texts()
    words = {stream.split("\t")[0]: int(stream.split("\t")[1]) for stream in rows}
    manifest = read_manifest(pages / "features_33")
    stored = {entry.name: sum(file.words for file in entry.files) for entry in manifest.memories}
    assert words == {name: stored[name] for name in words}
    assert {"weight", "input", "psum", "relu"} <= set(words)
    assert visit.heard == []
    assert "record\tPASS" in visit.page.get_by_role("region", name="Run", exact=True).inner_text().replace("\n", "\t")


def test_what_was_changed_since_a_run_is_no_pass(pages: Path, tmp_path: Path) -> None:
    facts, kept = SetFacts(pages / "features_33"), tmp_path / "run"
    whole = {name: (pages / "pass" / name).read_text() for name in ("psum.hex", "relu.hex", "verdict.json", "run.log")}

    def passes(of: SetFacts = facts, **files: str | None) -> tuple[bool, str]:
        """Whether the run passes with these files, None for one that is missing; and what the page says of it."""
        shutil.copytree(pages / "pass", kept, dirs_exist_ok=True)
        for name, text in files.items():
            file = kept / name.replace("_", ".")
            file.unlink() if text is None else file.write_text(text)
        run = Run(kept, of)
        return run.passed, str(run_section(run))

    assert passes()[0]
    assert passes(verdict_json=None)[0]  # a record says the same of words; without it the page itself does
    relu, log, record = whole["relu.hex"], whole["run.log"], whole["verdict.json"]
    for files, said in (
        ({"psum_hex": None, "verdict_json": None}, "not there"),
        ({"relu_hex": f"1{relu[1:]}", "verdict_json": None}, "text='wrong'"),
        ({"run_log": log.replace("PASS", "PAST"), "verdict_json": None}, "The log has no verdict"),
        ({"relu_hex": f"1{relu[1:]}"}, "/words/relu: relu.hex is not what came back"),
        ({"verdict_json": record.replace('"cycles": ', '"cycles": 1')}, "/run/cycles: was changed"),
    ):
        passed, text = passes(**files)
        assert (passed, said in text) == (False, True), said
    other = qx.dump(make_capture(plane=(2, 2), images=1), tmp_path)
    passed, text = passes(SetFacts(other.folder))
    assert (passed, "the record is of another set" in text) == (False, True)


def test_the_runs_of_a_folder_stand_side_by_side(browser: Any, pages: Path) -> None:
    shutil.copytree(pages / "fail", pages / "runs" / "features_33")
    assert cli("report", pages / "runs", "--set", pages, "--out", pages / "runs.html").exit_code == 0
    visit = Visit(browser, pages / "runs.html")
    (row,) = visit.page.get_by_role("table", name="Runs").locator("tbody tr").all_inner_texts()
    assert row.startswith("features.33\tFAIL\t")
    assert visit.heard == []
    fails(cli("report", EXAMPLE, "--set", pages, "--out", pages / "x.html"), "has no folder with run.log")


def test_a_hostile_log_is_text(browser: Any, pages: Path) -> None:
    visit = Visit(browser, pages / "hostile.html")
    visit.page.get_by_text("The log").click()
    assert "<script>alert(1)</script><img src=x" in visit.page.locator("details[open]").all_inner_texts()[0]
    assert visit.page.locator("main script, main img").count() == 0
    assert visit.heard == []
