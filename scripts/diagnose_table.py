"""Every mistake of tests/faults.py, and of tests/sim/mistakes.py in the reference RTL, shown to `qexport diagnose`.

Prints a table: `python -m scripts.diagnose_table`, also part of `make bench`; --docs puts it into docs/diagnose.md.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from qexport.actual import read_actual
from qexport.diagnose import diagnose
from qexport.export import dump
from qexport.layout import load_layout, parse_layout
from tests.conftest import checked_dump, make_capture
from tests.faults import Machine, listed, outside
from tests.proof import LAYERS, MIRROR, Case, Verdict, causes_by_text, judge, make_cases, make_sets
from tests.sim.mistakes import MUTANTS, reference, simulated

PAGE = Path(__file__).parent.parent / "docs" / "diagnose.md"
BEGIN, END = "<!-- begin:proof -->\n", "<!-- end:proof -->"


def said(verdict: Verdict) -> str:
    """The answer in one line."""
    causes = "; ".join(f"{name} ({detail}) {share:.1%}" for name, detail, share, _ in verdict.said)
    return ("" if verdict.explained else "unexplained: ") + (causes or "nothing")


def of_model(scratch: Path) -> Iterator[tuple[str, Verdict | Case]]:
    """'listed' or 'outside' with what was said; 'invisible' or 'listed too' with the case."""
    sets = make_sets(scratch / "sets")
    for layer, layout in sets:
        cases = make_cases(sets, layer, layout)
        for kind, some in (("listed", cases.listed), ("outside", cases.outside)):
            for number, case in enumerate(some):
                print(f"{layer} {layout}: {kind} {number + 1} of {len(some)}", end="\033[K\r", file=sys.stderr)
                yield kind, judge(case, sets[layer, layout], scratch)
        yield from (("invisible", case) for case in cases.invisible)
        yield from (("listed too", case) for case in cases.listed_too)


def of_rtl(scratch: Path) -> Iterator[Verdict]:
    """The mutants, each simulated with two images of its layer."""
    sets = {layer: checked_dump(capture().part(0, 2), "default", scratch / "rtl") for layer, capture in LAYERS.items()}
    alike = {layer: causes_by_text(folder) for layer, folder in sets.items()}
    plain = {layer: reference(folder, scratch / f"{layer}_rtl") for layer, folder in sets.items()}
    for how, mutant in MUTANTS.items():
        print(f"RTL: {how}", end="\033[K\r", file=sys.stderr)
        text = simulated(mutant, sets[mutant.layer], plain[mutant.layer], scratch / "mutant").read_text()
        shutil.rmtree(scratch / "mutant")
        names = alike[mutant.layer][mutant.memory].get(text.lower(), set()) | {mutant.name}
        case = Case(mutant.layer, "RTL", mutant.memory, mutant.name, how, text, frozenset(names))
        yield judge(case, sets[mutant.layer], scratch)


def timed(scratch: Path) -> Iterator[str]:
    """Seconds for layer 33 and for a 512x512 layer with 8 images; the answer to a mistake that no cause names is the
    longest, because everything is tried."""
    without_psum = (
        MIRROR[: MIRROR.index('[[memory]]\nname = "psum"')] + MIRROR[MIRROR.index('[[memory]]\nname = "acc') :]
    )
    large = make_capture(plane=(4, 4), images=8, in_channels=512, out_channels=512, name="large")
    layouts = {"features_33": load_layout("default"), "large": parse_layout(without_psum, "mirror.toml")}
    for capture in (LAYERS["features_33"](), large):
        folder = dump(capture, layouts[capture.layer.slug], scratch / "timed").folder
        machine = Machine(folder)
        wanted = {"kernel_rotated": listed(machine), "random bits of the results": outside(machine)}
        for what, faults in wanted.items():
            fault = next(fault for fault in faults if what in (fault.name, fault.how))
            file = scratch / "actual.txt"
            file.write_text(Machine(folder, fault.apply).text("relu"))
            begin = time.perf_counter()
            found = diagnose(folder, read_actual(folder, file, "relu"))
            seconds = time.perf_counter() - begin
            answer = found.causes[0].name if found.explained else "unexplained"
            channels = f"{capture.layer.in_channels}x{capture.layer.out_channels}, {capture.images} images"
            yield f"{channels}, {what}: {answer}, {seconds:.1f} s"


def percent(some: int, of: int) -> str:
    return f"{some} of {of} ({100 * some / max(of, 1):.1f} %)"


def table(scratch: Path) -> str:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    misses, outside, rtl, too = list[str](), list[Verdict](), list[Verdict](), 0
    for kind, one in of_model(scratch):
        if isinstance(one, Case):
            too += kind == "listed too"
            if kind == "invisible" and one.name != "unexplained":
                counts[one.name]["invisible"] += 1
            continue
        if kind == "outside":
            outside.append(one)
            if one.explained:
                misses.append(f"- {one.case}: {said(one)}")
            continue
        row = counts[one.case.name]
        row.update({"cases": 1, "first": one.first, "three": one.among_three, "class": len(one.case.alike) > 1})
        if not one.first:
            misses.append(f"- {one.case}: {said(one)}")
    for one in of_rtl(scratch):
        rtl.append(one)
        if not one.first:
            misses.append(f"- {one.case}: {said(one)}")
    print(end="\033[K", file=sys.stderr)
    head = ("cause", "cases", "first", "among three", "in a class", "invisible")
    rows = [head] + [
        (f"`{name}`", *(str(row[key]) for key in ("cases", "first", "three", "class", "invisible")))
        for name, row in sorted(counts.items())
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:{'<' if number == 0 else '>'}{width}}" for number, (cell, width) in
                          enumerate(zip(row, widths, strict=True))) + " |" for row in rows
    ]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ("-" if n == 0 else ":") for n, w in enumerate(widths)) + "|")
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
            *(f"- {line}." for line in timed(scratch)),
            "",
            *(["Missed:", "", *misses] if misses else ["Missed: none."]),
        ]
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        text = table(Path(scratch))
    print(text)
    if "--docs" in sys.argv[1:]:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + "\n" + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
