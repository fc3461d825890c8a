"""Random graphs in exact integers against the judge's own evaluation of their files."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Conv2d, Linear, MatMul, Sum
from qexport.core.network import IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput, View
from qexport.core.network_file import write_network
from qexport.core.network_run import Engine, exact_type
from qexport.core.steps import Add, Bias, Clamp, Lookup, MaxPool, Multiply, Relu, ShiftRight, Step, SumPool, Threshold
from tests.conftest import cases
from tests.judges.network import evaluate

BITS = (1, 2, 4, 4, 8, 8, 13, 24, 28)


class Graph:
    """Layers drawn one after the other, each of any of the outputs before. `most`: bits of a code."""

    def __init__(self, seed: int, most: int = 28):
        self.most = most
        self.rng = rng = np.random.default_rng(seed)
        self.pictures = int(rng.integers(1, 4))
        fmt = self.format()
        channels, side = int(rng.integers(1, 5)), int(rng.integers(2, 6))
        self.input = NetworkInput(name="image", shape=(channels, side, side + 1), format=fmt)
        self.planes: dict[str, tuple[CodeFormat, tuple[int, ...]]] = {"image": (fmt, (channels, side, side + 1))}
        self.layers: list[NetworkLayer] = []
        for number in range(int(rng.integers(2, 7))):
            self.add(f"l{number}", self.pick("conv", "conv", "sum", "sum2", "concat", "linear", "matmul"))

    def pick(self, *of: Any) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def format(self, most: int = 28) -> CodeFormat:
        code = CodeFormat(
            bits=self.pick(*(b for b in BITS if b <= min(most, self.most))), signed=bool(self.pick(0, 1)), scale=0.5
        )
        zero = int(self.rng.integers(code.integer.low, code.integer.high + 1)) if self.pick(0, 1) else 0
        return CodeFormat(bits=code.bits, signed=code.signed, scale=self.pick(0.5, 0.25), zero_point=zero)

    def array(self, fmt: CodeFormat, *shape: int) -> Any:
        return self.rng.integers(fmt.integer.low, fmt.integer.high + 1, shape)

    def steps(self, fmt: CodeFormat, channels: int, plane: tuple[int, int] | None, bias: bool) -> tuple[Step, ...]:
        """Steps that end in codes of a format."""
        steps: list[Step] = [Bias(shift=1)] if bias and self.pick(0, 1) else []
        steps.append(Clamp(low=-(2**40), high=2**40))
        by, value = self.rng.integers(-9, 10, channels).tolist(), self.rng.integers(-99, 99, channels).tolist()
        steps += [Multiply(by=tuple(by)), Add(value=tuple(value))] if self.pick(0, 1) else []
        if self.pick(0, 1):
            steps.append(
                ShiftRight(by=int(self.rng.integers(0, 9)), round=self.pick("floor", "half_even", "half_away"))
            )
        steps += [Relu()] if self.pick(0, 0, 1) else []
        if plane and min(plane) > 1 and self.pick(0, 1):
            kind, stride = self.pick(MaxPool, SumPool), self.pick((2, 2), (1, 1))
            steps.append(kind(kernel=(2, 2), stride=stride, padding=self.pick((0, 0, 0, 0), (1, 0, 0, 1))))
        code = fmt.integer
        if code.bits < 5 and self.pick(0, 1):
            levels = self.rng.integers(-200, 200, (channels, code.high - code.low))
            steps.append(Threshold(table=tuple(map(tuple, np.sort(levels).tolist())), first=code.low))
            steps.append(Lookup(low=code.low, table=tuple(self.array(fmt, code.high - code.low + 1).tolist())))
        return *steps, Clamp(low=code.low, high=code.high)

    def add(self, name: str, kind: str) -> None:
        source = self.pick(*self.planes)
        fmt, (channels, *plane) = self.planes[source]
        out = self.format()
        weights: dict[str, Any] = {}
        view: dict[str, Any] = {}
        operands = {"input": (source,)}
        formats: dict[str, Any] = {"input": fmt, "output": out}
        pooled: tuple[int, int] | None = (plane[0], plane[1])
        layer: Any
        match kind:
            case "conv" | "concat" | "linear":
                if kind == "concat":
                    alike = [n for n, (f, (_, *p)) in self.planes.items() if f == fmt and p == plane]
                    operands = {"input": (source, self.pick(*alike))}
                    channels += self.planes[operands["input"][1]][1][0]
                weight = self.format(24)
                wide = int(self.rng.integers(1, 4))
                if kind == "linear":
                    view = {"input": (View("permute", (0, 2, 3, 1)), View("reshape", (0, -1, 1, 1)))}
                    channels, pooled = channels * plane[0] * plane[1], None
                    layer, shape = Linear(name=name, in_channels=channels, out_channels=wide), (wide, channels, 1, 1)
                else:
                    groups = self.pick(*(g for g in range(1, channels + 1) if channels % g == 0))
                    kernel = self.pick((1, 1), (2, 2), (2, 1))
                    layer = Conv2d(
                        name=name, in_channels=channels, out_channels=wide * groups, kernel=kernel, groups=groups,
                        stride=self.pick((1, 1), (2, 1)), padding=self.pick((0, 0, 0, 0), (1, 0, 1, 1)),
                    )  # fmt: skip
                    shape = (wide * groups, channels // groups, *kernel)
                    if min(plane) < 2:
                        return
                    pooled = layer.output_plane((plane[0], plane[1]))
                weights = {"weight": self.array(weight, *shape)}
                if self.pick(0, 1):
                    weights["bias"] = self.rng.integers(-99, 99, shape[0])
                formats["weight"] = weight
                outputs = shape[0]
            case "matmul":  # of the channels of each position with those of each
                layer, outputs, pooled = MatMul(name=name), plane[0] * plane[1], None
                operands["input2"] = (source,)
                formats |= {"input2": fmt}
                view = {
                    "input": (View("reshape", (0, 0, -1)), View("permute", (0, 2, 1))),
                    "input2": (View("reshape", (0, channels, -1)),),
                }
            case _:
                mul = [int(self.rng.integers(-9, 10)) for _ in range(1 + (kind == "sum2"))]
                if kind == "sum2":
                    alike = [n for n, (_, shape) in self.planes.items() if shape == (channels, *plane)]
                    operands["input2"] = (self.pick(*alike),)
                    formats["input2"] = self.planes[operands["input2"][0]][0]
                layer, outputs = Sum(name=name, mul=tuple(mul)), channels
                formats["accumulator"] = AccumulatorScale(scale=0.5)
        steps = self.steps(out, outputs, pooled, "bias" in weights)
        self.layers.append(NetworkLayer(layer, Formats(**formats), steps, operands, view, **weights))
        if kind != "matmul":
            shape = self.network().placed[name].output[1:]
            self.planes[name] = out, shape

    def network(self) -> IntegerNetwork:
        last = self.layers[-1]
        fmt = last.formats.output
        assert fmt is not None
        output = NetworkOutput(name="y", from_=last.name, scale=fmt.scales[0], zero_point=fmt.zero_points[0])
        return IntegerNetwork((self.input,), tuple(self.layers), (output,))


@settings(max_examples=cases(60))
@given(st.integers(0, 2**32 - 1))
def test_a_random_network_gives_what_the_judge_computes(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    graph = Graph(seed)
    if not graph.layers:
        return
    network = graph.network()
    path = tmp_path_factory.mktemp("network") / "random.network.safetensors"
    write_network(network, path)
    codes = {"image": graph.array(graph.input.format, graph.pictures, *graph.input.shape)}
    wanted, seen = evaluate(path, codes)
    found = Engine(network).run(codes, list(network.placed))
    for name, placed in network.placed.items():
        assert np.array_equal(found[name], wanted[name]), name
        assert wanted[name].shape == (graph.pictures * placed.output[0], *placed.output[1:])
        for operand in placed.operands:
            assert np.array_equal(Engine(network).operands(name, wanted)[operand], seen[f"{name}.{operand}"])


def test_floats_are_taken_up_to_the_sums_that_they_hold() -> None:
    assert [exact_type(reach) for reach in (2**24 - 1, 2**24, 2**53 - 1, 2**53)] == [
        np.float32, np.float64, np.float64, np.int64,
    ]  # fmt: skip
