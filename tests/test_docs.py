"""What the pages show is what the program prints, their Python runs, and what they name is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from qexport.cli import main
from qexport.core.steps import AnyStep
from qexport.layout.toml import MEMORY_KEYS
from qexport.sets.manifest import Manifest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = re.compile(r"<!-- begin:\w+[ \d]* -->.*?<!-- end:\w+ -->", re.S)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)


@pytest.mark.whole  # pages show what simulators say
def test_the_output_that_readme_and_docs_show_is_current() -> None:
    command = [sys.executable, "scripts/update_docs.py", "--check", "reference", "shown"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_has_every_page_once() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]

    def files(part: object) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from files(inner)

    assert sorted(files(site["nav"])) == sorted(
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    )


def blocks() -> Iterator[tuple[Path, str, str]]:
    """Page, language and text of each block that nobody generates."""
    for page in PAGES:
        for _, language, text in BLOCK.findall(GENERATED.sub("", page.read_text(encoding="utf-8"))):
            yield page, language, text


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each call of qexport in lines of a shell or of a workflow."""
    for line in re.sub(r"\$\([^)]*\)", "VALUE", text.replace("\\\n", " ")).splitlines():
        words = shlex.split(line.partition("- run:")[2] or line, comments=True)
        ends = [at for at, word in enumerate(words) if word in ("|", "||", "&&", ";", ">")] + [len(words)]
        for start, end in zip([-1, *ends], ends, strict=False):
            if words[start + 1 : start + 2] == ["qexport"]:
                yield words[start + 2 : end]


def test_every_command_of_the_pages_has_these_options() -> None:
    seen = 0
    for page, language, text in blocks():
        assert language, f"{page}: a block without a language; name it, or let scripts/update_docs.py write it"
        for words in commands_of(text) if language in ("sh", "yaml") else ():
            command: click.Command = main
            while isinstance(command, click.Group) and words and not words[0].startswith("-"):
                assert words[0] in command.commands, f"{page}: {' '.join(words)}"
                command, words = command.commands[words[0]], words[1:]
            parser = command.make_parser(click.Context(command))
            try:
                parser.parse_args(list(words))
            except click.UsageError as error:
                pytest.fail(f"{page}: {command.name} {' '.join(words)}: {error.format_message()}")
            seen += 1
    assert seen > 150


def test_data_of_the_pages_can_be_read() -> None:
    for page, language, text in blocks():
        try:
            if language == "json":
                json.loads(text if text.startswith("{") else f"{{{text}}}")
            if language == "toml":
                tomllib.loads(text)
        except ValueError as error:
            pytest.fail(f"{page}: {error}\n{text}")


def test_what_can_be_written_and_set_is_documented() -> None:
    def page(name: str) -> str:
        return (ROOT / "docs/reference" / name).read_text(encoding="utf-8")

    for key in MEMORY_KEYS:
        assert f"`{key}`" in page("layouts.md"), key
    for step in get_args(AnyStep):
        assert f"| `{step.__struct_config__.tag}` |" in page("steps.md"), step
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "qexport").rglob("*.py"))
    for variable in set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", source)):
        assert f"`{variable}`" in page("program.md"), variable


def test_the_example_is_valid_by_the_schema_of_manifests() -> None:
    """Every key of the manifest that ships stands in the schema, in its place."""
    schema = json.loads((ROOT / "docs/reference/schemas/manifest.json").read_text())
    manifest = json.loads((ROOT / "vectors/features_33/manifest.json").read_text())
    assert manifest.keys() <= schema["$defs"]["Manifest"]["properties"].keys()
    for entry in manifest["memories"]:
        assert entry.keys() <= schema["$defs"]["MemoryEntry"]["properties"].keys()
    assert msgspec.convert(manifest, Manifest)


def test_the_readme_is_short_and_words_mean_one_thing() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    texts = [*PAGES, *(ROOT / "templates").rglob("*.j2"), *(ROOT / "templates").rglob("*.sv")]
    for file in texts:
        text = " ".join(file.read_text(encoding="utf-8").split())
        assert not re.search(r"lane 0[^.;]{0,40}least significant", text, re.I), file
        assert not re.search(r"\bis no (file|folder|digit|number|word)\b", text), file


def python_of(page: str) -> str:
    """The Python blocks of a page, from top to bottom."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S))


@pytest.mark.whole
def test_the_python_page_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", python_of("docs/reference/python.md")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in ("PASS, ", "weight_unsigned", "vectors/conv1: ok, ", "relu"):
        assert said in done.stdout


@pytest.mark.whole
def test_mypy_accepts_the_python_page_against_the_built_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("qexport-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    script = tmp_path / "script.py"
    script.write_text(python_of("docs/reference/python.md") + "\nreveal_type(found)\nvs.simulate(seed='one')\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)]
    env = os.environ | {"MYPYPATH": str(tmp_path / "installed")}
    done = subprocess.run(mypy, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("script.py") and ": error: " in line]
    assert len(errors) == 1, done.stdout
    assert 'Argument "seed" to "simulate" of "VectorSet"' in errors[0]
    assert 'incompatible type "str"; expected "int | None"' in errors[0]
    assert 'Revealed type is "qexport.findings.diagnosis.Diagnosis"' in done.stdout


def sentences(text: str) -> Iterator[str]:
    """The sentences that somebody wrote, without code and link targets; clauses behind : and ; are their own."""
    text = re.sub(r"<!--.*?-->|^ *```.*?^ *```$", "\n\n", GENERATED.sub("\n\n", text), flags=re.S | re.M)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-|#]|\d+\.))", text):
        if not part.strip().startswith(("|", "#", "    ")):
            words = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "X", " ".join(part.split())))
            yield from re.split(r"(?<=[.:;?!])\s+", words)


def test_no_sentence_has_more_than_thirty_words() -> None:
    for page in PAGES:
        if page.name not in ("CHANGELOG.md", "commands.md", "api.md"):  # lists, and docstrings
            for sentence in sentences(page.read_text(encoding="utf-8")):
                assert len(re.findall(r"[A-Za-z0-9][\w'-]*", sentence)) <= 30, f"{page}: {sentence}"
