"""How many pictures a network in integers classifies rightly, as `qexport eval --network --json` counted it."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from qexport.core.budget import LOG_BYTES, read_bytes
from qexport.errors import QexportError
from qexport.report.blocks import Facts, Section, Tile
from qexport.report.graph import read_graph

Count = Annotated[int, Meta(ge=0, le=1 << 53)]


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """`total` pictures; `different`: those that the network and the checkpoint in float64 classify differently."""

    network_sha256: str
    total: Annotated[int, Meta(ge=1, le=1 << 53)]
    correct: Count
    checkpoint_correct: Count
    different: Count

    @property
    def tile(self) -> Tile:
        return Tile(f"{self.correct / self.total:.2%}", f"of {self.total:,} pictures classified rightly, in integers")

    @property
    def section(self) -> Section:
        def share(count: int) -> str:
            return f"{count:,} of {self.total:,} ({count / self.total:.2%})"

        return Section(
            "Accuracy",
            "Of the network in integers, whose layers these sets are, and of the checkpoint that it was imported from.",
            [
                Facts([
                    ("in integers", f"{share(self.correct)} classified rightly"),
                    ("in float64", f"{share(self.checkpoint_correct)} classified rightly"),
                    ("differently", f"{share(self.different)} classified otherwise by the two"),
                ])
            ],
        )  # fmt: skip


def read_accuracy(file: Path, folder: Path) -> Accuracy:
    """What was counted of the network whose sets a folder holds; raises QexportError where it is of another one."""
    try:
        found = msgspec.json.decode(read_bytes(file, LOG_BYTES, "eval"), type=Accuracy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QexportError(f"eval: {file}: {error}; give what `qexport eval --network NET --json` printed") from None
    if (most := max(found.correct, found.checkpoint_correct, found.different)) > found.total:
        raise QexportError(f"eval: {file} counts {most:,} of {found.total:,} pictures; run qexport eval again")
    graph = read_graph(folder)
    if graph is None:
        raise QexportError(f"eval: {folder} has no graph.json, so its sets are of no network; leave --eval out")
    if graph.network_sha256 != found.network_sha256:
        raise QexportError(f"eval: {file} is not of the network of {folder}; run qexport eval on that file")
    return found
