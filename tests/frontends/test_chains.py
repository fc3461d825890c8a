"""Networks of Brevitas as whole chains of integers, on 16 pictures; scripts/chain_proof.py does more of them."""

from pathlib import Path

import numpy as np
import pytest

from scripts import chain_proof
from tests.frontends import onnx_zoo
from tests.frontends.test_onnx import needs

pytestmark = [pytest.mark.whole, pytest.mark.filterwarnings("ignore")]  # of the frameworks


@pytest.mark.parametrize(
    ("title", "style", "layers"), [("Brevitas, residual", "qcdq", 5), ("Brevitas, depthwise", "qonnx", 4)]
)
def test_every_edge_of_a_chain_is_the_frameworks(title: str, style: str, layers: int, tmp_path: Path) -> None:
    for package in ("brevitas", "onnxoptimizer", "qonnx"):
        needs(package)
    path = onnx_zoo.of_brevitas(tmp_path, title, style)
    found = chain_proof.prove(path, chain_proof.pictures_of(path))
    assert found.holds
    assert (found.layers, found.ties, found.chained, found.exported) == (layers, 0, 0, 0)
    assert found.codes > 10_000


def test_a_code_that_is_not_the_frameworks_ends_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One code of the chain's first layer is moved by 1."""
    for package in ("brevitas", "onnxoptimizer"):
        needs(package)
    path = onnx_zoo.of_brevitas(tmp_path, "Brevitas, depthwise", "qcdq")
    codes = chain_proof._first_codes

    def moved(*of: object) -> object:
        given = codes(*of)  # type: ignore[arg-type]
        for array in given.values():
            array[0, 0, 0, 0] += 1 if array[0, 0, 0, 0] < 0 else -1
        return given

    monkeypatch.setattr(chain_proof, "_first_codes", moved)
    with pytest.raises(AssertionError):
        chain_proof.prove(path, np.ascontiguousarray(chain_proof.pictures_of(path, 2)))
