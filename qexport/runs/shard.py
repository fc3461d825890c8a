"""Which part of a plan is this process's: said, or told by the array variables of Slurm, LSF and Bazel."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qexport.errors import QexportError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `total`. `told`: by whom."""

    number: int = 1
    total: int = 1
    told: str = ""

    def of(self, jobs: Sequence[T]) -> list[T]:
        """Its part of the jobs: neighbours stay together, as they share builds."""
        first, end = ((number * len(jobs)) // self.total for number in (self.number - 1, self.number))
        return list(jobs[first:end])

    def __str__(self) -> str:
        return f"{self.number}/{self.total}" + (f", from {self.told}" if self.told else "")


def parse_shard(text: str, told: str = "--shard") -> Shard:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        remedy = "write such as 1/4" if told == "--shard" else "give --shard I/N"
        raise QexportError(f"shard: '{text}' of {told} is not I/N with I in 1..N; {remedy}")
    return Shard(int(found[1]), int(found[2]), "" if told == "--shard" else told)


def shard_here(environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that a farm's array variables tell; the whole plan where there are none."""
    env = environment
    if env.get("TEST_TOTAL_SHARDS", "0") != "0":  # Bazel
        if status := env.get("TEST_SHARD_STATUS_FILE"):
            Path(status).touch()  # which tells Bazel that shards are known here
        return _numbered(env, "TEST_SHARD_INDEX", "0", env["TEST_TOTAL_SHARDS"])
    if "SLURM_ARRAY_TASK_COUNT" in env:
        return _numbered(
            env, "SLURM_ARRAY_TASK_ID", env.get("SLURM_ARRAY_TASK_MIN", "0"), env["SLURM_ARRAY_TASK_COUNT"],
            env.get("SLURM_ARRAY_TASK_STEP", "1"),
        )  # fmt: skip
    if env.get("LSB_JOBINDEX", "0") != "0":  # LSF counts from 1
        if env.get("LSB_JOBINDEX_STEP", "1") != "1":  # where it begins, nothing tells
            raise QexportError("shard: LSB_JOBINDEX_STEP is not 1; number the array from 1 on, or give --shard I/N")
        return _numbered(env, "LSB_JOBINDEX", "1", env.get("LSB_JOBINDEX_END", "1"))
    return Shard()


def _numbered(env: Mapping[str, str], name: str, first: str, total: str, step: str = "1") -> Shard:
    try:
        number = (int(env[name]) - int(first)) // int(step) + 1
    except (KeyError, ValueError, ZeroDivisionError):
        raise QexportError(f"shard: {name} is not a number of an array; give --shard I/N") from None
    return parse_shard(f"{number}/{total}", name)
