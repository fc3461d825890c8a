"""Which names a set's files may have."""

import re
from pathlib import PurePosixPath

from qexport.layout.order import Order, OrderFault

MANIFEST, SUMS, CAPTURE = "manifest.json", "SHA256SUMS", "capture.safetensors"
RESERVED = (MANIFEST, SUMS, CAPTURE, "Makefile", "params.vh", "files.f", "dut.sv", "index.json")  # the set's own files
MAX_FILE_NAME = 200


def is_inside(name: str) -> bool:
    """Whether a path, as a layout or a manifest writes it, names a file inside the set's folder."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or not path.name or str(path) != name)


def check_file_name(name: str, order: Order) -> None:
    fields = set()
    for match in re.finditer(r"\{(\w*)\}|[{}]", name):
        if not match.group(1):
            raise OrderFault(f"'{name}': a brace must enclose the name of a file axis", match.start())
        fields.add(match.group(1))
    known = {name for item in order.files for name in (item.name, *item.parts)}
    if fields - known:
        bad = sorted(fields - known)[0]
        raise OrderFault(f"'{name}': '{{{bad}}}' is no file axis of the order", name.index("{" + bad))
    for item in order.files:
        if item.name not in fields and not fields >= set(item.parts):
            raise OrderFault(f"'{name}' lacks the file axis '{{{item.name}}}'; two files would have one name")
    path = PurePosixPath(name)
    if not is_inside(name):
        raise OrderFault(f"'{name}' does not name a file inside the set's folder")
    if re.search(r"[^ -~]|[\"$]", name):  # Icarus opens no path with letters beyond ASCII
        raise OrderFault(f"{name!r} has a character beyond ASCII, a control character, a quote or a dollar sign")
    for own in RESERVED:  # where a file system does not tell upper from lower case, they are one
        if path.parts[0].lower() == own.lower():
            raise OrderFault(f"'{name}' takes the place of the set's own {own}; choose another name")
    if re.fullmatch(r"(\w+_pkg|(tb|stub)_\w+)\.sv", name, flags=re.IGNORECASE):
        raise OrderFault(f"'{name}' is a name of the set's bench; choose another name")
    if max(map(len, path.parts)) > MAX_FILE_NAME:
        raise OrderFault(f"'{name}' is longer than {MAX_FILE_NAME} characters; choose a shorter name")
