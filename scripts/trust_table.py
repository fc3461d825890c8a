"""What the vectors of a set see of mistakes, by `qexport selftest`: the table of explanation/trust.md, filled in there.

The pictures are those that ship: the first one, the first four, and those that `--images auto` chooses. By default a
sample of the mutants of the weight-stationary array is run, about ten minutes on two cores; with --all every one of
both arrays. The table says which.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pages import fill_in

from qexport.core.strength import percent
from qexport.trust.selftest import SAMPLE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/explanation/trust.md"
PROGRAM = [sys.executable, "-c", "from qexport.cli import main; main()"]
COMPARED = ("psum", "accumulator", "relu", "output")


def run(*arguments: object) -> str:
    """What the program prints; a survivor is a figure of the table, not a reason to stop."""
    done = subprocess.run([*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, 1), arguments
    return done.stdout


def share(noticed: int, total: int) -> str:
    return f"{noticed} of {total} ({percent(noticed, total)})" if total else "-"


def column(table: dict[str, Any]) -> dict[str, str]:
    """What one set saw, by kind of mistake."""
    weight, sealed = table["strength"]["weight"], "with its checksum"
    rows = {
        "single-bit weight errors that show in relu, counted": share(weight["relu"], weight["flips"]),
        "files of the set changed": share(*noticed([m for m in table["files"] if sealed not in m["group"]])),
        "expected words changed, checksums too": share(
            *noticed([m for m in table["files"] if sealed in m["group"] and m["group"].startswith(COMPARED)])
        ),
        "driven words changed, checksums too": share(
            *noticed([m for m in table["files"] if sealed in m["group"] and not m["group"].startswith(COMPARED)])
        ),
    }
    fates: dict[str, Counter[str]] = {}
    for mutant in table["rtl"]:
        fates.setdefault(f"{mutant['style']} array, {mutant['kind']} mutants", Counter())[mutant["fate"]] += 1
    for kind, found in fates.items():
        able = found.total() - found["equivalent"]
        rows[kind] = share(found["killed"], able) + (f", {found['equivalent']} equivalent" * bool(found["equivalent"]))
    return rows


def noticed(mutants: list[dict[str, Any]]) -> tuple[int, int]:
    """How many were noticed by all who look at them, and how many there are."""
    return sum(None not in mutant["noticed"].values() for mutant in mutants), len(mutants)


def table(every: bool) -> str:
    chosen = ("--all",) if every else ("--style", "ws", "--sample", SAMPLE)
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as out:
        for images in ("1", "4", "auto"):
            folder = Path(out) / images
            run("dump", "--layer", "33", "--checkpoint", "builtin", "--images", images, "--out", folder)
            (result,) = json.loads(run("selftest", folder, *chosen, "--json"))["sets"]
            count = result["own"]["images"]
            columns[f"`--images auto`: {count}" if images == "auto" else f"{count} picture{'s' * (count > 1)}"] = (
                column(result["own"])
            )
        stress = result["stress"]  # of the same weights' geometry: the pictures make no difference to it
        columns[f"stress capture: {stress['images']} images"] = column(stress)
    kinds = list(dict.fromkeys(kind for rows in columns.values() for kind in rows))
    lines = ["| noticed | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {kind} | " + " | ".join(rows.get(kind, "-") for rows in columns.values()) + " |" for kind in kinds]
    of = "all mutants" if every else f"a seeded sample of {SAMPLE} mutants of each kind, of the ws array"
    return f"By `qexport selftest {' '.join(map(str, chosen))}`: {of}.\n\n" + "\n".join(lines)


def main(every: bool) -> None:
    made = table(every)
    fill_in(PAGE, "trust", made)
    print(made)


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
