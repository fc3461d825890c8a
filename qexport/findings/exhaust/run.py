"""Sends accumulators through a user's module, block by block, and compares what comes back with the steps."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from qexport.bench.design import Design, Dut
from qexport.bench.ports import read_module
from qexport.bench.post import PostPorts, match_ports
from qexport.core.intformat import Int64
from qexport.core.operations.registry import operation
from qexport.core.steps import Chain, Pool, Signal
from qexport.errors import CheckFailed, QexportError, few, near
from qexport.findings.exhaust.driven import MEASURED, Driven
from qexport.findings.exhaust.mistakes import explanations, parts_by
from qexport.findings.exhaust.result import Difference, Exhaustion
from qexport.findings.exhaust.walk import Lane, alike, edge_accumulators, lanes, named, random_accumulators
from qexport.layout.order import TILE_AXIS
from qexport.sets.manifest import capture_of, layer_text, read_manifest
from qexport.sim.ghdl import as_verilog
from qexport.sim.registry import choose
from qexport.sim.supervisor import TIME_LIMIT, workers
from qexport.sim.work import scratch_folder

LIMIT = 100_000_000  # accumulators
BLOCK = 1 << 20  # of one run of the module
PIECE = 1 << 16  # of one channel in it, at most: channels take turns
MOST_EDGES = 1 << 17  # of one step of a channel that are looked for
AT_ONCE = 8  # runs, so that memory does not grow with the processors
EVIDENCE = 1 << 15  # accumulators that tell where a wrong channel parts
SHIFTS = 32  # cycles by which codes may come early or late and are still recognized

Told = Callable[[str, int, int], None]
Piece = tuple[Lane, Callable[[], Int64]]  # a channel, and some of its accumulators


@dataclass(frozen=True)
class Wrong:
    """A wrong code. `shift`: by how many values all codes of its run came late, where that is all that is wrong."""

    lane: Lane
    value: int
    got: int
    want: int
    shift: int | None

    @property
    def place(self) -> tuple[int, int]:
        return self.lane.channel, self.value


@dataclass
class Tally:
    """What the runs told: accumulators sent, wrong codes by channel and the first of them, the latency; `lacking`: why
    codes are not there, or too many; `said`: what the simulator said beside them."""

    sent: int = 0
    wrong: Counter[int] = field(default_factory=Counter)
    first: Wrong | None = None
    latency: tuple[int, int] | None = None
    lacking: str | None = None
    said: str = ""

    def add(self, other: "Tally") -> None:
        self.sent += other.sent
        self.wrong += other.wrong
        if self.first is None or (other.first is not None and other.first.place < self.first.place):
            self.first = other.first
        pairs = [pair for pair in (self.latency, other.latency) if pair is not None]
        self.latency = (min(low for low, _ in pairs), max(high for _, high in pairs)) if pairs else None
        self.lacking, self.said = self.lacking or other.lacking, self.said or other.said


def exhaust(
    folder: Path,
    dut: Dut,
    *,
    top: str = "dut",
    ports: Mapping[str, str] | None = None,
    latency: int | None = None,
    after: str | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    builds: Path | None = None,
    time_limit: float = TIME_LIMIT,
    progress: Told = lambda step, done, total: None,
) -> Exhaustion:
    """Send every accumulator within the bounds of every channel of a set through the module `top` of `dut`.

    It runs on Verilator, and every code is compared with what the set's steps give, up to the first pool. `after`: a
    step whose values are sent in place of accumulators. Where there are more than `limit`, those at every edge of every
    step are sent, and random ones by `seed`, up to the limit. `ports`: of the module by role, where its names are
    unusual. `latency`: rising clock edges from a value to its code, of a module with a clock that does not tell it by
    valid ports. `builds` keeps builds, as in `simulate`. `time_limit`: seconds for the build, and again for all runs.

    Raises CheckFailed when the set was changed; QexportError when it has no steps, the ports do not fit, the sources do
    not compile or Verilator is missing.
    """
    manifest = read_manifest(folder)
    facts = operation(capture_of(folder, manifest), manifest.array.get(TILE_AXIS), manifest.chain)
    if facts.chain is None:
        raise QexportError(f"exhaust: {folder}: the set has no steps: {facts.no_output}; dump a capture that has")
    package, parameters = folder / f"{manifest.layer.slug}_pkg.sv", folder / "params.vh"
    return exhaust_chain(
        facts.chain, dut, folder=str(folder), layer=layer_text(manifest.layer), top=top, ports=ports, latency=latency,
        after=after, limit=limit, seed=seed, package=package, parameters=parameters, builds=builds,
        time_limit=time_limit, progress=progress,
    )  # fmt: skip


def exhaust_chain(
    chain: Chain,
    dut: Dut,
    *,
    folder: str,
    layer: str,
    top: str = "dut",
    ports: Mapping[str, str] | None = None,
    latency: int | None = None,
    after: str | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    package: Path | None = None,
    parameters: Path | None = None,
    builds: Path | None = None,
    time_limit: float = TIME_LIMIT,
    progress: Told = lambda step, done, total: None,
) -> Exhaustion:
    """The same for the steps of a `layer` in words; `package`, `parameters`: of the set, which the module may use."""
    begin = time.monotonic()
    covered, behind = _part(chain, after)
    design = Design.of(dut, top)
    verilator = choose("verilator")
    tally, edges, every_edge = Tally(), 0, True
    first, failure = None, None
    with scratch_folder() as root:
        design = as_verilog(design, root, time_limit)
        module = read_module(design, package, [] if parameters is None else [parameters.parent])
        start, roles = covered.start, _roles(design) | dict(ports or {})
        found = match_ports(module, roles, start.range, start.channels, alike(covered), covered.end.range)
        stated = _latency(found, latency)
        tracks = lanes(covered, "channel" in found.of)
        within = sum(track.count for track in tracks)
        driven = Driven.build(
            verilator, found, design, root, latency=stated, package=package, parameters=parameters, builds=builds,
            limit=time_limit,
        )  # fmt: skip
        try:
            if within <= limit:
                _send(driven, _everything(tracks), tally, seed, lambda done: progress("accumulators", done, within))
            else:
                edges, every_edge = _walk(driven, tracks, tally, limit, seed, progress)
            if tally.first is not None:
                first = _difference(driven, tally.first, start, seed)
            failure = _failure(driven, tally, first, start.channels, latency)
        except CheckFailed as error:
            failure = error
    return Exhaustion(
        set=folder, layer=layer, dut=design.files, top=design.top, ports=found.of, unread=found.unread,
        version=verilator.version(), after=after, channels=start.channels, steps=covered.names, not_compared=behind,
        within=within, compared=tally.sent, every=within <= limit, edges=edges, every_edge=every_edge, seed=seed,
        latency=tally.latency if "clock" in found.of else None, seconds=round(time.monotonic() - begin, 1),
        wrong=dict(sorted(tally.wrong.items())), first=first, failure=failure,
    )  # fmt: skip


def _part(chain: Chain, after: str | None) -> tuple[Chain, tuple[str, ...]]:
    """The steps behind `after` up to the next pool, which takes many values, and the names of those from there on."""
    if after is not None and after not in chain.names:
        raise QexportError(f"after: the set has no step {after!r}; it has {few(near(after, chain.names))}")
    first = 0 if after is None else chain.names.index(after) + 1
    start = chain.start if after is None else chain.signals[after]
    steps = list(itertools.takewhile(lambda step: not isinstance(step, Pool), named(chain.names, chain.steps)[first:]))
    if not steps:
        place = "accumulator" if after is None else f"step {after}"
        if first == len(chain.steps):
            raise QexportError(f"exhaust: nothing stands behind the {place}; check the set with `simulate`")
        pool = chain.names[first]
        raise QexportError(
            f"exhaust: behind the {place} stands a pool, which takes many values; send its own with --after {pool}"
        )
    return Chain(steps, start, chain.bias), chain.names[first + len(steps) :]


def _roles(design: Design) -> dict[str, str]:
    """The roles of ports that a design names."""
    own = Design()
    roles = {"clock": design.clock} if design.clock != own.clock else {}
    if (design.reset, design.reset_low) != (own.reset, own.reset_low):
        roles["reset_n" if design.reset_low else "reset"] = design.reset
    return roles


def _latency(found: PostPorts, latency: int | None) -> int:
    """The latency that the program is told."""
    module = found.module
    if "clock" not in found.of:
        if latency:
            raise QexportError(f"latency: {latency} is stated, module {module.name} has no clock; leave it out")
        return 0
    if "valid_out" in found.of:
        return MEASURED
    if latency is None:
        raise QexportError(
            f"latency: {module.place}: module {module.name} has a clock and no valid ports; state with --latency how "
            "many rising edges lie between a value and its code"
        )
    return latency


def _everything(tracks: Sequence[Lane]) -> Iterator[Piece]:
    """Every accumulator, in pieces of one channel after the other."""
    for at in range(0, max(track.count for track in tracks), PIECE):
        for track in tracks:
            if at < track.count:
                yield track, partial(np.arange, track.low + at, min(track.low + at + PIECE, track.high + 1))


def _walk(
    driven: Driven, tracks: Sequence[Lane], tally: Tally, limit: int, seed: int, progress: Told
) -> tuple[int, bool]:
    """Send the accumulators at edges, then random ones up to the limit: how many at edges, and whether at each."""
    share = max(limit // len(tracks), 2)
    steps = len(tracks[0].chain.steps)
    complete: list[bool] = []

    def at_edges(track: Lane) -> Int64:
        # an edge gives up to six accumulators: three values, each reached and not yet reached
        given, every = edge_accumulators(track, min(max(share // (6 * steps), 4), MOST_EDGES))
        complete.append(every and len(given) <= share)
        return given if len(given) <= share else given[np.linspace(0, len(given) - 1, share).astype(int)]

    pieces = [(track, partial(at_edges, track)) for track in tracks]
    _send(driven, pieces, tally, seed, lambda done: progress("accumulators at edges", min(done, limit), limit))
    edges = tally.sent
    each = (limit - edges) // len(tracks)

    def at_random() -> Iterator[Piece]:
        for at in range(0, each, PIECE):
            for track in tracks:
                count, key = min(PIECE, each - at), (seed, track.channel, track.low & 2**63 - 1, at)
                yield track, partial(random_accumulators, track, count, key)

    _send(driven, at_random(), tally, seed, lambda done: progress("accumulators", done, limit))
    return edges, all(complete)


def _send(driven: Driven, pieces: Iterable[Piece], tally: Tally, seed: int, told: Callable[[int], None]) -> None:
    """Run blocks of pieces, some at a time, and add what they tell."""
    size = BLOCK // PIECE
    left = iter(pieces)
    blocks = enumerate(iter(lambda: list(itertools.islice(left, size)), []))
    with workers() as pool:
        running: set[Future[Tally]] = set()
        while True:
            wanted = 1 + min(os.cpu_count() or 1, AT_ONCE) - len(running)
            started = [(block, (seed, number)) for number, block in itertools.islice(blocks, wanted)]
            running |= {pool.submit(_run, driven, block, key) for block, key in started}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                tally.add(future.result())
            told(tally.sent)


def _run(driven: Driven, block: Sequence[Piece], key: tuple[int, int]) -> Tally:
    """Send a block in random order, so that no value is like the one before, and compare."""
    parts = [(lane, given()) for lane, given in block]
    values = np.concatenate([accumulators for _, accumulators in parts])
    channels = np.repeat([lane.channel for lane, _ in parts], [len(accumulators) for _, accumulators in parts])
    rng = np.random.default_rng(key)
    order = rng.permutation(len(values))
    came = driven.send(values[order], channels[order], int(rng.integers(2**31)))
    want = np.concatenate([lane.values(accumulators) for lane, accumulators in parts])
    got = want.copy()  # what did not come is not wrong
    got[order[: len(came.codes)]] = came.codes
    tally = Tally(sent=len(came.codes), latency=came.latency, lacking=came.lacking, said=came.said)
    at = 0
    for lane, accumulators in parts:
        wrong = np.flatnonzero(got[at : at + len(accumulators)] != want[at : at + len(accumulators)])
        if len(wrong):
            least = wrong[np.argmin(accumulators[wrong])]
            shift = _shift(came.codes, want[order])
            found = Wrong(lane, int(accumulators[least]), int(got[at + least]), int(want[at + least]), shift)
            tally.add(Tally(wrong=Counter({lane.channel: len(wrong)}), first=found))
        at += len(accumulators)
    return tally


def _shift(codes: Int64, want: Int64) -> int | None:
    """By how many values codes come late (early: below 0), where that is all that is wrong with them."""
    count = len(codes)
    for by in range(1, min(SHIFTS, count // 4) + 1):
        if np.array_equal(codes[by:], want[: count - by]):
            return by
        if np.array_equal(codes[: count - by], want[by:count]):
            return -by
    return None


def _difference(driven: Driven, wrong: Wrong, start: Signal, seed: int) -> Difference:
    """The first wrong code, and where it parts from the steps."""
    lane = wrong.lane
    holds = (start.low <= wrong.value) & (wrong.value <= start.high)
    channel = lane.channel if "channel" in driven.ports.of else int(np.argmax(holds))
    step, why = _parting(driven, wrong, seed)
    return Difference(channel, wrong.value, wrong.got, wrong.want, step, why, lane.trace(wrong.value))


def _parting(driven: Driven, wrong: Wrong, seed: int) -> tuple[str, str]:
    """The step at which a wrong channel parts, as far as its codes tell, and why."""
    lane, names = wrong.lane, ("value", *wrong.lane.chain.names)
    if wrong.shift is not None:
        if driven.latency == MEASURED:
            late = f"{abs(wrong.shift)} value{'s' * (abs(wrong.shift) > 1)} {'late' if wrong.shift > 0 else 'early'}"
            return "none", f"all codes are right, but come {late}: the valid port does not go with the code"
        return "none", f"all codes are right at a latency of {driven.latency + wrong.shift}, not {driven.latency}"
    accumulators = _evidence(lane, wrong.value)
    order = np.random.default_rng(seed).permutation(len(accumulators))
    came = driven.send(accumulators[order], np.full(len(order), lane.channel), seed)
    if came.lacking is not None:
        return "none", f"{came.lacking}: see its handshake"
    accumulators = accumulators[order]
    if np.array_equal(came.codes, lane.values(accumulators)):
        return "none", (
            "sent without other channels between, this one is right: "
            "the module takes the channel of another value, or keeps something of it"
        )
    found = explanations(lane, accumulators, came.codes, driven.ports.bits("value"), driven.ports.code)
    count = f"{len(accumulators):,} values of the channel"
    if not found:
        at = parts_by(lane, accumulators, came.codes)
        return names[at + 1], f"at this step or before it: no single mistake gives the codes of {count}"
    first = found[0]
    others = list(dict.fromkeys(names[other.at + 1] for other in found if other.at != first.at))
    alternative = f"; so may a mistake at {few(others, most=3)}" if others else ""
    return names[first.at + 1], f"{names[first.at + 1]} {first.text}: that explains the codes of {count}{alternative}"


def _evidence(lane: Lane, value: int) -> Int64:
    """Accumulators of a channel that tell its steps apart: all, or edges, even steps and neighbours of `value`."""
    if lane.count <= 2 * EVIDENCE:
        return np.arange(lane.low, lane.high + 1)
    edges = edge_accumulators(lane, EVIDENCE // (6 * len(lane.chain.steps)))[0]
    stride = -(-lane.count // EVIDENCE)
    near = np.arange(max(lane.low, value - PIECE // 64), min(lane.high, value + PIECE // 64) + 1)
    return np.unique(np.concatenate([edges, np.arange(lane.low, lane.high + 1, stride), near]))


def _failure(
    driven: Driven, tally: Tally, first: Difference | None, channels: int, latency: int | None
) -> CheckFailed | None:
    """Why the runs are no PASS; None where they are."""
    what = f"exhaust: {driven.what}: FAIL"
    if first is not None:
        where = ""
        if "channel" in driven.ports.of:
            where = f", in {len(tally.wrong)} of {channels} channels: {few(sorted(tally.wrong))}"
        lacking = "" if tally.lacking is None else f"; {tally.lacking}"
        trace = ", ".join(f"{name} {value}" for name, value in first.trace.items())
        return CheckFailed(
            f"{what}, {tally.wrong.total():,} of {tally.sent:,} codes are wrong{where}{lacking}{tally.said}\n"
            f"FAIL {first}\n{first.why}\nthe set's steps: value {first.value}, {trace}"
        )
    if tally.lacking is not None:
        return CheckFailed(f"{what}: {tally.lacking}{tally.said}; see its handshake")
    if driven.latency == MEASURED and latency is not None and tally.latency != (latency, latency):
        assert tally.latency is not None
        least, most = tally.latency
        return CheckFailed(f"{what}: --latency {latency} is stated, its valid ports tell {least}..{most} cycles")
    return None
