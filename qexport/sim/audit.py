"""A record of a verdict, checked against set and design without a simulation."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qexport.bench.design import Design
from qexport.bench.interface import interface
from qexport.build.blind_spots import spots_of
from qexport.build.coverage import coverage_of_set
from qexport.build.verify import verify
from qexport.core.coverage import Products
from qexport.errors import QexportError
from qexport.sets.folder import sha256
from qexport.sets.manifest import Manifest, json_bytes, read_manifest
from qexport.sim.compare import expected_words
from qexport.sim.record import SCHEMA, DesignRecord, Record, leaves, seals, set_record
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import read_design, records
from qexport.sim.work import work_folder

MOST_BYTES = 64 << 20
SEALED = ("environment", "failure", "requirements", "run/cycles", "run/seed", "run/streams", "simulator", "tool")
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Doubt:
    """A field of a record that does not hold, and why."""

    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


def audit(record: Path, folder: Path, design: Design) -> list[Doubt]:
    """The fields of a record that do not hold for this set and this design; none where all does.

    All is computed anew but what only the run knows: the environment, the simulator, seed and cycles, which have their
    seal alone. Raises QexportError where the file is no record, or a design is missing or too many.
    """
    data = _read(record)
    try:
        document = json.loads(data)
        schema = document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise QexportError(
            f"audit: {record} is not a record of a verdict; give what simulate --verdict wrote"
        ) from None
    if not isinstance(schema, str) or not schema.startswith("qexport.verdict/"):
        raise QexportError(f"audit: {record} has schema {schema!r:.40}, needs {SCHEMA}; give what simulate wrote")
    try:
        doubts = list(broken_seals(document))
        if json_bytes(document) != data:
            doubts.append(Doubt("/", "is not written as a record is: sorted keys, two-space indent"))
        found = msgspec.convert(document, Record)
    except msgspec.ValidationError as error:
        return [*doubts, Doubt("/", str(error))]
    except RecursionError:
        raise QexportError(f"audit: {record} is nested too deeply; give what simulate --verdict wrote") from None
    manifest = read_manifest(folder)
    interface(folder, manifest)  # which a set without a bench does not have
    doubts += [Doubt("/set", f"{fault}") for fault in verify(folder).faults]
    doubts += contradictions(found, manifest, folder)
    if not doubts or all(doubt.field != "/set" for doubt in doubts):
        doubts += differing(document, computed(found.simulator.name, folder, manifest, design))
    named: dict[str, Doubt] = {}
    for doubt in doubts:
        named.setdefault(doubt.field, doubt)
    return list(named.values())


def _read(record: Path) -> bytes:
    if not record.is_file():
        raise QexportError(f"audit: {record} does not exist or is not a file; give what simulate --verdict wrote")
    with record.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise QexportError(f"audit: {record} has more than {MOST_BYTES >> 20} MiB; give what simulate --verdict wrote")
    return data


def broken_seals(document: Any) -> Iterator[Doubt]:
    """Leaves that are not those that were sealed."""
    sealed = document.get("seals")
    if not isinstance(sealed, dict):
        yield Doubt("/seals", "are missing")
        return
    fresh = seals({key: value for key, value in document.items() if key != "seals"})
    for place in sorted(sealed.keys() | fresh.keys()):
        if place not in fresh:
            yield Doubt(place, "is missing")
        elif place not in sealed:
            yield Doubt(place, "was added, or its seal was taken out")
        elif sealed[place] != fresh[place]:
            yield Doubt(place, "was changed, or its seal was")


def contradictions(found: Record, manifest: Manifest, folder: Path) -> Iterator[Doubt]:
    """What contradicts itself."""
    if found.schema != SCHEMA:
        yield Doubt("/schema", f"is '{found.schema}'; this qexport writes {SCHEMA}")
    if (found.result == "PASS") != (not found.failure) or found.result not in ("PASS", "FAIL"):
        yield Doubt("/result", f"is {found.result} with {len(found.failure)} lines of failure")
    bad = [one for one in found.beside if one.kind not in ("table", "print", "end", *found.design.allow)]
    if bad:
        yield Doubt("/beside", f"{bad[0]}, which was not allowed")
    if found.run.isolated != records(folder, manifest):
        yield Doubt("/run/isolated", f"is {found.run.isolated}, of the set's bench {not found.run.isolated}")
    if found.simulator.name not in SIMULATORS:
        yield Doubt("/simulator/name", f"'{found.simulator.name}' is none of {', '.join(SIMULATORS)}")
    macs = re.search(r"MACS = 64'd(\d+);", (folder / f"tb_{manifest.layer.slug}.sv").read_text())
    if found.result == "PASS" and (macs is None or int(macs[1]) != found.run.macs):
        yield Doubt("/run/macs", f"is {found.run.macs}, of the set {macs and macs[1]}")


def computed(simulator: str, folder: Path, manifest: Manifest, design: Design) -> dict[str, Any]:
    """What of a record follows from set and design, as JSON; `words` are those of a PASS."""
    macros = SIMULATORS[simulator].macros if simulator in SIMULATORS else ()
    offered = interface(folder, manifest)
    with work_folder(folder, linked=False) as work:
        reading = read_design(work, folder, manifest, design, macros)
    compared = {s.memory: s.values for s in reading.streams if not s.driven}
    free = {s.memory for s in reading.streams if s.added}  # of which some elements may be anything
    entries = [entry for entry in manifest.memories if entry.name in compared and entry.name not in free]
    fresh = {
        "set": set_record(folder, manifest),
        "design": DesignRecord.of(design, reading.sources),
        "beside": reading.beside,
        "compared": compared,
        "not_compared": {s.memory: s.values for s in offered if not s.driven and s not in reading.streams},
        "words": {entry.name: sha256(expected_words(folder, manifest, entry)) for entry in entries},
        "coverage": coverage_of_set(folder, manifest),
        "blind_spots": spots_of(folder, manifest),
    }
    found: dict[str, Any] = json.loads(msgspec.json.encode(fresh))
    return found


def differing(document: Mapping[str, Any], fresh: Mapping[str, Any]) -> Iterator[Doubt]:
    """Leaves of a record that are not those that were computed. Of a FAIL the words are not known."""
    names = [name for name in fresh if name != "words" or document["result"] == "PASS"]
    said = {name: document[name] for name in names}
    if "words" in names:
        free = fresh["compared"].keys() - fresh["words"].keys()
        said["words"] = {name: digest for name, digest in document["words"].items() if name not in free}
    yield from _differing(said, {name: fresh[name] for name in names})


def _differing(said: Mapping[str, Any], fresh: Mapping[str, Any]) -> Iterator[Doubt]:
    """Leaves that differ; files are told apart by their names, as they may lie elsewhere today."""
    one, other = (dict(leaves(document)) for document in (said, fresh))
    for place in sorted(one.keys() | other.keys()):
        values = [found.get(place) for found in (one, other)]
        if _alike(place, *values):
            continue
        shown = [f"{json.dumps(value):.{_SHOWN}}" if place in found else "nothing" for found, value in
                 zip((one, other), values, strict=True)]  # fmt: skip
        yield Doubt(place, f"says {shown[0]}, is {shown[1]}")


def _alike(place: str, said: Any, is_: Any) -> bool:
    if said == is_:
        return True
    if not isinstance(said, str) or not isinstance(is_, str):
        return False
    if re.fullmatch(r"/design/(files/\d+/path|includes/\d+)|/beside/\d+/file", place):
        return Path(said).name == Path(is_).name
    return place == "/coverage/products/bits" and _bits(said) == _bits(is_)


def _bits(text: str) -> bytes | None:
    """What is packed in a text, whatever version of zlib wrote it."""
    try:
        return Products.unpacked(text)
    except ValueError:
        return None
