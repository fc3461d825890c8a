"""From scales to integers, against exact fractions: every accumulator of small bounds, every edge of large ones."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qexport.core.intformat import Int64
from qexport.core.rescale import ANY, MAX_SHIFT, Hardware, Network, Rescaling, rescale
from qexport.core.steps import Add, Chain, Clamp, Multiply, ShiftRight, Signal, Step, Threshold
from qexport.errors import QexportError
from tests.conftest import cases
from tests.judges.arithmetic import ROUNDINGS

Real = Fraction | float


def network(gain: Real, offset: Real, least: int, greatest: int, low: int, high: int, zero_point: int = 0) -> Network:
    """A network of one channel."""
    return Network([gain], [offset], np.array([least]), np.array([greatest]), low, high, zero_point)


def wanted(net: Network, accumulator: int, channel: int = 0, rounding: str | None = None) -> int:
    """The network's code of an accumulator; with a rounding, what hardware that rounds so would mean to give."""
    real = net.gains[channel] * accumulator + net.offsets[channel]
    code = round(real) + net.zero_point if rounding is None else ROUNDINGS[rounding](real + net.zero_point)
    return min(max(code, net.low), net.high)


def run(steps: tuple[Step, ...], accumulator: Int64, net: Network) -> Int64:
    """What a chain of the steps gives for (n, channel) accumulators; it holds its ranges and the output's."""
    ends = net.least * net.signs, net.greatest * net.signs
    start = Signal(("n", "p"), "p", (net.channels,), np.minimum(*ends), np.maximum(*ends))
    made = Chain(steps, start)
    assert net.low <= made.end.range[0] <= made.end.range[1] <= net.high
    return list(made.values(accumulator).values())[-1]


def whole(net: Network) -> list[int]:
    """Every accumulator of a network of one channel."""
    ends = (int(net.least[0] * net.signs[0]), int(net.greatest[0] * net.signs[0]))
    return list(range(min(ends), max(ends) + 1))


def integers(found: Rescaling) -> tuple[Multiply, Add, ShiftRight, Clamp]:
    multiply, add, shift, clamp = found.steps
    assert isinstance(multiply, Multiply)
    assert isinstance(add, Add)
    assert isinstance(shift, ShiftRight)
    assert isinstance(clamp, Clamp)
    return multiply, add, shift, clamp


def attempt(net: Network, hardware: Hardware = ANY) -> Rescaling | str:
    """What is found, or why nothing is."""
    try:
        return rescale(net, hardware)
    except QexportError as error:
        return str(error)


Gains = (
    st.builds(lambda n, e: Fraction(n, 2**e), st.integers(-9, 9), st.integers(0, 5))
    | st.floats(-2, 2, allow_subnormal=False)
    | st.fractions(-2, 2, max_denominator=30)
)
Offsets = (
    st.builds(lambda n, e: Fraction(n, 2**e), st.integers(-90, 90), st.integers(0, 4))
    | st.floats(-20, 20, allow_subnormal=False)
    | st.fractions(-20, 20, max_denominator=12)
)


@st.composite
def networks(draw: st.DrawFn, codes: int = 18, span: int = 90) -> Network:
    low, least = draw(st.integers(-20, 12)), draw(st.integers(-60, 40))
    return network(
        draw(Gains),
        draw(Offsets),
        least,
        least + draw(st.integers(0, span)),
        low,
        low + draw(st.integers(0, codes)),
        draw(st.sampled_from([0, 0, 3, -4])),
    )


@settings(max_examples=cases(150))
@given(net=networks())
@example(net=network(Fraction(1, 2), 0, -9, 9, -4, 4))  # ties on both sides
@example(net=network(Fraction(-1, 2), 0, -9, 9, -4, 4, 1))
@example(net=network(0, 2.5, -9, 9, -4, 4))
@example(net=network(0, 2.5, -9, 9, -4, 4, 1))
@example(net=network(0.3, 0.0, 5, 5, -4, 4))
@example(net=network(1e-300, 0.5, -9, 9, -4, 4))
@example(net=network(1e300, -0.5, -9, 9, -4, 4))
def test_every_accumulator_of_the_bounds_gets_the_networks_code(net: Network) -> None:
    values = whole(net)
    codes = [[wanted(net, value)] for value in values]
    accumulators = np.array(values)[:, None]
    assert net.codes(accumulators, 1).tolist() == codes
    found = rescale(net)
    assert run(found.steps, accumulators, net).tolist() == codes
    assert found.departs.tolist() == [0]


