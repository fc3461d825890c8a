"""What lies in a folder: its entries, their hashes, the sets below it."""

import hashlib
import json
import os
import re
from pathlib import Path

from qexport.errors import QexportError
from qexport.layout.paths import MANIFEST, SUMS

STAGING, JOURNAL = ".qexport-", "journal.json"
CRLF = (
    "has CRLF line ends, as git or an editor makes them; check it out with core.autocrlf=false, or dump the set again"
)


def sha256(data: bytes) -> str:
    """The SHA-256 of the bytes, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_other_line_ends(path: Path, digest: str) -> bool:
    """Whether a file has this SHA-256 but for its line ends, which git or an editor may have turned into CRLF."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")) == digest


def sums_text(files: dict[str, str]) -> str:
    """SHA256SUMS in the coreutils form, sorted by path."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))


def set_entries(folder: Path) -> dict[str, Path]:
    """Everything in a folder by its relative path: files, links, and folders that hold nothing."""
    found = {}
    for place, folders, files in os.walk(folder):  # a link to a folder is among the folders
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for path in (Path(place, name) for name in (*files, *links)):
            found[path.relative_to(folder).as_posix()] = path
        if not folders and not files and Path(place) != folder:
            found[Path(place).relative_to(folder).as_posix()] = Path(place)
    return dict(sorted(found.items()))


def claims_to_be_set(folder: Path) -> bool:
    """Whether the folder holds a manifest that names our schema (of any version)."""
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and str(document.get("schema", "")).startswith("qexport.vectors/")


def listed_files(folder: Path) -> dict[str, str]:
    """The files of a set and their SHA-256: what SHA256SUMS says, and above it what the manifest says."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    listed = {line[66:]: line[:64] for line in lines}
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        stored = [file for memory in document["memories"] for file in memory["files"]]
        return listed | {file["path"]: file["sha256"] for file in (document["capture"], *document["bench"], *stored)}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):  # of another version, or damaged
        return listed


def changed_entries(folder: Path) -> dict[str, Path]:
    """The entries of a set that are not as they were dumped, by their relative paths."""
    listed, entries = listed_files(folder), set_entries(folder)
    if MANIFEST in entries and (folder / MANIFEST).is_file():
        listed[SUMS] = sha256(sums_text({**listed, MANIFEST: file_sha256(folder / MANIFEST)}).encode())
    return {
        name: path
        for name, path in entries.items()
        if not path.is_file() or path.is_symlink() or file_sha256(path) != listed.get(name)
    }


def staging_folders(out: Path) -> list[Path]:
    """The staging folders in a folder: nobody else's folder has such a name and such content."""
    named = [path for path in out.glob(f"{STAGING}{'[0-9a-f]' * 16}") if path.is_dir() and not path.is_symlink()]
    ours = re.compile(rf"new|old|made|\.?{JOURNAL}.*")
    return [path for path in named if all(ours.fullmatch(entry.name) for entry in path.iterdir())]


def read_journal(stage: Path) -> dict[str, int]:
    """What a staging folder's journal names and the inode of each; raises QexportError where no command wrote it."""
    try:
        journal = json.loads((stage / JOURNAL).read_bytes())
        plain = all(
            type(inode) is int and Path(name).parts == (name,) and name != ".." for name, inode in journal.items()
        )
    except (ValueError, AttributeError, RecursionError):
        plain = False
    if not plain:
        raise QexportError(f"out: {stage / JOURNAL} is damaged; look at what lies in {stage}, then take it away")
    found: dict[str, int] = journal
    return found


def _half_in_place(folder: Path) -> bool:
    """Whether a command is putting several sets into the folder, or was killed at that: some may be old, some new."""
    for stage in staging_folders(folder):
        try:
            if len(read_journal(stage)) > 1:
                return True
        except (OSError, QexportError):  # none, just gone, or of no command
            continue
    return False


def find_sets(folder: Path) -> list[Path]:
    """The set in `folder`, or all sets one level below it; raises QexportError when there is none.

    Neither are there any while old and new sets may lie in the folder together.
    """
    if not folder.is_dir():
        raise QexportError(f"set: {folder} is not a folder; give the folder that `qexport dump` wrote")
    if (folder / MANIFEST).is_file():
        return [folder]
    if _half_in_place(folder):
        raise QexportError(
            f"set: {folder} may hold old and new sets side by side: a dump puts them in place or was killed at that; "
            "dump into it again, which finishes it"
        )
    marks = [path for name in (MANIFEST, SUMS) for path in folder.glob(f"*/{name}")]
    # neither what is being written nor a backup
    sets = sorted({path.parent for path in marks if path.parent.name[0] != "." and path.parent.name[-1] != "~"})
    if not sets:
        raise QexportError(f"set: {folder} has no {MANIFEST}, nor has a folder in it; give what `qexport dump` wrote")
    return sets
