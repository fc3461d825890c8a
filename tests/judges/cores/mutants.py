"""How many mutants of the five designs pictures and stress kill together: `python -m tests.judges.cores.mutants`.

`qexport selftest --dut` makes them, from the same seed for each set of a design, so that mutants of one name and place
are one. A mutant is killed where any set kills it, and left out where it is proven that it makes no difference. The
exit status is 1 where less than 99 % are killed. It takes minutes; --sample says how many mutants of each design."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.conftest import cli
from tests.judges.cores import layers
from tests.judges.cores.bench import Set, default, made
from tests.judges.golden import Capture
from tests.judges.notation import Ints, Json, code_range


def stressed(capture: Capture, inverted: bool) -> Capture:
    """The same layer with codes over their whole ranges, many at the ends; `inverted`: all bits of its weights."""
    rng = np.random.default_rng(1)

    def codes(name: str, shape: tuple[int, ...]) -> Ints:
        low, high = code_range(capture.formats[name])
        found: Ints = np.where(
            rng.random(shape) < 0.7, rng.integers(low, high + 1, shape), rng.choice([low, high], shape)
        )
        return found

    weight = codes("weight", capture.tensors["weight"].shape)
    low, high = code_range(capture.formats["input"])
    one = capture.tensors["input"].shape[1:]
    images = [codes("input", one) for _ in range(5)] + [np.full(one, v) for v in (low, high, 0)]
    images += [np.where(rng.random(one) < 0.5, low, high) for _ in range(2)]
    images += [np.where(rng.random(one) < 0.8, 0, codes("input", one)) for _ in range(2)]
    tensors: dict[str, Any] = {
        "weight": (~weight if inverted else weight).astype(np.int32),
        "input": np.stack(images).astype(np.int32),
    }
    if "bias" in capture.tensors:
        bias = rng.integers(-900, 901, len(weight))
        tensors["bias"] = ~bias if inverted else bias
    return capture.having(tensors=tensors)


def sets_of(name: str, root: Path) -> list[Set]:
    without = () if name == "bit_serial" else ("psum",)
    layout = default(*layers.ARRAYS[name], *without)
    plain = layers.LAYERS[name]()
    captures = [plain, stressed(plain, False), stressed(plain, True)]
    return [made(capture, root / f"{name}_{number}", layout) for number, capture in enumerate(captures)]


def fates(found: Set, name: str, sample: int, simulator: str) -> dict[tuple[str, str], str]:
    """What became of each mutant of a design on a set: killed, equivalent, survived."""
    options = ("--simulator", simulator, "--sample", sample, "--time-limit", 3600, "--json")
    result = cli("selftest", found.folder, "--dut", layers.design_of(name), "--top", name, *options)
    assert result.exit_code in (0, 1), result.output
    (said,) = json.loads(result.stdout)["sets"]
    assert not said["open"], said["open"]
    mutants: list[Json] = said["own"]["rtl"] + said["stress"]["rtl"]
    return {(mutant["name"], mutant["where"]): mutant["fate"] for mutant in mutants}


def study(name: str, root: Path, sample: int, simulator: str = "icarus") -> dict[str, list[tuple[str, str]]]:
    """The mutants of a design by what became of them."""
    by_set = [fates(found, name, sample, simulator) for found in sets_of(name, root)]
    assert len({frozenset(by) for by in by_set}) == 1, "the sets of one design have other mutants"
    together: dict[str, list[tuple[str, str]]] = {"killed": [], "equivalent": [], "survived": []}
    for mutant in by_set[0]:
        seen = {by[mutant] for by in by_set}
        assert not {"killed", "equivalent"} <= seen, f"{mutant} of {name} is proven equivalent, and killed"
        together[next(fate for fate in together if fate in seen)].append(mutant)
    return together


def share(found: dict[str, list[tuple[str, str]]]) -> float:
    return len(found["killed"]) / max(1, len(found["killed"]) + len(found["survived"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(layers.LAYERS))
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--simulator", default="icarus")
    given = parser.parse_args()
    weak = 0
    with TemporaryDirectory() as root:
        for name in given.names:
            found = study(name, Path(root), given.sample, given.simulator)
            counts = ", ".join(f"{len(mutants)} {fate}" for fate, mutants in found.items())
            print(f"{name}: {counts}: {share(found):.1%}", *found["survived"], sep="\n  ", flush=True)
            weak += share(found) < 0.99
    return int(weak > 0)


if __name__ == "__main__":
    sys.exit(main())
