"""Registers are left out of a proof only where all that meets behind them was given at one time."""

import json
from pathlib import Path

import pytest

from qexport.errors import QexportError
from qexport.trust.equivalence import yosys
from qexport.trust.way import way_of

MODULE = """module m(input clk, input en, input [7:0] a, output [7:0] y);
  reg [7:0] first, second, side, third;
  always @(posedge clk) if (a[1]) side <= first;
  always @(posedge clk) if (en) first <= a;
  always @(posedge clk) if (en) second <= first * 8'd3;
  always @(posedge clk) {LOAD} third <= second + {MORE};
  assign y = third >> {BY};
endmodule
"""


def way(folder: Path, load: str = "if (en)", more: str = "8'd1", by: str = "2", change: str = "second") -> list[str]:
    """The registers that are left out for a change of one."""
    (folder / "m.v").write_text(MODULE.format(LOAD=load, MORE=more, BY=by))
    yosys(folder, "read_verilog m.v; prep -top m; opt -full; write_json m.json")
    (module,) = json.loads((folder / "m.json").read_text())["modules"].values()
    names = [name for name in ("first", "second", "side", "third") if name in module["netnames"]]
    bits = {name: module["netnames"][name]["bits"] for name in names}
    named = {
        cell: next(name for name, own in bits.items() if own == facts["connections"]["Q"])
        for cell, facts in module["cells"].items()
        if "Q" in facts["connections"]
    }
    changed = next(cell for cell, name in named.items() if name == change)
    registers, gates = way_of(module["cells"], changed)
    assert any(module["cells"][gate]["type"] == "$mul" for gate in gates)
    return sorted(named[register] for register in registers)


def test_registers_that_are_loaded_one_behind_the_other_are_left_out(tmp_path: Path) -> None:
    assert way(tmp_path) == ["first", "second", "third"]
    assert way(tmp_path, load="if (a[0])") == ["first", "second", "third"]  # at other times, but alone at its depth


@pytest.mark.parametrize(
    "meets",
    [{"by": "second[1:0]"}, {"more": "third"}, {"load": "if (second[0])"}, {"more": "side", "change": "first"}],
)
def test_what_meets_itself_of_another_time_is_not_left_out(meets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(QexportError, match=r"two depths|decides when|loaded at another time"):
        way(tmp_path, **meets)
