"""Any PyTorch module to captures: the codes are those of the framework, the sums its own, the output codes equal."""

import copy
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import IntFormat
from qexport.core.rescale import Hardware
from qexport.core.steps import MaxPool, Relu, SumPool, Threshold
from qexport.errors import QexportError
from qexport.frontends.torch_module.capture import Captured, Wishes, capture_all, capture_module, stated
from qexport.frontends.torch_module.grids import Stated, operand_of
from tests.conftest import cases, check_reference, cli, fails
from tests.frontends import zoo
from tests.frontends.zoo import Example


def needs_brevitas() -> None:
    if importlib.util.find_spec("brevitas") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("brevitas is not installed")


@pytest.fixture(params=[*zoo.BREVITAS, *zoo.OTHERS])
def example(request: pytest.FixtureRequest) -> Example:
    if request.param in zoo.BREVITAS:
        needs_brevitas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the frameworks
        return (zoo.BREVITAS | zoo.OTHERS)[request.param]()


def captures_of(model: nn.Module, inputs: Any) -> list[Captured]:
    """The captures of all layers, none of which may be refused, each checked against what the framework computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(capture_all(model, inputs))
    captures = [one for one in found if isinstance(one, Captured)]
    assert len(captures) == len(found), found
    for one in captures:
        check_reference(Golden(one.capture))
    return captures


def layer_of(model: nn.Module, inputs: Any, name: str = "0", **stated: Any) -> Captured:
    found = capture_module(model, name, inputs, Wishes(**stated))
    check_reference(Golden(found.capture))
    return found


def is_layer(module: nn.Module) -> bool:
    names = [kind.__name__ for kind in type(module).__mro__]
    return (
        isinstance(module, nn.Conv2d | nn.Linear | zoo.Home)
        or any("ConvReLU2d" in name for name in names)
        or (type(module).__module__.startswith("torch.ao") and type(module).__name__ in ("Conv2d", "Linear"))
    )


@pytest.mark.whole
def test_every_layer_of_every_framework_is_captured_exactly(example: Example) -> None:
    model, inputs = example
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    everything = captures_of(model, inputs)
    sums = [
        one for one in everything if one.capture.layer.kind == "sum"
    ]  # which no module of a layer's kind stands for
    additions = {zoo.Residual: 1}.get(type(model), 9 if "layer1" in dict(model.named_children()) else 0)
    assert [one.remarks for one in sums] == [()] * additions
    captures = [one for one in everything if one not in sums]
    names = [one.capture.layer.name for one in captures]
    modules = [name for name, module in model.named_modules() if is_layer(module)]
    inner = {name for name in modules if name.endswith(".inner")}
    assert names == [name for name in modules if name not in inner]
    assert sum(one.capture.steps is not None for one in captures) >= len(captures) - 1
    for one in captures:
        capture, check = one.capture, check_reference(Golden(one.capture))
        if capture.steps is None:
            assert any("accumulators only" in remark for remark in one.remarks)
        else:
            assert check.codes is not None
            assert check.codes.compared == capture.reference_codes.size  # type: ignore[union-attr]
            assert check.codes.ties == len(capture.ties or ())
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())  # the module is left as it was


@pytest.mark.whole
def test_the_codes_of_a_converted_network_are_its_integers() -> None:
    model, pictures = zoo.ao_resnet18()
    captures = {one.capture.layer.name: one.capture for one in captures_of(model, pictures)}
    for name, capture in captures.items():
        if capture.weight is None:
            continue
        weight = model.get_submodule(name).weight()
        codes = weight.int_repr().numpy()
        assert np.array_equal(capture.weight.reshape(codes.shape), codes)
        assert capture.formats.weight.scales == tuple(weight.q_per_channel_scales().tolist())
    first, pooled = captures["conv1"], captures["layer1.0.conv1"]
    assert np.array_equal(F.max_pool2d(torch.tensor(first.reference_codes).double(), 3, 2, 1).numpy(), pooled.input)
    assert np.array_equal(captures["layer1.0.conv2"].input, pooled.reference_codes)


def test_codes_and_scales_are_those_that_brevitas_says() -> None:
    needs_brevitas()
    model, inputs = zoo.brevitas_cnn()
    seen: dict[str, Any] = {}
    for name in ("conv1", "conv2", "fc"):
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0]))
    with torch.no_grad():
        model(inputs)
    captures = {one.capture.layer.name: one.capture for one in captures_of(model, inputs)}
    for name, capture in captures.items():
        weight = model.get_submodule(name).quant_weight()
        assert np.array_equal(capture.weight.reshape(weight.shape), weight.int().numpy())
        assert capture.formats.weight.scales == tuple(weight.scale.flatten().tolist())
        assert np.array_equal(capture.input.reshape(seen[name].shape), seen[name].int().numpy())
        assert capture.formats.input.scale == seen[name].scale.item()
        assert (capture.formats.weight.bits, capture.formats.input.bits) == (4, 4)
        assert capture.formats.input.signed is bool(seen[name].signed)
    assert np.array_equal(captures["conv1"].reference_codes, captures["conv2"].input)
    assert captures["conv1"].bias is None  # it is real, and stands in the steps
    assert captures["fc"].layer.kind == "linear"


def test_quantized_biases_of_brevitas_stand_in_the_accumulator() -> None:
    needs_brevitas()
    model, inputs = zoo.brevitas_depthwise()
    for one in captures_of(model, inputs):
        layer = model.get_submodule(one.capture.layer.name)
        scales = np.array(one.capture.formats.accumulator_scales)
        assert one.capture.bias is not None
        real = layer.bias.detach().numpy() / scales
        assert np.array_equal(one.capture.bias, np.rint(real).astype(int))


def test_the_products_own_layers_are_those_of_its_own_frontend() -> None:
    net = qx.load("builtin")
    pictures = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.uint8)
    from qexport.frontends.vgg.data import normalise

    model = copy.deepcopy(net.model).double()  # as its own frontend computes: float32 may round a code the other way
    for name in ("features.30", "features.33"):
        own = qx.capture(net, name, pictures)
        found = qx.capture(model, name, normalise(torch.from_numpy(pictures), torch.float64))
        assert np.array_equal(own.weight, found.weight)
        assert np.array_equal(own.input, found.input)
        assert found.formats.input.bits == own.formats.input.bits
        assert found.formats.weight.scale == pytest.approx(own.formats.weight.scale, rel=1e-6)
    assert found.formats.output is not None
    assert own.formats.output is not None
    assert found.formats.output.scale == pytest.approx(own.formats.output.scale, rel=1e-6)


class Grid(nn.Module):
    """A convolution of weights and inputs on grids, followed by what a test wants."""

    def __init__(self, behind: Callable[[Tensor], Any] = lambda y: y, scale: float = 0.25, channels: int = 4):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.codes = torch.randint(-7, 8, (channels, 3, 3, 3), generator=generator, dtype=torch.int8)
        self.scale, self.behind = scale, behind

    def forward(self, x: Tensor) -> Any:
        x = torch.clamp(torch.round(x * 4), -8, 7) / 4
        return self.behind(F.conv2d(x, self.codes.float() * self.scale, padding=1))


NOISE = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))


def test_a_layer_that_is_called_twice_has_two_names_and_a_function_is_the_models_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = Grid(channels=3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.shared(self.shared(x))
            return F.conv2d(y.round(), torch.ones(2, 3, 1, 1))

    found = captures_of(Twice(), NOISE)
    assert [one.capture.layer.name for one in found] == ["shared", "shared#2", "model"]
    assert [one.capture.layer.index for one in found] == [0, 1, 2]
    second = capture_module(Twice(), "shared#2", NOISE).capture
    assert np.array_equal(second.input, found[1].capture.input)
    assert capture_module(Twice(), "1", NOISE).capture.layer.name == "shared#2"
    with pytest.raises(QexportError, match="layer: 'shred' is not in this module; choose one of shared"):
        capture_module(Twice(), "shred", NOISE)


def test_a_group_of_layers_is_not_one() -> None:
    model = nn.Sequential(nn.Sequential(Grid(channels=3), Grid(channels=3)), Grid())
    assert capture_module(model[0], "0", NOISE).capture.layer.name == "0"
    with pytest.raises(QexportError, match=r"layer: '0' has 0.0, 0.1; choose one of them"):
        capture_module(model, "0", NOISE)


def test_what_is_not_quantized_is_refused_with_its_values() -> None:
    torch.manual_seed(0)
    with pytest.raises(QexportError, match=r"layer 0: weight: its 36 values lie on no grid, such as -0\.\d+") as info:
        layer_of(nn.Sequential(nn.Conv2d(1, 4, 3)), torch.round(torch.randn(1, 1, 4, 4)))
    assert "\n" not in str(info.value)

    class OneWrong(Grid):
        def forward(self, x: Tensor) -> Any:
            return F.conv2d(x, self.codes.float() * 0.25)

    x = torch.round(NOISE * 4) / 4
    x[0, 0, 0, 0] = 0.1234567
    with pytest.raises(QexportError, match=r"input: its .* values lie on no grid"):
        layer_of(OneWrong(), x, "model")
    with pytest.raises(QexportError, match=r"input: 1 of 150 values are not on the grid of 0.25: 0\.123457;"):
        layer_of(OneWrong(), x, "model", input=stated(scale=0.25))
    with pytest.raises(QexportError, match="model: it called no convolution"):
        layer_of(nn.ReLU(), NOISE)


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        (lambda y: F.conv2d(y.half(), torch.ones(1, 4, 1, 1).half()), "it is float16, too coarse"),
        (lambda y: F.conv2d(y * torch.inf, torch.ones(1, 4, 1, 1)), "it holds NaN or infinity"),
        (lambda y: F.conv2d(y.round(), y[:1].round()), "its weights depend on the inputs"),
        (lambda y: F.conv_transpose2d(y, torch.ones(4, 1, 1, 1)), "it is a transposed convolution"),
        (lambda y: torch.addmm(y[0, 0], y[0, 1], y[0, 2]), "it adds more than a bias"),
        (lambda y: F.conv2d(y.round() * torch.arange(1.0, 5)[:, None, None], torch.ones(1, 4, 1, 1)),
         "its scale differs along axis 1"),
        (lambda y: F.conv2d((y / y.abs().max() * 7).round() * (y.abs().max() / 7), torch.ones(1, 4, 1, 1)), None),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_says_why(behind: Callable[[Tensor], Any], why: str | None) -> None:
    first, second = capture_all(Grid(behind), NOISE)
    assert isinstance(first, Captured)
    if why is None:  # the scale depends on the inputs, but the values lie on a grid
        assert isinstance(second, Captured)
        assert any("its scale is the coarsest" in remark for remark in second.remarks)
    else:
        assert not isinstance(second, Captured)
        assert why in second.why


def test_a_grid_that_only_the_values_show_is_said_and_can_be_stated() -> None:
    even = torch.randint(-3, 4, (4, 3, 3, 3), generator=torch.Generator().manual_seed(3)) * 2

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(torch.clamp(torch.round(x * 4), 0, 15) / 4, torch.tensor(weights))

    weights = (even * 0.125).tolist()
    found = capture_module(Plain(), "model", NOISE)
    assert found.capture.formats.weight.scale == 0.25
    assert np.array_equal(found.capture.weight * 2, even.numpy())
    assert any("weight: its scale is the coarsest that explains the values" in remark for remark in found.remarks)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        qx.capture(Plain(), "model", NOISE)
    assert [str(one.message) for one in said] == list(found.remarks)
    finer = layer_of(Plain(), NOISE, "model", weight=stated(IntFormat(4, True), 0.125))
    assert finer.capture.formats.weight.scale == 0.125
    assert np.array_equal(finer.capture.weight, even.numpy())
    assert not [remark for remark in finer.remarks if "weight" in remark]
    with pytest.raises(QexportError, match=r"weight: codes -6\.\.6 are beyond its 3 signed bits"):
        layer_of(Plain(), NOISE, "model", weight=stated(IntFormat(3, True), 0.125))


@settings(max_examples=cases(100))
@given(st.data())
def test_the_coarsest_grid_is_found_whatever_the_codes(data: st.DataObject) -> None:
    bits = data.draw(st.integers(2, 8))
    scales = [data.draw(st.floats(2**-13, 10, width=32)) for _ in range(2)]
    code = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = np.array(data.draw(st.lists(st.lists(code, min_size=6, max_size=6), min_size=2, max_size=2)))
    per_channel = data.draw(st.booleans())
    used = np.array(scales if per_channel else scales[:1] * 2, np.float32)
    tensor = torch.from_numpy(codes.astype(np.float32) * used[:, None])
    found = operand_of("weight", tensor, None, Stated(), channels=True)
    steps = np.broadcast_to(np.array(found.format.scales), 2)
    assert np.allclose(found.codes * steps[:, None], tensor.double().numpy(), rtol=1e-6, atol=0)
    if not per_channel and codes.any():
        coarsest = int(np.gcd.reduce(codes.ravel()))
        assert np.array_equal(found.codes * coarsest, codes)


@settings(max_examples=cases(100))
@given(st.integers(0, 2**32 - 1))
def test_real_numbers_lie_on_no_grid(seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 12)).astype(np.float32))
    with pytest.raises(QexportError, match="values lie on no grid"):
        operand_of("weight", values, None, Stated(), channels=True)


def test_shapes_of_every_kind_reach_the_capture() -> None:
    class Shapes(nn.Module):
        def forward(self, x: Tensor) -> Any:
            x = x.round()
            weights = [torch.ones(4, 1, 3, 2), torch.ones(2, 4, 3), torch.ones(5, 2)]
            y = F.conv2d(F.pad(x, (1, 0, 2, 0)), weights[0], stride=(2, 1), dilation=(1, 2), groups=4)
            z = F.conv1d(y.flatten(2), weights[1], stride=2, padding=1)
            return F.linear(z.transpose(1, 2), weights[2])

    first, second, third = (one.capture for one in captures_of(Shapes(), torch.arange(200.0).reshape(1, 4, 10, 5) % 7))
    assert first.layer.kernel == (3, 2)
    assert (first.layer.stride, first.layer.dilation, first.layer.groups) == ((2, 1), (1, 2), 4)
    assert first.plane == (12, 6)
    assert (second.layer.kernel, second.layer.stride, second.layer.padding) == ((1, 3), (1, 2), (0, 0, 1, 1))
    assert (third.layer.kind, third.input.shape[1:]) == ("linear", (2, 1, 1))
    assert third.images == second.layer.output_plane(second.plane)[1]


def quantized(y: Tensor, scale: float = 0.5, high: int = 15) -> Tensor:
    return torch.clamp(torch.round(y / scale), 0, high) * scale


def test_steps_hold_pools_and_limits_between_layer_and_quantizer() -> None:
    found = layer_of(Grid(lambda y: quantized(F.max_pool2d(F.relu6(y), 3, 2, 1), 0.7)), NOISE, "model").capture
    assert found.steps is not None
    assert found.steps[-1] == MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    assert found.formats.output is not None
    assert (found.formats.output.bits, found.formats.output.signed) == (4, False)
    assert Golden(found).values("output").max() == 9  # 6.0 / 0.7
    assert np.array_equal(Golden(found).values("output"), found.reference_codes)


def test_a_quantizer_keeps_its_own_range_behind_an_activation_function() -> None:
    found = layer_of(Grid(lambda y: torch.clamp(torch.round(F.relu(y) * 3), -128, 127) / 3), NOISE, "model").capture
    assert found.formats.output is not None
    assert (found.formats.output.bits, found.formats.output.signed) == (8, True)
    assert Golden(found).values("output").min() == 0


def test_equal_scales_are_one_and_rounded_decimals_are_a_grid_of_values() -> None:
    class Decimals(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scales, zeros = torch.tensor([0.1, 0.1]), torch.zeros(2, dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(NOISE[:, :, :3, :3], scales, zeros, 0, -16, 15)
            first = F.conv2d(torch.round(x, decimals=1), weight * torch.ones(1, 3, 1, 1))
            return F.conv2d(first.round() * torch.full((2, 1, 1), 0.25), torch.ones(1, 2, 1, 1))

    first, second = captures_of(Decimals(), NOISE)
    assert second.capture.formats.input.scale == 0.25
    formats = first.capture.formats
    assert (formats.weight.scale, formats.weight.zero_point) == (pytest.approx(0.1), 0)
    assert formats.input.scale == pytest.approx(0.1)


def test_power_of_two_scales_have_ties_that_a_table_gives() -> None:
    found = layer_of(Grid(lambda y: quantized(F.relu(y), 0.5)), NOISE, "model").capture
    assert isinstance((found.steps or ())[-1], Threshold)
    assert np.array_equal(Golden(found).values("output"), found.reference_codes)


def test_codes_that_float_error_moves_over_an_edge_are_listed_as_ties() -> None:
    def behind(y: Tensor) -> Tensor:  # 5 x 0.1f is 0.50000000745, in float32 0.5, which rounds to 0
        return torch.clamp(torch.round(F.relu(y) * torch.tensor(0.1)), 0, 15)

    class Whole(Grid):
        def forward(self, x: Tensor) -> Any:
            return self.behind(F.conv2d(torch.clamp(torch.round(x * 4), -8, 7), self.codes.float()))

    found = layer_of(Whole(behind), NOISE, "model").capture
    accumulator, codes = Golden(found).accumulator, Golden(found).values("output")
    differing = np.argwhere(codes != found.reference_codes)
    assert len(differing)
    assert set(found.ties or ()) == {(int(at[1]), int(accumulator[tuple(at)])) for at in differing}
    assert {value % 10 for _, value in found.ties or ()} == {5}


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        (lambda y: y, "no quantizer follows it"),
        (lambda y: quantized(torch.sigmoid(y)), "its sum goes through sigmoid"),
        (lambda y: quantized(y + y.mean()), "its sum goes through mean"),
        (lambda y: quantized(F.relu(y) * torch.tensor([1.0, 2, -1, 1])[:, None, None]), "differs by channel"),
        (lambda y: (y[:, 0].add_(3.0), quantized(F.relu(y)))[1], "are not those of the steps"),
        (lambda y: (y[:, 0].sub_(3.0), quantized(F.relu(y)))[1], "are not those of the steps"),
    ],
)  # fmt: skip
def test_layers_without_output_codes_say_why_in_one_line(behind: Callable[[Tensor], Any], why: str) -> None:
    found = layer_of(Grid(behind), NOISE, "model")
    (remark,) = [remark for remark in found.remarks if "accumulators only" in remark]
    assert why in remark
    assert "\n" not in remark
    assert (found.capture.steps, found.capture.formats.output) == (None, None)


def test_additions_of_codes_are_layers_of_their_own() -> None:
    """Also in place, with two scales and zero points, and as a difference."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = Grid(lambda y: quantized(F.relu(y), 0.25), channels=3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = torch.fake_quantize_per_tensor_affine(x, 0.1, 7, 0, 15)
            y = self.first(x)
            y += x
            y = quantized(self.act(y), 0.375)
            return torch.fake_quantize_per_tensor_affine(y - x, 0.3, 3, 0, 15)

    found = captures_of(nn.Sequential(Block(), Grid()), NOISE)
    assert [one.capture.layer.name for one in found] == ["0.first", "0.add", "0.add#2", "1"]
    assert [one.capture.layer.index for one in found] == [0, None, None, 1]  # layers keep their numbers
    first, added, less, _ = (one.capture for one in found)
    assert (added.layer.kind, added.layer.mul, less.layer.mul[1] < 0) == ("sum", (5, 2), True)  # type: ignore[union-attr]
    assert added.formats.input2 is not None
    assert (added.formats.input.zero_point, added.formats.input2.zero_point) == (0, 7)
    assert np.array_equal(added.input, first.reference_codes)
    for one in (added, less):
        assert np.array_equal(Golden(one).values("output"), one.reference_codes)
    assert np.array_equal(added.reference_codes, less.input)
    again = capture_module(nn.Sequential(Block(), Grid()), "0.add#2", NOISE).capture
    assert again.to_bytes() == less.to_bytes()
    assert capture_module(nn.Sequential(Block(), Grid()), "0", NOISE).capture.layer.name == "0.first"
    with pytest.raises(QexportError, match=r"layer 0\.add: its scales are those of the quantizers around it"):
        capture_module(nn.Sequential(Block(), Grid()), "0.add", NOISE, Wishes(input=stated(scale=0.5)))


