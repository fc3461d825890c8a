"""Whether wheel and sdist in a folder hold what they must, and nothing else: `python scripts/check_package.py dist`."""

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from qexport import __version__

ROOT = Path(__file__).parent.parent
MOST_BYTES = 8_000_000  # the network that ships takes 5.5 MB
HOMES = ("qexport/", "templates/")  # of what is installed
STATED = ("LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "PKG-INFO", ".gitignore")


def sources() -> set[str]:
    """The files of the package that git knows."""
    listed = subprocess.run(["git", "ls-files", *HOMES], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def faults_of_wheel(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"qexport-{__version__}.dist-info"
        facts = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    wanted = {re.sub("^templates/", "qexport/templates/", name) for name in sources()}
    inside = {name for name in names if not name.startswith(f"{info}/")}
    found = [f"{wheel.name}: lacks {name}" for name in sorted(wanted - inside)]
    found += [f"{wheel.name}: has {name}, which git does not know" for name in sorted(inside - wanted)]
    found += [f"{wheel.name}: lacks {name}" for name in ("LICENSE", "NOTICE") if f"{info}/licenses/{name}" not in names]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {
        "Version": __version__, "Summary": project["description"], "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
    }  # fmt: skip
    found += [f"{wheel.name}: {key} is {facts[key]!r}" for key, value in stated.items() if facts[key] != value]
    if set(facts.get_all("Provides-Extra", [])) != project["optional-dependencies"].keys():
        found.append(f"{wheel.name}: its extras are not those of pyproject.toml")
    if f"version: {__version__}\n" not in (ROOT / "CITATION.cff").read_text():
        found.append(f"CITATION.cff: its version is not {__version__}")
    return found


def faults_of_sdist(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = sources() | set(STATED)
    found = [f"{sdist.name}: lacks {name}" for name in sorted(wanted - names)]
    return found + [f"{sdist.name}: has {name}" for name in sorted(names - wanted)]


def main(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("qexport-*.whl"), folder.glob("qexport-*.tar.gz")
    found = faults_of_wheel(wheel) + faults_of_sdist(sdist)
    found += [
        f"{file.name}: more than {MOST_BYTES:,} bytes" for file in (wheel, sdist) if file.stat().st_size > MOST_BYTES
    ]
    if found:
        sys.exit("\n".join(found))
    print(f"{wheel.name}, {sdist.name}: as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