def feasible(net: Network, shift: int, most: int) -> bool:
    """Whether any multiplier up to `most` has an addend with which floor gives every code: each pair is tried."""
    values = whole(net)
    codes = [wanted(net, value) for value in values]
    for by in range(-most, most + 1):
        products = [value * by for value in values]
        # code = clamp((product + addend) >> shift): the addends that each accumulator leaves
        least = max(
            ((code << shift) - p for p, code in zip(products, codes, strict=True) if code > net.low), default=-(2**40)
        )
        greatest = min(
            ((code + 1 << shift) - 1 - p for p, code in zip(products, codes, strict=True) if code < net.high),
            default=2**40,
        )
        if least <= greatest:
            return True
    return False


@settings(max_examples=cases(60))
@given(net=networks(codes=6, span=24))
@example(net=network(Fraction(3, 8), 0, -9, 9, -4, 4))
@example(net=network(Fraction(1, 2), 0, 1, 3, 0, 15))
@example(net=network(Fraction(1, 2), 0, 0, 2, 0, 15))
def test_the_shift_is_the_smallest_and_a_table_stands_only_where_there_are_no_integers(net: Network) -> None:
    assume(net.low < net.high)
    found = rescale(net)
    if len(found.steps) == 4:
        by, shift = integers(found)[0].by, integers(found)[2].by
        assert isinstance(by, int)
        assert isinstance(shift, int)
        assert feasible(net, shift, max(3 << shift, abs(by)))
    else:
        assert isinstance(found.steps[-1], Threshold)
        shift = 8  # beyond, trying every multiplier takes long
    for smaller in range(min(shift, 7)):
        assert not feasible(net, smaller, 3 << smaller)


def test_ties_on_both_sides_have_no_integers_but_a_table() -> None:
    """Half of 1 goes down to 0, half of 3 up to 2, and so on: no multiplier does them all."""
    assert len(rescale(network(0.5, 0, 0, 3, 0, 15)).steps) == 4
    (threshold,) = rescale(network(0.5, 0, 0, 9, 0, 15)).steps
    assert threshold == Threshold(table=((2, 3, 6, 7, *[10] * 11),), first=0)
    falling, levels = rescale(network(-0.5, 0, 0, 9, -4, 0)).steps
    assert falling == Multiply(by=-1)
    assert levels == Threshold(table=((-6, -5, -2, -1),), first=-4)


def test_channels_have_their_own_signs_numbers_and_shifts_and_only_the_output_is_common() -> None:
    gains: list[Real] = [0.01337, -0.4, Fraction(1, 3), 0, 2.4, 1e-9]
    offsets: list[Real] = [0.3, -7.25, 0, 3.5, 100.0, -4.0]
    least, greatest = np.array([-9000, -400, 0, -5, -70, -10]), np.array([9000, 300, 999, 5, 60, 10])
    net = Network(gains, offsets, least, greatest, -128, 127, -3)
    found = rescale(net)
    multiply, _, shift, clamp = integers(found)
    assert isinstance(multiply.by, tuple)
    assert [np.sign(by) for by in multiply.by[:3]] == [1, -1, 1]
    assert isinstance(shift.by, tuple)
    assert len(set(shift.by)) > 2
    assert shift.by[3] == 0
    assert (shift.round, clamp.low, clamp.high) == ("floor", -128, 127)
    for channel in range(6):
        values = np.arange(least[channel], greatest[channel] + 1)
        several = np.zeros((len(values), 6), np.int64) + np.clip(0, least, greatest)
        several[:, channel] = values
        codes = [wanted(net, value, channel) for value in values.tolist()]
        assert run(found.steps, several, net)[:, channel].tolist() == codes
        assert net.codes(several, 1)[:, channel].tolist() == codes
        plane = several.T[None, :, :, None]
        assert net.codes(plane, 1)[0, channel, :, 0].tolist() == codes


