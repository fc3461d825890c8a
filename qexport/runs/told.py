"""What a store says, for people and machines: JSON, JUnit XML, CSV, coverage, what changed since a label."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qexport.core.coverage import Coverage, merged
from qexport.errors import QexportError
from qexport.runs.index import FLAKY, Verdict
from qexport.runs.job import LABELS
from qexport.runs.store import Jobs, Store
from qexport.sets.manifest import json_bytes

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(found: Iterable[Verdict]) -> bytes:
    return json_bytes({"runs": [entry(verdict) for verdict in found]})


def as_csv(found: Iterable[Verdict]) -> bytes:
    text = io.StringIO()
    names = ["result", *LABELS, "seconds", "address", "why"]
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(entry(verdict) for verdict in found)
    return text.getvalue().encode(errors="backslashreplace")


def as_junit(found: Iterable[Verdict]) -> bytes:
    """A test suite for each set and check; a flaky verdict is a failure, too."""
    suites: dict[str, list[Verdict]] = {}
    for verdict in found:
        labels = verdict.rows[0].labels
        suites.setdefault(f"{labels['set']}.{labels['check']}", []).append(verdict)
    root = ET.Element("testsuites", name="qexport")
    for name, ours in suites.items():
        failed = sum(verdict.result != "PASS" for verdict in ours)
        times = f"{sum(verdict.seconds for verdict in ours):.3f}"
        suite = ET.SubElement(
            root, "testsuite", name=name, tests=str(len(ours)), failures=str(failed), errors="0", time=times
        )
        for verdict in ours:
            case = ET.SubElement(suite, "testcase", classname=name, name=verdict.name, time=f"{verdict.seconds:.3f}")
            if verdict.result != "PASS":
                ET.SubElement(case, "failure", type=verdict.result, message=_NO_XML.sub("?", verdict.why))
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


FORMATS: Mapping[str, Callable[[Iterable[Verdict]], bytes]] = {"json": as_json, "junit": as_junit, "csv": as_csv}


def entry(verdict: Verdict) -> dict[str, Any]:
    labels = dict.fromkeys(LABELS, "") | verdict.rows[0].labels
    facts = {"result": verdict.result, "seconds": verdict.seconds, "address": verdict.address, "why": verdict.why}
    return labels | facts


def coverage_of(store: Store, found: Iterable[Verdict]) -> dict[str, Coverage]:
    """What the sets of all simulations that passed exercise together, by geometry; one result tells it of a set."""
    sets: dict[str, Coverage] = {}
    for verdict in found:
        if verdict.result != "PASS" or verdict.rows[0].labels["check"] != "simulate":
            continue
        name = verdict.rows[0].labels["set"]
        if name not in sets:
            record = store.read(verdict.rows[0].file).record
            if record is not None and record.coverage is not None:
                sets[name] = record.coverage
    try:
        return merged(sets.values())
    except ValueError as error:  # of bits that are none
        raise QexportError(f"store: {store.root} has coverage that is damaged ({error}); run regress --again") from None


def jobs_of(found: Mapping[str, Verdict]) -> Jobs:
    """What a label keeps of verdicts by job name: address and result."""
    return {name: (verdict.address, verdict.result) for name, verdict in found.items()}


def changes(before: Jobs, now: Jobs) -> dict[str, list[str]]:
    """The names of the jobs that say something else than at an earlier label, by what changed."""
    was, is_ = ({name: result for name, (_, result) in jobs.items()} for jobs in (before, now))
    both = [name for name in is_ if name in was]
    return {
        "newly failing": [name for name in both if was[name] == "PASS" and is_[name] != "PASS"],
        "newly passing": [name for name in both if was[name] != "PASS" and is_[name] == "PASS"],
        "still failing": [name for name in both if was[name] != "PASS" and is_[name] != "PASS"],
        "flaky": [name for name in is_ if is_[name] == FLAKY],
        "new": [name for name in is_ if name not in was],
        "gone": [name for name in was if name not in is_],
    }
