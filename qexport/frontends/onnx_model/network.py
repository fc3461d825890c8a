"""The layers of a graph as a whole network in integers."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from qexport.core.capture import Source
from qexport.core.codes import CodeFormat
from qexport.core.network import PIXELS, IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput
from qexport.core.network import View as NetworkView
from qexport.core.steps import Add, Clamp, Multiply, Step
from qexport.errors import QexportError
from qexport.frontends.onnx_model.capture import blank
from qexport.frontends.onnx_model.endings import rounding_of
from qexport.frontends.onnx_model.state import Fed
from qexport.frontends.onnx_model.values import Line
from qexport.frontends.onnx_model.walk import Found, Walked
from qexport.frontends.rounding import ended

FACTOR_BITS = 16  # of the factors that bring the channels of the last layer onto one grid


def integer_network(walked: Walked) -> IntegerNetwork:
    """The network of a graph whose operations are all understood; raises QexportError naming the first that is not.

    A layer behind which nothing rounds is an output: its channels get one scale by a multiplication and an addition.
    """
    if walked.refused:
        raise QexportError(
            f"model: {walked.graph.path}: {walked.refused[0].why}; the network needs codes of every layer"
        )
    read = {name for one in walked.layers for grid, _ in one.call.operands.values() for name in grid.sources}
    fed = [one for one in walked.fed.values() if one.name in read]
    if lost := next((one for one in fed if one.behind is not None), None):
        user = next(one for one in walked.layers if any(lost.name in g.sources for g, _ in one.call.operands.values()))
        raise QexportError(
            f"model: {walked.graph.path}: layer {user.name} reads what {lost.behind} gives, which is not a step of a "
            "network in integers; dump its layers one by one"
        )
    layers, outputs = list[NetworkLayer](), []
    given = {one.name: one.format for one in fed}
    for one in walked.layers:
        layer, scale = _layer(one, given)
        layers.append(layer)
        if layer.formats.output is not None:
            given[one.name] = layer.formats.output
        if one.name not in read:
            zero = 0 if layer.formats.output is None else layer.formats.output.zero_points[0]
            outputs.append(NetworkOutput(name=_output_name(walked, one), from_=one.name, scale=scale, zero_point=zero))
    inputs = [NetworkInput(name=one.name, shape=one.shape[1:], format=one.format, lookup=_lookup(one)) for one in fed]
    source = Source(checkpoint_sha256=walked.graph.sha256)
    return IntegerNetwork(tuple(inputs), tuple(layers), tuple(outputs), source)


def _lookup(fed: Fed) -> tuple[tuple[int, ...], ...] | None:
    """Pixels as codes, where they are fed as they are; None where the model takes real numbers: their scale is its own
    matter."""
    if fed.pixels:
        return (tuple(range(PIXELS)),) * fed.shape[1]
    return None


def _output_name(walked: Walked, one: Found) -> str:
    """The graph's own name of what a layer gives, where it has one."""
    for name in walked.graph.outputs:
        value = walked.state.values.get(name)
        if getattr(value, "sources", ()) == (one.name,) or (isinstance(value, Line) and value.call is one.call):
            return name[:100]
    return one.name


def _layer(one: Found, given: Mapping[str, CodeFormat]) -> tuple[NetworkLayer, float]:
    """A layer of the network, and the real value of its code 1. `given`: the formats of what it may read."""
    capture, call = blank(one), one.call
    if one.closing is not None:
        capture = ended(capture, rounding_of(one.closing), None)
        assert capture.steps is not None
        assert capture.formats.output is not None
        steps, scale = capture.steps, capture.formats.output.scales[0]
    else:
        steps, scale = _on_one_grid(one)
    own = capture.formats.operands
    scales = {
        name: msgspec.structs.replace(own[name], scale=fmt.scale)
        for name, (grid, _) in call.operands.items()
        if (fmt := given.get(grid.sources[0])) is not None and fmt.scale != own[name].scale
    }  # integer operators do not know what the codes stand for; their steps do
    steps = steps or ((Multiply(by=1),) if scales else ())
    views = {name: _written(grid.view.then(view).written()) for name, (grid, view) in call.operands.items()}
    layer = NetworkLayer(
        msgspec.structs.replace(capture.layer, relu=False),
        msgspec.structs.replace(capture.formats, **scales),
        steps,
        {name: grid.sources for name, (grid, _) in call.operands.items()},
        {name: view for name, view in views.items() if view},
        weight=None if call.weight is None else call.weight.codes,
        bias=call.bias,
    )
    return layer, scale


def _written(moves: Sequence[list[object]]) -> tuple[NetworkView, ...]:
    return tuple(NetworkView.read(move) for move in moves)


def _on_one_grid(one: Found) -> tuple[tuple[Step, ...], float]:
    """The steps behind a last layer, and the real value of 1 behind them."""
    line = one.call.end
    if line is None or line.pools or line.summed is not None:
        raise QexportError(f"model: layer {one.name}: {one.why}; its sums have no real value behind it")
    slope, start = line.slope, line.start
    if len(set(slope.tolist())) == 1 and slope[0] > 0 and not start.any() and line.free:
        return (), float(slope[0])
    scale = float(np.abs(slope).max()) / (2 ** (FACTOR_BITS - 1) - 1)
    channels = max(len(slope), len(start))
    by, value = (np.rint(np.broadcast_to(numbers / scale, channels)).astype(np.int64) for numbers in (slope, start))
    steps: tuple[Step, ...] = (Multiply(by=tuple(by.tolist())), Add(value=tuple(value.tolist())))
    ends = {tuple(np.unique(end)) for end in (line.low, line.high)}
    if line.free:
        return steps, scale
    if any(len(end) > 1 for end in ends):
        raise QexportError(f"model: layer {one.name}: what limits its sums differs by channel")
    low, high = (int(np.clip(end[0] / scale, -(2.0**62), 2.0**62 - 2**10)) for end in (line.low, line.high))
    return (*steps, Clamp(low=low, high=high)), scale
