"""A user's module as it runs on Verilator: values and channels in, codes out, through files."""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qexport.bench.design import Design
from qexport.bench.post import IDLE_CYCLES, WRAPPER, PostPorts
from qexport.core.intformat import Int64
from qexport.errors import CheckFailed, few
from qexport.sim.cache import build_bench
from qexport.sim.supervisor import CutOff, call
from qexport.sim.tools import Job, Simulator
from qexport.sim.work import refuse_full, scratch_folder

MEASURED = -1  # latency of a module that says itself when a code stands there


@dataclass(frozen=True)
class Came:
    """What came back of one run: the codes in the order sent, cycles from a value to its code, why they are not all."""

    codes: Int64
    latency: tuple[int, int]
    lacking: str | None
    said: str


@dataclass(frozen=True)
class Driven:
    """The module around which a program was built. `latency`: stated, or MEASURED. `what`: for messages."""

    program: Path
    root: Path
    ports: PostPorts
    latency: int
    limit: float
    deadline: float
    what: str

    @classmethod
    def build(
        cls,
        verilator: Simulator,
        ports: PostPorts,
        design: Design,
        root: Path,
        *,
        latency: int,
        package: Path | None,
        parameters: Path | None,
        builds: Path | None,
        limit: float,
    ) -> "Driven":
        """Compile the module in the scratch folder `root`; raises QexportError where the sources do not compile."""
        include, made = root / "include", root / "made"
        include.mkdir()
        made.mkdir()
        (include / "params.vh").write_bytes(b"" if parameters is None else parameters.read_bytes())
        for name, text in ports.sources(design).items():
            (made / name).write_text(text)
        sources = (*([] if package is None else [package]), *design.files, made / f"{WRAPPER}.sv")
        job = Job(
            sources, include, WRAPPER, design.defines, design.includes, limit=limit, program=made / "driver.cpp",
            command="exhaust",
        )  # fmt: skip
        program = build_bench(verilator, job, root, root / "build.log", builds)
        return cls(
            program, root, ports, latency, limit, time.monotonic() + limit, f"{few(design.files)} on {verilator.name}"
        )

    def send(self, values: Int64, channels: Int64, seed: int) -> Came:
        """Run the module; raises CheckFailed where it ends by itself, CutOff at the limit of time."""
        bits = self.ports.code.bits
        size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
        with scratch_folder(within=self.root) as place:
            words, codes = place / "values", place / "codes"
            with words.open("wb") as file:
                for part in (np.array([len(values)]), values, channels.astype(np.uint32)):
                    part.tofile(file)
            done = self._run(words, codes, size, seed)
            found = re.findall(r"^DONE taken=(\d+) given=(\d+) extra=(\d+) least=(\d+) most=(\d+)$", done.stdout, re.M)
            lines = [line for line in (done.stdout + done.stderr).split("\n") if line and not line.startswith("DONE ")]
            said = f"; Verilator says: {few(lines, most=1)}" if lines else ""
            if done.returncode != 0 or len(found) != 1:
                refuse_full(place)
                raise CheckFailed(
                    f"exhaust: {self.what}: the run ended before all codes were there, exit status {done.returncode}"
                    f"{said}; take what ends a simulation out of the module"
                )
            raw = np.fromfile(codes, f"u{size}").astype(np.int64)
        taken, given, extra, least, most = map(int, found[0])
        lacking = None
        if given < len(values):
            lacking = f"it took {taken:,} values and gave {given:,} codes, then nothing for {IDLE_CYCLES:,} cycles"
        elif extra:
            lacking = f"it gave {extra:,} codes more than the {taken:,} values that it took"
        return Came(self.ports.code.decode(raw & ((1 << bits) - 1)), (least, most), lacking, said)

    def _run(self, words: Path, codes: Path, size: int, seed: int) -> subprocess.CompletedProcess[str]:
        left = self.deadline - time.monotonic()
        try:
            if left <= 0:
                raise CutOff(f"no end after {self.limit:g} s")
            return call([self.program, words, codes, str(size), str(self.latency), str(seed)], limit=left)
        except CutOff as cut:
            raise CutOff(
                f"exhaust: {self.what}: {cut}; give it more with --time-limit, or send less with --limit"
            ) from None
