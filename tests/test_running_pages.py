"""Pages that run do what they say, block by block, and show what was printed. In a file of its own: they take long."""

from pathlib import Path

import pytest

from scripts.pages import BlockFailed, fill_in, run_page, running_pages

ROOT = Path(__file__).parent.parent


@pytest.mark.whole
@pytest.mark.parametrize("page", running_pages())
def test_a_page_runs_and_shows_what_was_printed(page: str) -> None:
    assert run_page(page).decode() == (ROOT / page).read_text(encoding="utf-8"), "run scripts/update_docs.py"


@pytest.mark.whole
def test_a_block_that_fails_or_passes_against_its_word_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("```sh\nqexport verify nowhere\n```\n", "<!-- exit: 1 -->\n```sh\nqexport --version\n```\n"):
        page.write_text(text)
        with pytest.raises(BlockFailed, match=r"page\.md: exit "):
            run_page(str(page))
    page.write_text("```python\nprint(6 * 7)\n```\n<!-- begin:output -->\nold\n<!-- end:output -->\n")
    assert b"```text\n42\n```" in run_page(str(page))


def test_what_a_script_made_goes_between_its_markers_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin:one -->\n1\n<!-- end:one -->\nb\n<!-- begin:two -->\n2\n<!-- end:two -->\n")
    fill_in(page, "two", "3")
    assert page.read_text().splitlines()[2] == "1"
    assert page.read_text().splitlines()[-3:] == ["<!-- begin:two -->", "3", "<!-- end:two -->"]
    for text in ("no markers\n", "<!-- begin:two -->\n2\n"):
        page.write_text(text)
        with pytest.raises(AssertionError, match="the page lacks"):
            fill_in(page, "two", "3")
        assert page.read_text() == text
