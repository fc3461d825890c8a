"""index.json beside the sets of all layers of a network."""

import json
from pathlib import Path

import msgspec

from qexport.core.capture import Source
from qexport.core.private import without_private
from qexport.errors import QexportError
from qexport.sets.manifest import Entry, LayoutInfo, Tool, json_bytes

INDEX, INDEX_SCHEMA = "index.json", "qexport.index/1"


class IndexEntry(Entry, frozen=True, kw_only=True):
    path: str
    layer: str
    index: int | None
    manifest_sha256: str


class Index(Entry, frozen=True, kw_only=True):
    """index.json beside the sets of all layers of a network."""

    schema: str = INDEX_SCHEMA
    tool: Tool = Tool()
    layout: LayoutInfo
    source: Source
    sets: tuple[IndexEntry, ...]

    def to_bytes(self) -> bytes:
        return json_bytes(self)

    @classmethod
    def read(cls, folder: Path) -> "Index | None":
        """The index of a folder of sets, None where there is none; raises QexportError when it is not one of ours."""
        path = folder / INDEX
        if not path.is_file():
            return None
        try:
            index = msgspec.convert(without_private(json.loads(path.read_bytes())), cls)
        except (ValueError, RecursionError) as error:
            raise QexportError(f"index: {path}: {error}; dump with --all again, or take the file away") from None
        if index.schema != INDEX_SCHEMA:
            raise QexportError(f"index: {path} has schema '{index.schema}'; this qexport reads {INDEX_SCHEMA}")
        return index