def test_channels_in_parts_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gains: list[Real] = [0.01337, -0.4, Fraction(1, 3), 0, 2.4]
    bounds = np.array([400, 300, 999, 5, 70])

    def facts() -> tuple[Int64, list[tuple[int, int]], tuple[Step, ...]]:
        net = Network(gains, [0.5, -7.25, 0, 3.5, 100.0], -bounds, bounds, -8, 7, -3)
        return net.edges, net.ties(Fraction(1, 9)), rescale(net).steps

    edges, ties, steps = facts()
    assert len({channel for channel, _ in ties}) == 4
    monkeypatch.setattr("qexport.core.rescale.PART_EDGES", 30)
    assert (facts()[0] == edges).all()
    assert facts()[1:] == (ties, steps)
    net = Network([0.317, 0.4], [0, 0.25], -bounds[:2], bounds[:2], -20, 20)
    assert isinstance(integers(rescale(net, Hardware(per_tensor=True)))[0].by, int)


@settings(max_examples=cases(100))
@given(net=networks(), width=st.sampled_from([Fraction(1, 2**40), Fraction(1, 16), Fraction(1, 3)]))
@example(net=network(Fraction(1, 2), 0, -9, 9, -4, 4), width=Fraction(1, 2**40))
@example(net=network(Fraction(-1, 2), 0, -9, 9, -4, 4, 1), width=Fraction(1, 2**40))
@example(net=network(Fraction(1, 4), Fraction(1, 2**39), 0, 90, -40, 40, 3), width=Fraction(1, 2**40))
@example(net=network(0, Fraction(1, 2), 0, 9, -4, 4), width=Fraction(1, 2**40))
def test_ties_are_the_accumulators_within_the_width_of_an_edge(net: Network, width: Fraction) -> None:
    close = []
    for value in whole(net):
        real = net.gains[0] * value + net.offsets[0]  # before the zero point
        edges = [code - net.zero_point - Fraction(1, 2) for code in range(net.low + 1, net.high + 1)]
        if net.gains[0] and any(abs(real - edge) <= width * max(1, abs(edge)) for edge in edges):
            close.append((0, value))
    assert net.ties(width) == close
    if width == Fraction(1, 2**40):
        assert net.ties() == close


HARDWARE = [
    Hardware(round="floor"),
    Hardware(round="half_up"),
    Hardware(round="half_even"),
    Hardware(round="half_away"),
    Hardware(round="toward_zero"),
    Hardware(mul_bits=3),
    Hardware(mul_bits=4, round="half_away"),
    Hardware(shift_max=2),
    Hardware(shift_max=0, round="half_even"),
    Hardware(power_of_two=True),
    Hardware(power_of_two=True, round="half_even"),
    Hardware(power_of_two=True, shift_max=3, round="toward_zero"),
]


@pytest.mark.parametrize("hardware", HARDWARE, ids=str)
@settings(max_examples=cases(30))
@given(net=networks())
@example(net=network(Fraction(1, 4), 0, -60, 60, -9, 9))
@example(net=network(Fraction(-1, 4), Fraction(1, 2), -60, 60, -9, 9, 3))
def test_how_far_a_hardware_departs_is_counted_exactly_and_it_stays_within_its_limits(
    hardware: Hardware, net: Network
) -> None:
    found = attempt(net, hardware)
    if isinstance(found, str):
        assert "use more --mul-bits" in found
        assert abs(net.gains[0]) > 2 ** (hardware.mul_bits - 1) - 1
        return
    values = whole(net)
    got = run(found.steps, np.array(values)[:, None], net)[:, 0].tolist()
    codes = [wanted(net, value) for value in values]
    assert found.departs.tolist() == [sum(a != b for a, b in zip(got, codes, strict=True))]
    if net.low == net.high:
        return
    multiply, _, shift, _ = integers(found)
    assert shift.round == (hardware.round or "floor")
    assert isinstance(multiply.by, int)
    assert isinstance(shift.by, int)
    assert abs(multiply.by) < 2 ** (hardware.mul_bits - 1)
    assert shift.by <= hardware.shift_max
    if hardware.power_of_two:
        assert abs(multiply.by).bit_count() == (1 if net.gains[0] else 0)
        assert multiply.by in (-1, 0, 1) or shift.by == 0
        if shift.by < hardware.shift_max and net.gains[0]:
            ratio = Fraction(abs(multiply.by), 2**shift.by) / abs(net.gains[0])
            assert Fraction(1, 2) <= ratio * ratio <= 2
    elif hardware.round and hardware.mul_bits > 8 and hardware.shift_max > 8:
        # what it means to round it rounds exactly, wherever integers with room for that exist
        meant = [wanted(net, value, rounding=hardware.round) for value in values]
        off = sum(a != b for a, b in zip(got, meant, strict=True))
        assert off <= sum(_on_an_edge(net, value, hardware.round) for value in values)


