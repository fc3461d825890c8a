"""Which axes a tensor has is the layer's to say; a layout alone takes any name, and the axes that an order writes."""

from dataclasses import replace
from pathlib import Path

import pytest

from qexport.build.dump import dump, plan
from qexport.core.operations.registry import operation
from qexport.errors import QexportError
from qexport.layout.order import OrderFault, parse_order
from tests.conftest import cli, make_capture, one_memory_layout


@pytest.mark.parametrize(
    ("tensor", "order", "axes"),
    [
        ("input", "n (it row) iy ix -> | n it iy ix | row", ("n", "ic", "iy", "ix")),
        ("step0", "n (ot col) oy ox -> | n ot oy ox | col", ("n", "oc", "oy", "ox")),
        ("pooled", "n oc (a b) ox bit -> | n oc a ox | b bit", ("n", "oc", "oy", "ox", "bit")),
        ("step1_by", "(ot col) -> | ot | ~col", ("oc",)),
        ("scale_table", "oc level -> | oc | level", ("oc", "level")),
        ("gelu_table", "level -> | level |", ("level",)),
        ("dotted", "n (a b) q -> | n a q | b", ("n", "axis2", "q")),
    ],
)
def test_the_axes_are_those_that_stand_left_of_the_arrow(tensor: str, order: str, axes: tuple[str, ...]) -> None:
    array = {"row": 2, "col": 2, "b": 2}
    layout = one_memory_layout(order, tensor, array={name: size for name, size in array.items() if name in order})
    assert layout.memories[0].order.tensor_axes == axes


@pytest.mark.parametrize(
    ("order", "message", "offset"),
    [
        ("n q -> | n | r", "axis 'r' is unknown; left of the arrow stand n q", 13),
        ("n n -> | n | n", "axis 'n' is there already", 2),
        ("(a q) q -> | a | q", "axis 'q' is there already", 6),
        ("n bit q -> | n | q bit", "axis 'q': nothing stands behind 'bit'", 6),
        ("-> | |", "axis 'n' is missing left of the arrow", 0),
    ],
)
def test_the_order_of_a_step_is_held_to_the_notation(order: str, message: str, offset: int) -> None:
    with pytest.raises(OrderFault, match=message.replace("'", ".")) as caught:
        parse_order(order, "step0", sized=())
    assert caught.value.offset == offset


def test_a_layer_gives_a_tensor_its_axes() -> None:
    order = "(a b) kh kw -> | a | b kh kw"
    with pytest.raises(OrderFault, match="axis 'kh': tensor 'weight' has axes oc ic kh kw"):
        parse_order(order, "weight")
    assert parse_order(order, "weight", ("k", "kh", "kw")).tensor_axes == ("k", "kh", "kw")


def test_a_memory_whose_order_has_other_axes_than_the_layers_tensor_counts_as_lacking(tmp_path: Path) -> None:
    """Here of the accumulator: as a matrix product has it, and as a convolution has it."""
    facts = operation(make_capture(), None)
    conv = one_memory_layout("n oc oy ox -> | n oc oy ox |", "accumulator")
    other = one_memory_layout("n ot -> | n ot |", "step0")
    memory = replace(other.memories[0], tensor="accumulator", name="product", file="p.txt")
    must = replace(conv, memories=(*conv.memories, memory))
    with pytest.raises(
        QexportError,
        match=r"'accumulator': layer features\.33 has it with the axes n oc oy ox, not n ot as the order of memory "
        r"'product'; mark the memory optional = true or take it out",
    ):
        plan(facts, must, 1)
    may = replace(conv, memories=(*conv.memories, replace(memory, optional=True)))
    assert [files.memory.name for files in plan(facts, may, 1)] == ["m"]
    assert [entry.name for entry in dump(make_capture(), may, tmp_path).manifest.memories] == ["m"]


def test_a_tensor_that_the_layer_does_not_have_counts_as_lacking_and_a_known_name_nearby_is_told() -> None:
    facts = operation(make_capture(), None)
    for tensor, end in (("wieght", "did you mean 'weight'?"), ("step0", "take it out of the layout")):
        layout = one_memory_layout("n oc oy ox -> | n oc oy ox |", tensor)
        with pytest.raises(QexportError, match=f"tensor '{tensor}': layer features.33 does not have it") as caught:
            plan(facts, layout, 1)
        assert str(caught.value).endswith(end)


def test_layout_show_draws_the_tensors_of_steps(tmp_path: Path) -> None:
    path = tmp_path / "steps.toml"
    path.write_text(
        'name = "steps"\n[array]\ncol = 4\n[[memory]]\nname = "pooled"\ntensor = "pooled"\nfile = "pooled.hex"\n'
        'order = "n (ot col) oy ox -> | n ot oy ox | ~col"\nradix = "hex"\n'
        '[[memory]]\nname = "t"\ntensor = "t_table"\nfile = "t.hex"\norder = "q level -> | q level |"\nradix = "hex"\n'
    )
    shown = cli("layout", "show", path)
    assert shown.exit_code == 0, shown.output
    assert "oc=3" in shown.stdout
    assert "q=0 level=2" in shown.stdout
