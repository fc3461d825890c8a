"""Every fault through `qexport diagnose`, and a table of what was named.

python -m tests.judges.faults.run --sample 40
python -m tests.judges.faults.run --kind physical --keep answers.jsonl
python -m tests.judges.faults.run --answers answers.jsonl      # judge what was kept, without a run
python -m tests.judges.faults.run --docs                       # and put the table into docs/reference/diagnose.md
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from tests.conftest import cli
from tests.judges.faults import constant, listed, physical, unknown, variant
from tests.judges.faults.case import KINDS, Case, accepted, element_named, said, wrongly_explained
from tests.judges.faults.sets import set_of
from tests.judges.notation import Json

ROOMS = {"listed": listed, "variant": variant, "physical": physical, "unknown": unknown, "constant": constant}


def all_cases() -> list[Case]:
    return [case.of(kind) for kind in KINDS for case in ROOMS[kind].cases()]


def sampled(cases: list[Case], count: int, seed: int = 0) -> list[Case]:
    """So many, of each kind alike."""
    rng, found = random.Random(seed), list[Case]()
    piles = [rng.sample(pile, len(pile)) for kind in KINDS if (pile := [case for case in cases if case.kind == kind])]
    while len(found) < min(count, len(cases)):
        for pile in piles:
            found += [pile.pop()] if pile and len(found) < count else []
    return found


def answer(case: Case, root: Path) -> Json:
    """What the command says of a fault, less the map of shares."""
    found = set_of(case.on, root / "sets")
    run = root / "runs" / "".join(c if c.isalnum() else "_" for c in case.id)
    if case.whole:
        for tensor, values in case.whole.run(found.layer).items():
            if any(mem["tensor"] == tensor for mem in found.manifest["memories"]):
                found.write(tensor, found.words(tensor, values), run)
        result = cli("diagnose", found.folder, "--actual", run, "--json")
    else:
        actual = found.write(case.tensor, case.words(found), run, case.part)
        name = found.memory(case.tensor)["name"]
        result = cli("diagnose", found.folder, "--actual", actual, "--memory", name, "--json")
    if result.exit_code != 1:
        line = (result.output.strip().splitlines() or [""])[-1]
        nothing: Json = {"causes": [], "findings": [], "solved": []}
        return nothing | {"certainty": "crashed", "explained": False, "summary": line, "differing": 0, "total": 0}
    told: Json = json.loads(result.stdout)
    return {key: told[key] for key in told if key != "shares"}


def share(hits: list[bool]) -> str:
    return f"{sum(hits)} of {len(hits)}" if hits else "-"


def table(judged: list[tuple[Case, Json]]) -> list[str]:
    """Rows of Markdown, one for each kind."""
    heads = ["kind", "cases", "named first", "element named", "unexplained rightly", "explained and wrong"]
    rows = [f"| {' | '.join(heads)} | certain and wrong |", "|---" * 7 + "|"]
    for kind in KINDS:
        of = [(case, found) for case, found in judged if case.kind == kind]
        named = [(case, found) for case, found in of if case.accept is not None]
        none = [(case, found) for case, found in of if case.accept is None]
        cells = [
            share([accepted(*pair) for pair in named]),
            share([element_named(*pair) for pair in of if pair[0].element]),
            share([accepted(*pair) for pair in none]),
            str(sum(wrongly_explained(*pair) for pair in of)),
            str(sum(found["certainty"] == "certain" and not accepted(case, found) for case, found in of)),
        ]
        rows.append(f"| {kind} | {len(of)} | {' | '.join(cells)} |")
    return rows


FIRST = {  # of main at 9343155: named first, element named, unexplained rightly, explained and wrong
    "listed": ("163 of 169", "-", "-", "0"),
    "variant": ("121 of 160", "4 of 4", "-", "2"),
    "physical": ("106 of 123", "102 of 119", "-", "1"),
    "unknown": ("-", "-", "53 of 53", "0"),
    "constant": ("49 of 54", "-", "-", "5"),
}
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "diagnose.md"
BEGIN, END = "<!-- begin:faults -->\n", "<!-- end:faults -->"


def beside(rows: list[str]) -> str:
    """The figures as first measured and those of a table of now, side by side."""
    lines = [
        "| kind | cases | named first | element named | unexplained rightly | explained and wrong |",
        "|---|---|" + "--:|" * 4,
    ]
    for row in rows[2:]:
        kind, cases, *now = (cell.strip() for cell in row.strip("| ").split("|"))
        cells = [f"{was}, now {is_}" if was != "-" else "-" for was, is_ in zip(FIRST[kind], now[:4], strict=True)]
        lines.append(f"| {kind} | {cases} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def miss(case: Case, found: Json) -> str:
    causes = "; ".join(f"{said(cause)} {cause['share']:.3f}" for cause in found["causes"][:2])
    if found["certainty"] == "crashed":
        return f"{case.id}: {found['summary']}"
    more = "".join(f"; {line}" for line in [*found["findings"][:2], *found["solved"][:2]])
    return f"{case.id} {found['differing']}/{found['total']}: {found['certainty']}: {causes}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="only so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--keep", type=Path, help="a file that takes each answer; those it has are not asked again")
    parser.add_argument("--answers", type=Path, action="append", default=[], help="judge these only; several files")
    parser.add_argument("--docs", action="store_true", help="put the table into the page of diagnose")
    asked = parser.parse_args()
    cases = [case for case in all_cases() if asked.kind in (None, case.kind)]
    if asked.sample:
        cases = sampled(cases, asked.sample, asked.seed)
    kept: dict[str, Json] = {}
    for path in (asked.keep, *asked.answers):
        if path and path.exists():
            kept |= dict(json.loads(line) for line in path.read_text().splitlines())
    with tempfile.TemporaryDirectory() as root:
        for case in cases:
            if case.id in kept or asked.answers:
                continue
            kept[case.id] = answer(case, Path(root))
            if asked.keep:
                with asked.keep.open("a") as file:
                    file.write(json.dumps([case.id, kept[case.id]]) + "\n")
            print(".", end="", file=sys.stderr, flush=True)
    judged = [(case, kept[case.id]) for case in cases if case.id in kept]
    print("\n".join(table(judged)))
    if asked.docs:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + beside(table(judged)) + END + rest.partition(END)[2], encoding="utf-8")
    print("\nMisses:")
    for case, found in judged:
        if not accepted(case, found) or (case.element and not element_named(case, found)):
            print(f"- {miss(case, found)}")


if __name__ == "__main__":
    main()
