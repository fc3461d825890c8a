"""What a simulation said, and whether it counts."""

import filecmp
from dataclasses import dataclass
from pathlib import Path

from qexport.errors import CheckFailed
from qexport.layout.paths import MANIFEST, SUMS
from qexport.sets.folder import sha256, sums_text
from qexport.sets.manifest import Manifest

SHOWN_LINES = 20  # of a failed run


@dataclass(frozen=True)
class Verdict:
    """What a simulation said. `compared` and `not_compared`: memory -> number of its values.

    `cycles` run from the end of the reset until the last word was taken; `macs` are the layer's multiplications (those
    with padding among them), `multipliers` those of the layout's array.
    """

    set: Path
    simulator: str
    version: str
    seed: int
    compared: dict[str, int]
    not_compared: dict[str, int]
    cycles: int
    macs: int
    multipliers: int
    manifest: Manifest

    @property
    def checks(self) -> int:
        """How many values were compared, as many as the manifest demands."""
        return sum(self.compared.values())

    @property
    def macs_per_cycle(self) -> float:
        return self.macs / self.cycles

    @property
    def utilisation(self) -> float:
        """Share of the array's multipliers that worked in an average cycle; above 1 where the design has more."""
        return self.macs_per_cycle / self.multipliers


def check_words(actual: Path, expected: Path, what: str) -> None:
    """Raises CheckFailed unless the words that the bench wrote are those of the set: a second opinion on its PASS."""
    if not actual.is_file() or not filecmp.cmp(actual, expected, shallow=False):
        raise CheckFailed(
            f"simulate: {what}: PASS, but the words that came back are not those of {expected}; the PASS is forged"
        )


def changed_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files of a set that are not as dumped: path -> what is wrong with it."""
    changed = {}
    named = manifest.named_files() | {MANIFEST: sha256((folder / MANIFEST).read_bytes())}
    if not (folder / SUMS).is_file():
        changed[SUMS] = "is missing"
    elif (folder / SUMS).read_bytes() != sums_text(named).encode():
        changed[SUMS] = "was changed since the dump"
    for path, digest in manifest.named_files().items():
        if not (folder / path).is_file():
            changed[path] = "is missing"
        elif (folder / path).is_symlink():
            changed[path] = "is a link"
        elif sha256((folder / path).read_bytes()) != digest:
            changed[path] = "was changed since the dump"
    return changed


def judge(output: str, status: int, checks: int, nonce: str, what: str) -> None:
    """Raises CheckFailed with the bench's own lines unless the output holds exactly the one PASS that is expected."""
    lines = output.splitlines()
    fails = [line for line in lines if line.startswith("FAIL")]
    passes = [line for line in lines if line.startswith("PASS") and nonce in line]
    if status == 0 and not fails and passes == [f"PASS checks={checks} nonce={nonce}"]:
        return
    if fails:
        more = [f"... and {len(fails) - SHOWN_LINES} more FAIL lines"] if len(fails) > SHOWN_LINES else []
        raise CheckFailed(
            "\n".join([f"simulate: {what}: FAIL", *fails[:SHOWN_LINES], *more, *fails[SHOWN_LINES:][-1:]])
        )
    if passes:
        raise CheckFailed(
            f"simulate: {what}: '{passes[0]}' with exit status {status}; needs one PASS of {checks} checks"
        )
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    raise CheckFailed(
        f"simulate: {what}: ended without a verdict (exit status {status}, last line: {last}); "
        "only the bench's PASS with this run's nonce counts"
    )