@pytest.mark.parametrize(
    ("behind", "before"),
    [
        (lambda y: F.avg_pool2d(y, 3, 2, 1), [SumPool]),
        (lambda y: F.adaptive_avg_pool2d(y, 1) * torch.arange(-2.0, 2)[:, None, None] + 0.37, [SumPool]),
        (lambda y: (y + 0.3).mean((2, 3)), [SumPool]),
        (lambda y: F.relu(y * 0.7).mean((-1, -2), keepdim=True), [Relu, SumPool]),
        (lambda y: F.relu(F.avg_pool2d(y, (5, 1))), [SumPool]),
        (lambda y: F.avg_pool2d(F.relu(y + 0.3), 5), None),  # the ReLU's edge is no accumulator
        (lambda y: F.avg_pool2d(F.relu6(y), 5), None),
        (lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False), None),
        (lambda y: F.avg_pool2d(y + 0.3, 3, 2, 1), None),
    ],
)  # fmt: skip
def test_averages_of_sums_stand_in_the_steps(behind: Callable[[Tensor], Tensor], before: list[Any] | None) -> None:
    model = Grid(lambda y: torch.clamp(torch.round(behind(y) / 0.11), -128, 127) * 0.11)
    found = layer_of(model, NOISE, "model")
    if before is None:
        assert "accumulators only: its sum goes through" in found.remarks[-1]
        return
    assert [type(step) for step in found.capture.steps or ()][: len(before)] == before, found.remarks
    assert found.capture.reference_codes is not None
    assert not found.capture.ties


