"""How many mutants of designs stress and pictures kill together: `python -m tests.judges.cores.mutants`.

Of the five designs of the judge and of the arrays `ws` and `os`; --write puts the rows into the page trust.md.

Those of a judge's design run on the layer's own pictures, then on the sets of `dump --stress`, one after the other:
what a set kills does not run on the next. One that takes other cycles is killed, as `simulate --cycles` would see it.
What none kills is left out where it is proven that it makes no difference.
The arrays run as `qexport selftest` runs them. The exit status is 1 where less than 99 % are killed. It takes minutes;
--sample says how many mutants of each design."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from qexport.trust.mutants import user_mutants
from tests.conftest import cli
from tests.judges.cores import layers
from tests.judges.cores.bench import Set, made
from tests.judges.golden import read_capture

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "trust.md"
BEGIN, END = "<!-- begin:study -->\n", "<!-- end:study -->"
HEAD = """| design | mutants | killed | proven equivalent | survived | killed of those not equivalent |
|---|---|---|---|---|---|
"""
ARRAYS = ("ws", "os")


def sets_of(name: str, root: Path) -> Iterator[Set]:
    """That of the layer itself, then those of `dump --stress`."""
    plain, layout = layers.LAYERS[name](), layers.layout_of(name)
    yield made(plain, root / "plain", layout)
    (root / "layout.toml").write_text(layout)
    options = ("--capture", plain.write(root / "plain.safetensors"), "--layout", root / "layout.toml", "--stress")
    done = cli("dump", *options, "--out", root / "stress")
    assert done.exit_code == 0, done.output
    for number in range(len(list((root / "stress").iterdir()))):
        path = root / "stress" / f"{plain.layer['name']}_stress{number}" / "capture.safetensors"
        if path.exists():  # beside the sets there are other files
            # under the layer's own name, as the designs import its package
            stress = read_capture(path).having(layer=plain.layer)
            yield made(stress, root / str(number), layout)


def of_array(style: str, sample: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Those of a reference array, on the stress set of the example: half of them by hand, half by Yosys."""
    options = ("--only", "rtl", "--style", style, "--sample", sample // 2, "--seed", seed, "--time-limit", 3600)
    result = cli("selftest", ROOT / "vectors" / "features_33", *options, "--json")
    assert result.exit_code in (0, 1), result.output
    (said,) = json.loads(result.stdout)["sets"]
    by: dict[str, list[tuple[str, str]]] = {"killed": [], "equivalent": [], "survived": []}
    for mutant in said["stress"]["rtl"]:
        by[mutant["fate"]].append((mutant["name"], mutant["where"]))
    return by


def study(name: str, root: Path, sample: int, seed: int, simulator: str = "icarus") -> dict[str, list[tuple[str, str]]]:
    """The mutants of a design by what became of them."""
    if name in ARRAYS:
        return of_array(name, sample, seed)
    folders = [found.folder for found in sets_of(name, root)]
    results = user_mutants(
        folders, [layers.design_of(name)], name, sample=sample, seed=seed, simulator=simulator, timed=True
    )
    by: dict[str, list[tuple[str, str]]] = {"killed": [], "equivalent": [], "survived": []}
    for mutant in results:
        by[mutant.fate].append((mutant.name, mutant.where))
    return by


def share(found: dict[str, list[tuple[str, str]]]) -> float:
    return len(found["killed"]) / max(1, len(found["killed"]) + len(found["survived"]))


def write(name: str, found: dict[str, list[tuple[str, str]]]) -> None:
    """Put the row of a design into the page, in place of an older one, and the sums of all."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = dict(re.findall(r"^\| `(\w+)` \| \d+ \| (\d+ \| \d+ \| \d+) ", table, re.MULTILINE))
    rows[name] = " | ".join(str(len(found[fate])) for fate in ("killed", "equivalent", "survived"))
    counts = {f"`{design}`": list(map(int, row.split(" | "))) for design, row in sorted(rows.items())}
    counts["all"] = list(map(sum, zip(*counts.values(), strict=True)))
    lines = [
        f"| {design} | {sum(row)} | {' | '.join(map(str, row))} | {row[0] / max(1, row[0] + row[2]):.1%} |\n"
        for design, row in counts.items()
    ]
    PAGE.write_text(before + BEGIN + HEAD + "".join(lines) + END + after, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*layers.LAYERS, *ARRAYS])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simulator", default="icarus")
    given = parser.parse_args()
    weak = 0
    with TemporaryDirectory() as root:
        for name in given.names:
            found = study(name, Path(root) / name, given.sample, given.seed, given.simulator)
            counts = ", ".join(f"{len(mutants)} {fate}" for fate, mutants in found.items())
            print(f"{name}: {counts}: {share(found):.1%}", *found["survived"], sep="\n  ", flush=True)
            weak += share(found) < 0.99
            if given.write:
                write(name, found)
    return int(weak > 0)


if __name__ == "__main__":
    sys.exit(main())
