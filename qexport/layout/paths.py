"""Which names a set's files may have."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from qexport.layout.order import Order, OrderFault

MANIFEST, SUMS, CAPTURE = "manifest.json", "SHA256SUMS", "capture.safetensors"
RESERVED = (MANIFEST, SUMS, CAPTURE, "Makefile", "params.vh", "files.f", "dut.sv", "index.json")  # the set's own files
MAX_FILE_NAME = 200


_SAFE_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_+=,. -]*[A-Za-z0-9_+=,.-])?")


def is_inside(name: str) -> bool:
    """Whether a path, as a manifest writes it, names a file inside the set's folder and no more than that in Verilog.

    Sets of schema 1 may have other names than a layout may give today.
    """
    path = PurePosixPath(name)
    plain = re.fullmatch(r"[ -~]+", name) and not re.search(r"[\"$`\\]", name)
    return bool(plain) and not (path.is_absolute() or ".." in path.parts or not path.name or str(path) != name)


def check_file_name(name: str, order: Order, sizes: Mapping[str, int]) -> None:
    fields = set()
    for match in re.finditer(r"\{(\w*)\}|[{}]", name):
        if not match.group(1):
            raise OrderFault(f"'{name}': a brace must enclose the name of a file axis", match.start())
        fields.add(match.group(1))
    known = {name for item in order.files for name in (item.name, *item.parts)}
    if fields - known:
        bad = sorted(fields - known)[0]
        raise OrderFault(f"'{name}': '{{{bad}}}' is not a file axis of the order", name.index("{" + bad))
    for item in order.files:  # where only the layer tells the size it may be 1
        several = {part for part in item.parts if sizes.get(part, 1) > 1}
        if several and item.name not in fields and not fields >= several:
            raise OrderFault(f"'{name}' lacks the file axis '{{{item.name}}}'; two files would have one name")
    path = PurePosixPath(name)
    # the name goes into Verilog, a Makefile and a shell, and Icarus opens no path with letters beyond ASCII
    parts = re.sub(r"\{\w*\}", "0", name).split("/")
    wrong = [part for part in parts if not _SAFE_PART.fullmatch(part)]
    if wrong:
        raise OrderFault(
            f"'{name}' does not name a file inside the set's folder; write '{wrong[0]}' in letters, digits, "
            "blanks and _ - + = , . and begin it with a letter, a digit or _"
        )
    for own in RESERVED:  # where a file system does not tell upper from lower case, they are one
        if path.parts[0].lower() == own.lower():
            raise OrderFault(f"'{name}' takes the place of the set's own {own}; choose another name")
    if re.fullmatch(r"(\w+_(pkg|axis_checks)|(tb|stub)_\w+)\.sv|\w+\.core", name, flags=re.IGNORECASE):
        raise OrderFault(f"'{name}' is a name of the set's bench; choose another name")
    if max(map(len, path.parts)) > MAX_FILE_NAME:
        raise OrderFault(f"'{name}' is longer than {MAX_FILE_NAME} characters; choose a shorter name")