def test_averages_of_codes_are_layers_and_real_biases_are_averaged_too() -> None:
    class Biased(Grid):
        def forward(self, x: Tensor) -> Any:
            x = quantized(F.relu(x), 0.25)
            y = F.conv2d(x, self.codes.float() * self.scale, torch.tensor([0.1, -0.2, 0.31, 0.05]))
            return self.behind(y), quantized(F.avg_pool2d(x, 2, 1), 0.4)

    first, second = captures_of(Biased(lambda y: quantized(y.mean((2, 3)), 0.2)), NOISE)
    assert (first.capture.bias, second.capture.layer.name, second.capture.layer.kind) == (None, "mean", "sum")
    for one in (first.capture, second.capture):
        assert isinstance((one.steps or ())[0], SumPool)
        assert np.array_equal(Golden(one).values("output"), one.reference_codes)
    found = capture_module(Biased(lambda y: quantized(F.relu(y).mean((2, 3)), 0.2)), "model", NOISE)
    assert "its real bias comes before a ReLU and an average" in found.remarks[-1]


def test_a_stated_output_scale_gives_codes_where_no_quantizer_follows() -> None:
    from qexport.core.codes import CodeFormat

    output = CodeFormat(bits=8, signed=True, scale=0.3, zero_point=-5)
    model = Grid(lambda y: F.relu(y * torch.tensor(0.5) + 0.37))
    found = layer_of(model, NOISE, "model", output=output).capture
    assert found.formats.output == output
    with torch.no_grad():
        real = model(NOISE).double().numpy() / 0.3
    codes = Golden(found).values("output")
    assert codes.min() == -5
    assert np.abs(codes - np.clip(np.rint(real) - 5, -128, 127)).max() == 0
    other = layer_of(Grid(lambda y: quantized(y, 0.7)), NOISE, "model", output=output)
    assert other.capture.formats.output != output
    assert any("the format that is stated is not used" in remark for remark in other.remarks)