def _on_an_edge(net: Network, value: int, rounding: str) -> bool:
    """Whether rounded integers cannot be told from the real value's side of an edge."""
    twice = 2 * (net.gains[0] * value + net.offsets[0] + net.zero_point)
    return abs(twice - round(twice)) < Fraction(1, 2**30)


@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
def test_power_of_two_scales_have_integers_for_each_rounding(rounding: Any) -> None:
    """Scales 2^-3, 2^-2 and 2^-1: the accumulators / 16, half to even in the network."""
    net = network(Fraction(1, 16), 0, -64, 63, -100, 100)
    found = rescale(net, Hardware(round=rounding))
    multiply, add, shift, _ = integers(found)
    assert (multiply.by, add.value, shift.by) == (1, 0, 4)
    parted = sum(ROUNDINGS[rounding](Fraction(value, 16)) != wanted(net, value) for value in range(-64, 64))
    assert found.departs.tolist() == [parted]
    assert (parted == 0) == (rounding == "half_even")


def test_per_tensor_has_one_multiplier_and_one_shift() -> None:
    rng = np.random.default_rng(0)
    offsets, bounds = rng.normal(0, 5, 6).tolist(), np.array([900, 50, 7, 1000, 400, 333])
    for gains, exact in (([-0.0371] * 6, True), (np.linspace(0.03, 0.05, 6).tolist(), False)):
        net = Network(gains, offsets, -bounds, bounds, -30, 30)
        found = rescale(net, Hardware(per_tensor=True))
        multiply, add, shift, _ = integers(found)
        assert isinstance(multiply.by, int)
        assert isinstance(shift.by, int)
        assert isinstance(add.value, tuple)
        assert multiply.by / 2**shift.by == pytest.approx(np.mean(gains), rel=0.02)
        for channel in range(6):
            values = np.arange(-bounds[channel], bounds[channel] + 1)
            several = np.zeros((len(values), 6), np.int64)
            several[:, channel] = values
            got = run(found.steps, several, net)[:, channel].tolist()
            parted = sum(code != wanted(net, v, channel) for code, v in zip(got, values.tolist(), strict=True))
            assert found.departs[channel] == parted
        assert (found.departs.sum() == 0) == exact
        if exact:
            for one in zip(offsets, bounds.tolist(), strict=True):
                own = integers(rescale(network(gains[0], one[0], -one[1], one[1], -30, 30)))[2].by
                assert isinstance(own, int)
                assert own <= shift.by
    with pytest.raises(QexportError, match="per-tensor: gains have both signs"):
        rescale(Network([1.0, -1.0], [0, 0], bounds[:2], bounds[:2], 0, 3), Hardware(per_tensor=True))


def test_the_nearest_integers_are_those_of_the_largest_shift_and_only_floor_has_half_a_step_in_its_addend() -> None:
    net = network(0.3, Fraction(3, 16), -90, 90, -20, 20)
    for rounding, value in ((None, 11), ("half_up", 3), ("floor", 3)):
        multiply, add, shift, _ = integers(rescale(net, Hardware(mul_bits=4, round=rounding)))
        assert (multiply.by, add.value, shift.by) == (5, value, 4)


