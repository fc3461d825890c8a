"""Icarus Verilog."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from qexport.sim.supervisor import call
from qexport.sim.tools import Job, too_old
from qexport.sim.work import scratch_folder


@cache
def _icarus_version(program: str) -> str:
    with scratch_folder() as place:  # for what it makes even to say its version, and leaves when it is cut off
        first = call([program, "-V"], {**os.environ, "TMPDIR": str(place)}).stdout.split("\n")[0]
    return first.removeprefix("Icarus Verilog version ").split(" (")[0]


class Icarus:
    """Icarus Verilog, where `iverilog` is on the PATH (QEXPORT_IVERILOG names another)."""

    name = "icarus"
    macros: tuple[str, ...] = ("__ICARUS__=1",)

    @property
    def _iverilog(self) -> str:
        return os.environ.get("QEXPORT_IVERILOG", "iverilog")

    def missing(self) -> str | None:
        for program in (self._iverilog, "vvp"):
            if shutil.which(program) is None:
                return f"{program} is not on the PATH; install Icarus Verilog (apt-get install iverilog)"
        return too_old("Icarus Verilog", self.version(), (11, 0))

    def version(self) -> str:
        return _icarus_version(self._iverilog)

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]:
        return self._run(job, build, ["-Wall", "-s", job.top, "-o", str(build / "sim")])

    def preprocessed(self, job: Job, build: Path) -> str:
        self._run(job, build, ["-E", "-o", str(build / "read.sv")])
        return (build / "read.sv").read_text(errors="replace")

    def _run(self, job: Job, build: Path, what: Sequence[str]) -> subprocess.CompletedProcess[str]:
        options = [f"-I{folder}" for folder in (job.include, *job.folders, job.sources[-1].parent)]
        options += [f"-D{macro}" for macro in job.macros]
        options += [*what, *map(str, job.sources)]
        env = {**os.environ, "TMPDIR": str(build)}  # for what it leaves when it is cut off
        # what a file includes is looked for beside it first, and never where the user happens to be
        return call([self._iverilog, "-g2012", "-grelative-include", *options], env, build, job.limit)

    def command(self, executable: Path, waves: str | None = None) -> list[str]:
        return ["vvp", "-N", str(executable), *(["-fst"] if waves == "fst" else [])]
