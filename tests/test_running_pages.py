"""Pages that run do what they say, block by block, and show what was printed. In a file of its own: they take long."""

from pathlib import Path

import pytest

from scripts.pages import BlockFailed, run_page, running_pages

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