def test_a_multiplier_at_the_hardwares_limit_is_found() -> None:
    found = rescale(network(Fraction(4, 7), -10, -16, 16, -3, 3), Hardware(mul_bits=3))
    assert (integers(found)[0].by, integers(found)[2].by, found.departs.tolist()) == (3, 2, [0])


def test_a_power_of_two_gets_the_addend_that_is_exact_where_there_is_one() -> None:
    """a / 4 + 0.2 rounds up from a = 4 q - 2 on, though the real addend, 2.8, is nearer to 3."""
    found = rescale(network(Fraction(1, 4), Fraction(1, 5), -90, 90, -20, 20), Hardware(power_of_two=True))
    assert (integers(found)[1].value, found.departs.tolist()) == (2, [0])


def test_the_nearest_power_of_two_is_that_of_the_smaller_ratio() -> None:
    wanted = {Fraction(7, 10): 1, Fraction(3, 4): 0, Fraction(3, 8): 1, Fraction(8, 15): 1, Fraction(15, 16): 0}
    wanted |= {Fraction(1, 3): 2, Fraction(5, 14): 1, Fraction(1, 4): 2}
    for gain, shift in wanted.items():
        found = rescale(network(gain, 0, -90, 90, -20, 20), Hardware(power_of_two=True))
        assert (integers(found)[0].by, integers(found)[2].by) == (1, shift)
    found = rescale(network(Fraction(-29, 10), 0, -9, 9, -20, 20), Hardware(power_of_two=True))
    assert (integers(found)[0].by, integers(found)[2].by) == (-4, 0)


def test_wide_codes_take_smaller_shifts_so_that_nothing_leaves_int64() -> None:
    net = network(Fraction(1, 4), 0, -1000, 1000, -(2**16), -1)
    found = rescale(net, Hardware(mul_bits=60))
    points = np.arange(-1000, 1001)[:, None]
    codes = np.minimum(np.rint(points / 4), -1)  # half to even, exact in floating point
    assert (net.codes(points, 1) == codes).all()
    assert found.departs.tolist() == [(run(found.steps, points, net) != codes).sum()] == [125]


def test_per_tensor_the_widest_bounds_limit_the_multiplier() -> None:
    least, greatest = np.array([2**58 - 9, -100]), np.array([2**58, 100])
    net = Network([0.317] * 2, [0, 0.25], least, greatest, -8, 7)
    found = rescale(net, Hardware(per_tensor=True))
    by = integers(found)[0].by
    assert isinstance(by, int)
    assert by <= 4
    assert found.departs[0] == 0


def test_per_tensor_with_few_bits_or_powers_of_two() -> None:
    bounds = np.array([2**40, 100])
    net = Network([1e-9, 1e-9], [0, 0.25], -bounds, bounds, -8, 7)
    for hardware in (Hardware(per_tensor=True, mul_bits=4), Hardware(per_tensor=True, power_of_two=True)):
        found = rescale(net, hardware)
        multiply, _, shift, _ = integers(found)
        assert isinstance(multiply.by, int)
        assert isinstance(shift.by, int)
        points = np.random.default_rng(1).integers(-bounds, bounds + 1, (2000, 2))
        parted = (run(found.steps, points, net) != net.codes(points, 1))[:, 0].mean()
        assert found.departs[0] / (2 * 2**40 + 1) == pytest.approx(parted, abs=0.05)
        assert found.departs[0] > 0