def test_hardware_that_is_stated_rounds_in_place_of_the_network() -> None:
    model = Grid(lambda y: quantized(F.relu(y), 0.5))
    found = capture_module(model, "model", NOISE, Wishes(hardware=Hardware(round="half_up", mul_bits=8))).capture
    assert found.departs is not None
    assert found.departs.accumulators > 0  # half up is not half to even
    assert found.reference_codes is None
    check_reference(Golden(found))


def test_a_module_that_fails_is_one_line() -> None:
    with pytest.raises(QexportError, match=r"model: it fails for inputs of \(2, 4\): RuntimeError: ") as info:
        capture_module(Grid(), "model", torch.ones(2, 4))
    assert "\n" not in str(info.value)


NET = """
import torch
from tests.frontends.test_torch_module import Grid, quantized

def build():
    return torch.nn.Sequential(Grid(lambda y: quantized(torch.relu(y), 0.3)), torch.nn.BatchNorm2d(4))

def with_inputs():
    return build(), torch.zeros(1, 3, 5, 5)

def nothing():
    return 3

class Product(torch.nn.Module):
    def forward(self, x):
        x = quantized(x, 0.25)
        return x @ x.transpose(2, 3)

def product():
    return Product(), torch.ones(1, 3, 5, 6)

def breaks():
    raise RuntimeError("no data")
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, its weights and inputs, which is the working one."""
    (tmp_path / "users_net.py").write_text(NET)
    np.save(tmp_path / "inputs.npy", np.concatenate([NOISE.numpy()] * 3))
    model = nn.Sequential(Grid(), nn.BatchNorm2d(4))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_dump_takes_a_module_by_name(net: Path) -> None:
    named = ("--model", "users_net:build", "--inputs", "inputs.npy")
    done = cli("dump", *named, "--weights", "weights.pth", "--layer", "0", "--out", "v")
    assert done.exit_code == 0, done.output
    assert cli("verify", "v").exit_code == 0
    capture = LayerCapture.load(net / "v" / "layer_0" / "capture.safetensors")
    assert capture.images == 4
    assert capture.source.images == (0, 1, 2, 3)
    assert capture.source.checkpoint_sha256 is not None
    assert cli("dump", *named, "--indices", "5", "--all", "--out", "w").exit_code == 0
    assert cli("dump", "--model", "users_net:with_inputs", "--all", "--out", "x", "--dry-run").exit_code == 0
    listed = cli("layers", *named, "--json")
    assert listed.exit_code == 0
    assert '"accumulator_bits"' in listed.stdout
    listed = cli("layers", "--model", "users_net:product")
    assert listed.exit_code == 0, listed.output
    assert [line.split()[:4] for line in listed.stdout.splitlines()[1:]] == [["0", "model", "matmul", "-"]]
    assert cli("dump", "--model", "users_net:product", "--layer", "0", "--out", "p").exit_code == 0
    assert cli("verify", "p").exit_code == 0
    other = cli("dump", *named, "--layer", "0", "--weight-scale", "0.125", "--force", "--out", "v")
    assert other.exit_code == 0, other.output
    assert LayerCapture.load(net / "v" / "layer_0" / "capture.safetensors").formats.weight.scale == 0.125


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (("--model", "users_net", "--layer", "0"), ("does not name a function", "package.module:function")),
        (("--model", "no_such:build", "--layer", "0"), ("No module named 'no_such'",)),
        (("--model", "users_net:nothing", "--layer", "0"), ("gives a int",)),
        (("--model", "users_net:breaks", "--layer", "0"), ("'users_net:breaks' fails: RuntimeError: no data",)),
        (("--model", "users_net:build", "--layer", "0"), ("returned no inputs; give --inputs",)),
        (("--model", "users_net:build", "--layer", "0", "--inputs", "no.npy"), ("no.npy does not exist",)),
        (("--model", "users_net:build", "--layer", "0", "--inputs", "users_net.py"), ("is none of .npy",)),
        (("--model", "users_net:build", "--layer", "0", "--inputs", "inputs.npy", "--indices", "6"), ("outside 0..5",)),
        (("--model", "users_net:build", "--layer", "0", "--inputs", "inputs.npy", "--images", "0"), ("outside 1..6",)),
        (("--model", "users_net:build", "--layer", "0", "--checkpoint", "builtin"), ("--checkpoint belongs",)),
        (("--model", "users_net:build", "--layer", "0", "--inputs", "inputs.npy", "--weights", "inputs.npy"),
         ("inputs.npy cannot be loaded as weights",)),
        (("--layer", "33", "--inputs", "inputs.npy"), ("--inputs belongs to --model",)),
        (("--model", "users_net:with_inputs", "--all", "--input-scale", "1"), ("belong to one --layer",)),
        (("--model", "users_net:with_inputs", "--layer", "0", "--input-scale", "-1"), ("is not above 0",)),
        (("--model", "users_net:with_inputs", "--layer", "0", "--output-format", "uint8"), ("to --output-scale",)),
    ],
)  # fmt: skip
def test_what_a_user_may_get_wrong_is_one_line(net: Path, arguments: tuple[str, ...], needles: tuple[str, ...]) -> None:
    fails(cli("dump", *arguments, "--out", "v"), *needles)
    assert not (net / "v").exists()


