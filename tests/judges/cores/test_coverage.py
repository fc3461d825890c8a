"""What a verdict says of coverage, counted anew from the set's files: products, accumulators, edges of the steps."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import cli
from tests.judges.cores import layers
from tests.judges.cores.bench import Set, made, padded, simulate
from tests.judges.golden import read_capture

pytestmark = pytest.mark.whole
Product = tuple[int, int, int, int]  # row, column, codes of weight and input


def products(found: Set) -> set[Product]:
    """What the elements of the array multiply: at the positions that outputs use, or where psums are stored at all."""
    array, layer = found.manifest["array"], found.manifest["layer"]
    weight, plane = found.tensor("weight"), padded(found.tensor("input"), *layer["padding"])
    (_, _, kh, kw), (sy, sx) = weight.shape, layer["stride"]
    everywhere = any(memory["name"] == "psum" for memory in found.manifest["memories"])
    seen = set()
    for (oc, ic, y, x), code in np.ndenumerate(weight):
        met = plane[:, ic]
        if not everywhere:
            met = met[:, y : met.shape[1] - kh + y + 1 : sy, x : met.shape[2] - kw + x + 1 : sx]
        seen |= {(ic % array["row"], oc % array["col"], int(code), int(other)) for other in np.unique(met)}
    return seen


@pytest.mark.parametrize("name", layers.LAYERS)
def test_products_and_accumulators_are_counted_right(tmp_path: Path, name: str) -> None:
    found = layers.set_of(name, tmp_path)
    said = simulate(found, layers.design_of(name), "--streams", "smooth")["coverage"]
    assert said["products"]["seen"] == len(products(found))
    sums = found.tensor("accumulator")
    assert (said["accumulator"]["least"], said["accumulator"]["greatest"]) == (sums.min(), sums.max())
    assert [said["accumulator"][key] for key in ("low", "high")] == found.manifest["formats"]["accumulator"]["bounds"]


def test_edges_of_steps_are_counted_right(tmp_path: Path) -> None:
    """Of clamp((sum + 8) >> 4, 0, 15)."""
    found = layers.set_of("mac_fsm", tmp_path)
    said = simulate(found, layers.design_of("mac_fsm"), "--streams", "smooth")["coverage"]["steps"]
    sums = np.unique(found.tensor("accumulator"))
    rests = (
        {0: "exact", 8: "tie"} | dict.fromkeys(range(1, 8), "below half") | dict.fromkeys(range(9, 16), "above half")
    )
    assert set(said["step0"]["reached"]) == {
        f"{rests[int(v) % 16]}, {'negative' if v < 0 else 'positive'}" for v in sums
    }
    codes = np.unique(sums + 8 >> 4)
    edges = {"below low": codes < 0, "at low": codes == 0, "at high": codes == 15, "above high": codes > 15}
    assert set(said["step1"]["reached"]) == {edge for edge, at in edges.items() if at.any()}


def test_sets_of_stress_merge_to_every_product(tmp_path: Path) -> None:
    """Each set adds what it shows; together they reach what `dump --stress` says."""
    plain = layers.line_buffer()
    (tmp_path / "l.toml").write_text(layers.layout_of("line_buffer"))
    options = ("--layout", tmp_path / "l.toml", "--stress", "--out", tmp_path / "stress")
    done = cli("dump", "--capture", plain.write(tmp_path / "c.safetensors"), *options)
    assert done.exit_code == 0, done.output
    assert "together: 100.0 % of 512 products" in done.output
    seen: set[Product] = set()
    for folder in sorted((tmp_path / "stress").glob("conv_stress*")):
        again = read_capture(folder / "capture.safetensors").having(layer=plain.layer)
        seen |= products(made(again, tmp_path / folder.name, layers.layout_of("line_buffer")))
    assert len(seen) == 512