@pytest.mark.parametrize("greatest", [10**6, 2**31, 2**40])
@pytest.mark.parametrize("gain", [0.0123, -1e-5, 3e-9, Fraction(1, 3 * 2**20), 7.5])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-8, 7), (-128, 127), (-(2**15), 2**15 - 1)])
def test_large_accumulators_get_their_codes_at_each_edge_and_between(
    gain: Real, low: int, high: int, greatest: int
) -> None:
    net = network(gain, Fraction(3, 7), -greatest - 5, greatest, low, high)
    found = attempt(net)
    if isinstance(found, str):
        assert high > 2**14  # ties or too fine edges at codes that no table holds
        assert "no integers multiply, add and shift" in found
        return
    codes = range(low + 1, high + 1) if high < 2**14 else range(low + 1, high + 1, 97)
    edges = [math.floor((code - Fraction(1, 2) - Fraction(3, 7)) / Fraction(gain)) for code in codes]
    near = {edge + by for edge in edges for by in range(-2, 4)} | {-greatest - 5, greatest}
    near |= set(np.random.default_rng(0).integers(-greatest, greatest + 1, 300).tolist())
    points = np.array(sorted(value for value in near if -greatest - 5 <= value <= greatest))[:, None]
    meant = [[wanted(net, value)] for value in points[:, 0].tolist()]
    assert net.codes(points, 1).tolist() == meant
    assert run(found.steps, points, net).tolist() == meant


def test_departs_of_ranges_that_nobody_enumerates() -> None:
    """Floor in place of half up: for half of all accumulators the code is one less."""
    net = network(Fraction(1, 2**30), 0, -(2**36), 2**36 - 1, -128, 127)
    found = rescale(net, Hardware(round="floor"))
    ties = 2 * 32  # of each two neighbouring edges' ties, one goes down in the network too
    assert found.departs.tolist() == [2**36 - ties]


def test_512_channels_with_codes_of_8_bits() -> None:
    rng = np.random.default_rng(0)
    gains = rng.uniform(1e-4, 1e-3, 512) * np.where(rng.random(512) < 0.2, -1, 1)
    bounds = rng.integers(200_000, 600_000, 512)
    net = Network(gains.tolist(), rng.normal(0, 20, 512).tolist(), -bounds, bounds, -128, 127)
    found = rescale(net)
    assert integers(found)
    points = rng.integers(-bounds, bounds + 1, (50, 512))
    got = run(found.steps, points, net)
    for at, channel in itertools.product(range(50), range(0, 512, 37)):
        assert got[at, channel] == wanted(net, int(points[at, channel]), channel)
    assert (got == net.codes(points, 1)).all()


def test_what_cannot_be_done_is_said_in_one_line() -> None:
    none, one = np.array([0]), np.array([9])
    with pytest.raises(QexportError, match=r"no integers .* 0\.\.256 has more than 256 codes; choose --round half_up"):
        rescale(network(0.5, 0, 0, 999, 0, 256))
    assert isinstance(rescale(network(0.5, 0, 0, 999, 0, 255)).steps[0], Threshold)
    with pytest.raises(QexportError, match=r"output: 0\.\.65536 has more than 2\^16 codes"):
        Network([1.0], [0], none, one, 0, 2**16)
    with pytest.raises(QexportError, match="accumulator: bounds leave"):
        Network([1.0], [0], none, np.array([2**60]), 0, 9)
    with pytest.raises(QexportError, match=r"output: .* leaves 60 bits"):
        rescale(Network([1.0], [0], none, one, 2**60, 2**60 + 1))
    with pytest.raises(QexportError, match=r"mul-bits: 1 is outside 2\.\.62"):
        Hardware(mul_bits=1)
    with pytest.raises(QexportError, match=r"mul-bits: 63 is outside"):
        Hardware(mul_bits=63)
    with pytest.raises(QexportError, match=rf"shift-max: {MAX_SHIFT + 1} is outside 0\.\.{MAX_SHIFT}"):
        Hardware(shift_max=MAX_SHIFT + 1)
    assert Hardware() == ANY


@pytest.mark.parametrize(("power", "by"), [(False, 7), (True, 4)])
def test_a_multiplier_beyond_the_hardware_becomes_its_largest_and_departs(power: bool, by: int) -> None:
    one = network(9.25, 0, -9, 9, -99, 99)
    found = rescale(one, Hardware(mul_bits=4, power_of_two=power))
    assert (found.steps[0].by, found.steps[2].by) == (by, 0)  # type: ignore[attr-defined]
    accumulators = np.arange(-9, 10)
    codes = run(found.steps, accumulators, one)
    assert found.departs.sum() == sum(code != wanted(one, int(a)) for code, a in zip(codes, accumulators, strict=True))
