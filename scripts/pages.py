"""Pages whose blocks run from top to bottom, in a folder of their own, and which show what was printed.

Such a page has `<!-- run -->` in it. A comment in front of a block says what is special about it:

    <!-- file: NAME -->       its text becomes a file
    <!-- exit: N -->          it ends with this status
    <!-- not run: WHY -->     it is shown alone

What stands between `<!-- begin:output -->` and `<!-- end:output -->` is what the block before it printed; with
`<!-- begin:output N -->` its first N lines. `vectors/` is there as in this repository.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "<!-- run -->\n"
BLOCK = re.compile(
    r"(?:^<!-- (?P<what>file|exit|not run): (?P<value>.*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    r"|^<!-- begin:output ?(?P<most>\d*) -->\n(?P<shown>.*?)^<!-- end:output -->$",
    re.M | re.S,
)


class BlockFailed(Exception):
    """A block of a page that did not end as it should."""


def filled(text: str, name: str, made: str) -> str:
    """The text of a page with what a script made between the markers of that name."""
    begin, end = f"<!-- begin:{name} -->\n", f"<!-- end:{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    assert found, f"the page lacks {begin.strip()}"
    assert closed, f"the page lacks {end}"
    return before + begin + made + "\n" + end + after


def fill_in(page: Path, name: str, made: str) -> None:
    """Put what a script made between the markers of that name."""
    page.write_text(filled(page.read_text(encoding="utf-8"), name, made), encoding="utf-8")


def running_pages() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")) if MARK in page.read_text()]


def run_page(page: str) -> bytes:
    """The page with the output of its blocks."""
    said = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "work"
        shutil.copytree(ROOT / "vectors", folder / "vectors")

        def block(match: re.Match[str]) -> str:
            nonlocal said
            if match["shown"] is not None:
                lines = said.splitlines()
                if match["most"]:
                    lines[int(match["most"]) :] = ["..."] * (len(lines) > int(match["most"]))
                begin = match[0].partition("\n")[0]
                return "\n".join([begin, "```text", *lines, "```", "<!-- end:output -->"])
            if match["what"] == "file":
                (folder / match["value"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / match["value"]).write_text(match["code"])
            elif match["what"] != "not run" and match["language"] in ("sh", "python"):
                said = _run(page, match["language"], match["code"], folder, int(match["value"] or 0))
            return match[0]

        return BLOCK.sub(block, (ROOT / page).read_text(encoding="utf-8")).encode()


def _run(page: str, language: str, code: str, folder: Path, expected: int) -> str:
    """What a block prints, without what differs between machines."""
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
        "QEXPORT_VERILATOR": "none",  # Icarus: these runs are short, and Verilator builds for long
        "COLUMNS": "120",
    }
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != expected:
        raise BlockFailed(f"{page}: exit {done.returncode}, not {expected}\n{code}\n{done.stdout}")
    text = re.sub(r"\b(icarus) [0-9.]+", r"\1", done.stdout.replace(f"{folder}/", ""))
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())
