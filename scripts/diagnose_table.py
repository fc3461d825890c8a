"""Every mistake of tests/judges/machine.py, and of tests/sim/mistakes.py in the reference RTL, and what is said of it.

Prints a table: `python -m scripts.diagnose_table`, also part of `make bench`; --docs puts it into
docs/reference/diagnose.md.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qexport.build.dump import dump
from qexport.findings.diagnose import diagnose
from qexport.findings.words import read_actual
from qexport.layout.toml import load_layout, parse_layout
from scripts.pages import fill_in
from tests.conftest import checked_dump, make_capture
from tests.findings.proof import LAYERS, MIRROR, Case, Sets, Verdict, causes_by_text, judge, make_cases, make_sets
from tests.judges.machine import OUTSIDE, Machine, listed, outside
from tests.sim.mistakes import MUTANTS, reference, simulated

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "diagnose.md"


def said(verdict: Verdict) -> str:
    """The answer in one line."""
    causes = "; ".join(f"{name} ({detail}) {share:.1%}" for name, detail, share, _ in verdict.said)
    return ("" if verdict.explained else "unexplained: ") + (causes or "nothing")


@dataclass(frozen=True)
class Answers:
    """What was said on one set. `listed_too`: mistakes outside the list that give the very words of one in it."""

    listed: list[Verdict]
    outside: list[Verdict]
    invisible: list[Case]
    listed_too: int


def of_set(sets: Sets, layer: str, layout: str) -> Answers:
    """Every mistake of the model on one set."""
    cases = make_cases(sets, layer, layout)
    with tempfile.TemporaryDirectory() as scratch:
        listed, outside = (
            [judge(case, sets[layer, layout], Path(scratch)) for case in some] for some in (cases.listed, cases.outside)
        )
    print(f"{layer}, layout {layout}: {len(listed) + len(outside)} mistakes", file=sys.stderr)
    invisible = [case for case in cases.invisible if case.name != OUTSIDE]
    return Answers(listed, outside, invisible, len(cases.listed_too))


def of_rtl(scratch: Path) -> Iterator[Verdict]:
    """The mutants, each simulated with two images of its layer."""
    sets = {layer: checked_dump(capture().part(0, 2), "default", scratch / "rtl") for layer, capture in LAYERS.items()}
    alike = {layer: causes_by_text(folder) for layer, folder in sets.items()}
    plain = {layer: reference(folder, scratch / f"{layer}_rtl") for layer, folder in sets.items()}
    for how, mutant in MUTANTS.items():
        text = simulated(mutant, sets[mutant.layer], plain[mutant.layer], scratch / "mutant").read_text()
        shutil.rmtree(scratch / "mutant")
        names = alike[mutant.layer][mutant.memory].get(text.lower(), set()) | {mutant.name}
        case = Case(mutant.layer, "RTL", mutant.memory, mutant.name, how, text, frozenset(names))
        yield judge(case, sets[mutant.layer], scratch)


def timed(scratch: Path) -> Iterator[str]:
    """Seconds for layer 33 and for a 512x512 layer with 8 images; the answer to a mistake that no cause names is the
    longest, because everything is tried."""
    blocks = MIRROR.split("[[memory]]")
    text = "[[memory]]".join(block for block in blocks if '"psum"' not in block and '"output"' not in block)
    large = make_capture(plane=(4, 4), images=8, in_channels=512, out_channels=512, name="large")
    layouts = {"features_33": load_layout("default"), "large": parse_layout(text, "mirror.toml")}
    for capture in (LAYERS["features_33"](), large):
        folder = dump(capture, layouts[capture.layer.slug], scratch / "timed").folder
        machine = Machine(folder)
        wanted = {"kernel_rotated": listed(machine), "random bits of the results": outside(machine)}
        for what, faults in wanted.items():
            fault = next(fault for fault in faults if what in (fault.name, fault.how))
            file = scratch / "actual.txt"
            file.write_text(Machine(folder, fault.apply).text("accumulator"))
            begin, used = time.perf_counter(), time.process_time()
            found = diagnose(folder, read_actual(folder, file, "accumulator"))
            seconds, used = time.perf_counter() - begin, time.process_time() - used
            answer = found.causes[0].name if found.explained else "unexplained"
            size = f"{capture.layer.in_channels} to {capture.layer.out_channels} channels, {capture.images} images"
            yield f"{size}, {what}: {answer}, {seconds:.1f} s ({used:.1f} s of CPU)"


def percent(some: int, of: int) -> str:
    return f"{some} of {of} ({100 * some / max(of, 1):.1f} %)"


def table(answers: Iterable[Answers], rtl: list[Verdict], seconds: Iterable[str]) -> str:
    """The table and what it comes to, as Markdown."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    outside, wrong, too = list[Verdict](), list[Verdict](), 0
    for answer in answers:
        for one in answer.listed:
            row = counts[one.case.name]
            row.update({"cases": 1, "first": one.first, "three": one.among_three, "class": len(one.case.alike) > 1})
        for case in answer.invisible:
            counts[case.name]["invisible"] += 1
        outside += answer.outside
        too += answer.listed_too
        wrong += [one for one in answer.listed if not one.first] + [one for one in answer.outside if one.explained]
    wrong += [one for one in rtl if not one.first]
    rows = [("cause", "cases", "first", "among three", "in a class", "invisible")] + [
        (f"`{name}`", *(str(row[key]) for key in ("cases", "first", "three", "class", "invisible")))
        for name, row in sorted(counts.items())
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[rows[n][0].ljust(widths[0]), *map(str.rjust, rows[n][1:], widths[1:])] for n in range(len(rows))]
    lines = [f"| {' | '.join(row)} |" for row in aligned]
    lines.insert(1, "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|")
    whole = sum(counts.values(), Counter())
    unexplained = sum(not one.explained for one in outside)
    return "\n".join(
        [
            *lines,
            "",
            f"- True cause first: {percent(whole['first'], whole['cases'])}; "
            f"among the first three: {percent(whole['three'], whole['cases'])}.",
            f"- Mutants of the reference RTL on Icarus, first: {percent(sum(one.first for one in rtl), len(rtl))}; "
            f"among the first three: {percent(sum(one.among_three for one in rtl), len(rtl))}.",
            f'- Mistakes that no cause names, answered "unexplained": {percent(unexplained, len(outside))}; '
            f"{too} more give the very words of a cause and are not counted.",
            *(f"- {line}." for line in seconds),
            "",
            *(["Missed:", "", *(f"- {one.case}: {said(one)}" for one in wrong)] if wrong else ["Missed: none."]),
        ]
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sets = make_sets(scratch / "sets")
        with ProcessPoolExecutor() as pool:
            answers = list(pool.map(of_set, *zip(*((sets, *key) for key in sets), strict=True)))
        text = table(answers, list(of_rtl(scratch)), timed(scratch))
    print(text)
    if "--docs" in sys.argv[1:]:
        fill_in(PAGE, "proof", text)


if __name__ == "__main__":
    main()