def test_inputs_are_arrays_or_pictures(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from qexport.frontends.torch_module.loading import load_inputs

    noise = torch.rand(5, 3, 4, 4)
    torch.save(noise, tmp_path / "a.pt")
    save_file({"x": noise}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", noise.numpy())
    for name in ("a.pt", "a.safetensors", "a.npy"):
        found, indices = load_inputs(tmp_path / name, [4, 1])
        assert torch.equal(found, noise[[4, 1]])
        assert indices == (4, 1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 7, 3)).astype(np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    found, indices = load_inputs(folder, 2)
    assert torch.equal(found, torch.from_numpy(pixels[:2].transpose(0, 3, 1, 2).astype(np.float32) / 255))
    assert indices == (0, 1)
    assert torch.equal(load_inputs(folder / "1.png", 4)[0], found[1:])
    Image.fromarray(pixels[0, :4]).save(folder / "3.png")
    with pytest.raises(QexportError, match="have sizes"):
        load_inputs(folder, 4)


class Inference(Grid):
    def forward(self, x: Tensor) -> Any:
        with torch.inference_mode():
            return super().forward(x)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: Inference(model.behind),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: torch.jit.trace(model, NOISE),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_ways_to_run_a_module_that_hide_operations_hide_no_layer(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    plain = Grid(lambda y: quantized(F.relu(y), 0.3))
    expected = layer_of(plain, NOISE, "model").capture
    found = layer_of(wrapped(plain), NOISE, "model").capture
    assert np.array_equal(found.input, expected.input)
    assert np.array_equal(found.weight, expected.weight)
    assert found.steps == expected.steps


def test_attention_comes_apart_into_its_layers() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.own = nn.MultiheadAttention(8, 2, batch_first=True)
            self.own.in_proj_weight.data.mul_(20).round_().div_(16)

        def forward(self, x: Tensor) -> Any:
            return self.own(*[torch.clamp(torch.round(x * 4), -8, 7) / 4] * 3)

    first, *others = capture_all(Attention(), torch.randn(2, 3, 8))
    assert isinstance(first, Captured)
    assert (first.capture.layer.name, first.capture.weight.shape) == ("own", (24, 8, 1, 1))
    assert [isinstance(one, Captured) for one in others] == [True, False, False]  # behind the softmax none is quantized


def test_products_of_two_activations_are_captured_with_their_codes() -> None:
    class Products(nn.Module):
        def forward(self, x: Tensor) -> Any:
            left, right = quantized(x.relu(), 0.25), torch.clamp(torch.round(x * 3), -8, 7) / 3
            scores = torch.clamp(torch.round(left @ right.transpose(2, 3) / 5**0.5 * 8), -128, 127) / 8
            return scores, torch.ones(2, 5) @ right[0, 0]

    first, second = (one.capture for one in captures_of(Products(), NOISE))
    assert (first.layer.kind, first.input.shape) == ("matmul", (6, 5, 5))
    assert first.formats.input2 is not None
    assert (first.formats.input.bits, first.formats.input2.bits, first.formats.input2.signed) == (4, 4, True)
    assert first.reference_codes is not None
    assert np.array_equal(Golden(first).values("output"), first.reference_codes)
    assert (second.layer.kind, second.input.shape) == ("matmul", (1, 2, 5))


@pytest.mark.filterwarnings("ignore")  # of torch.ao
def test_dynamic_scales_are_refused() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear})
    with pytest.raises(QexportError, match=r"layer 0: it calls quantized.linear_dynamic, whose scale depends on the"):
        capture_module(model, "0", torch.randn(2, 3))


def test_fake_quantizers_say_scale_zero_point_and_range() -> None:
    class Fake(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.fake_quantize_per_tensor_affine(x, 0.03, 100, 0, 255)
            scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([3, -4], dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(NOISE[:, :, :3, :3], scales, zeros, 0, -16, 15)
            y = F.conv2d(x, weight)
            return torch.fake_quantize_per_tensor_affine(
                y, torch.tensor(0.4), torch.tensor(9, dtype=torch.int32), 0, 31
            )

    found = layer_of(Fake(), NOISE, "model")
    formats = found.capture.formats
    assert (formats.input.bits, formats.input.zero_point) == (8, 100)
    assert (formats.weight.bits, formats.weight.zero_point) == (5, (3, -4))
    assert formats.weight.scale == (pytest.approx(0.1), pytest.approx(0.2))
    assert formats.output is not None
    assert (formats.output.bits, formats.output.zero_point, formats.output.signed) == (5, 9, False)
    assert not found.remarks


def test_exported_quantizers_of_integers_are_seen() -> None:
    import torch.ao.quantization.fx._decomposed  # defines the operations

    ops = torch.ops.quantized_decomposed

    class Exported(nn.Module):
        """What PT2E leaves of a convolution: integers that are made, unmade and multiplied as floats."""

        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(4)
            self.codes = torch.randint(-127, 128, (4, 3, 3, 3), generator=generator, dtype=torch.int8)
            self.scales = torch.tensor([0.01, 0.02, 0.03, 0.04])

        def forward(self, x: Tensor) -> Tensor:
            x = ops.quantize_per_tensor(x, 0.02, 7, 0, 255, torch.uint8)
            x = ops.dequantize_per_tensor(x, 0.02, 7, 0, 255, torch.uint8)
            zeros = torch.zeros(4, dtype=torch.int64)
            weight = ops.dequantize_per_channel(self.codes, self.scales, zeros, 0, -127, 127, torch.int8)
            y = ops.quantize_per_tensor(F.relu(F.conv2d(x, weight)), 0.05, -128, -128, 127, torch.int8)
            return ops.dequantize_per_tensor(y, 0.05, -128, -128, 127, torch.int8)

    model = Exported()
    found = layer_of(model, NOISE, "model")
    capture = found.capture
    assert not found.remarks
    assert np.array_equal(capture.weight, model.codes.numpy())
    assert capture.formats.weight.scales == tuple(model.scales.tolist())
    assert (capture.formats.input.bits, capture.formats.input.signed, capture.formats.input.zero_point) == (8, False, 7)
    assert capture.formats.output is not None
    assert (capture.formats.output.signed, capture.formats.output.zero_point) == (True, -128)
    assert capture.reference_codes is not None
