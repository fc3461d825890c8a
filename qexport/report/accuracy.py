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
    """`total` pictures; what the network came from, a checkpoint or a model, is computed `by` a framework; `different`:
    those that the two classify differently."""

    network_sha256: str
    by: Annotated[str, Meta(max_length=100)]
    total: Annotated[int, Meta(ge=1, le=1 << 53)]
    correct: Count
    different: Count
    checkpoint_correct: Count | None = None
    model_correct: Count | None = None

    @property
    def beside(self) -> tuple[str, int]:
        """What stands beside it, and how many it has right."""
        if self.model_correct is not None:
            return "model", self.model_correct
        return "checkpoint", self.checkpoint_correct or 0

    @property
    def tile(self) -> Tile:
        return Tile(f"{self.correct / self.total:.2%}", f"of {self.total:,} pictures classified rightly, in integers")

    @property
    def section(self) -> Section:
        name, right = self.beside

        def share(count: int) -> str:
            return f"{count:,} of {self.total:,} ({count / self.total:.2%})"

        return Section(
            "Accuracy",
            f"Of the network in integers, whose layers these sets are, and of the {name} that it was imported from.",
            [
                Facts([
                    ("in integers", f"{share(self.correct)} classified rightly"),
                    (name, f"{share(right)} classified rightly, {self.by}"),
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
    if found.checkpoint_correct is None and found.model_correct is None:
        raise QexportError(f"eval: {file} has neither checkpoint_correct nor model_correct; run qexport eval again")
    if (most := max(found.correct, found.beside[1], found.different)) > found.total:
        raise QexportError(f"eval: {file} counts {most:,} of {found.total:,} pictures; run qexport eval again")
    graph = read_graph(folder)
    if graph is None:
        raise QexportError(f"eval: {folder} has no graph.json, so its sets are of no network; leave --eval out")
    if graph.network_sha256 != found.network_sha256:
        raise QexportError(f"eval: {file} is not of the network of {folder}; run qexport eval on that file")
    return found
