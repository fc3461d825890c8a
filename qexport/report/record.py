"""The record of a verdict that a run has left beside its words: what it says, and what of it does not hold."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qexport.core.budget import LOG_BYTES, read_bytes
from qexport.errors import QexportError
from qexport.layout.memory import verilog_name
from qexport.report.blocks import Block, Details, Facts, Note
from qexport.report.facts import SetFacts
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sets.folder import file_sha256
from qexport.sim.audit import broken_seals
from qexport.sim.keep import VERDICT
from qexport.sim.record import Record, set_record


@dataclass(frozen=True)
class Recorded:
    """`doubts`: what does not hold for this set and these words; the design is for `qexport audit` to look at."""

    record: Record
    doubts: tuple[str, ...]


def read_record(run: Path, facts: SetFacts) -> Recorded | None:
    """The record in the folder of a run, None where there is none; raises QexportError where it cannot be read."""
    file = run / VERDICT
    if not file.is_file():
        return None
    try:
        document = json.loads(read_bytes(file, LOG_BYTES, "verdict"))
        record = msgspec.convert(document, Record)
    except (ValueError, RecursionError) as error:
        raise QexportError(f"verdict: {file}: {error}; run `qexport simulate --keep` again") from None
    return Recorded(record, (*map(str, broken_seals(document)), *_doubts(record, run, facts)))


def _doubts(record: Record, run: Path, facts: SetFacts) -> Iterator[str]:
    if record.set != set_record(facts.folder, facts.manifest):
        yield f"/set: the record is of another set, of layer {record.set.layer}"
    for memory, digest in record.words.items():
        words = run / f"{verilog_name(memory)}.hex"
        if not words.is_file() or file_sha256(words) != digest:
            yield f"/words/{memory}: {words.name} is not what came back"


def record_blocks(found: Recorded) -> list[Block]:
    """What was judged, by what, and what was not."""
    record = found.record
    libraries = ", ".join(f"{name} {version}" for name, version in record.environment.libraries.items())
    pairs: list[tuple[str, AnyCell]] = [
        ("record", Cell(record.result, tone="good" if record.result == "PASS" else "bad")),
        ("simulator", f"{record.simulator.name} {record.simulator.version}"),
        ("streams", ", ".join(record.run.streams)),
        ("not compared", ", ".join(record.not_compared) or "nothing"),
        ("requirements", ", ".join(record.requirements) or "none named"),
        ("by", f"{record.tool.name} {record.tool.version}, Python {record.environment.python}, {libraries}"),
    ]
    blocks: list[Block] = [Note(f"The record does not hold. {doubt}", "bad") for doubt in found.doubts[:20]]
    blocks.append(Facts(pairs))
    return blocks


def record_details(found: Recorded) -> list[Block]:
    """What else the record says: the failure, the design's files, what it does beside computing."""
    record, blocks = found.record, list[Block]()
    if record.failure:
        lines = Note("\n".join(line[:300] for line in record.failure[:30]))
        blocks.append(Details("What simulate said", [lines]))
    files: list[list[AnyCell]] = []
    files += [[Path(file.path).name, Cell(file.sha256, tone="code")] for file in record.design.files]
    if files:
        blocks.append(
            Details(f"Design {record.design.top}", [Table("Files that were read", ["file", "SHA-256"], files)])
        )
    if record.beside:
        blocks.append(Note("\n".join(map(str, record.beside[:30])), "warn"))
    return blocks
