"""A fault: on which set, which words come back, and which names an engineer would accept for it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.judges.faults.machine import Machine
from tests.judges.faults.sets import Set
from tests.judges.notation import Ints, Json

KINDS = ("listed", "variant", "physical", "unknown", "constant")


@dataclass(frozen=True)
class Case:
    """`accept`: patterns of `name (detail)`; where there are several, any of them says it.

    None: nothing has a right name, so that only "unexplained" is right. `element`: patterns that all must stand there,
    beside one of `accept`, for the place to be named."""

    name: str
    on: str
    tensor: str
    words: Callable[[Set], Ints]  # [file, word, lane]
    accept: tuple[str, ...] | None
    element: tuple[str, ...] = ()
    kind: str = ""
    part: slice | None = None  # the file holds only these words of the memory
    whole: Machine | None = None  # every result of a run comes back; `tensor` is the first that is wrong

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.on}{self.tensor and '.'}{self.tensor}/{self.name}"

    def of(self, kind: str) -> "Case":
        return replace(self, kind=kind)


def elsewhere(found: Set) -> Ints:
    """Of faults whose words a simulator gives."""
    raise NotImplementedError


Cases = Iterator[Case]


def machine(name: str, on: str, tensor: str, accept: str | None, element: str = "", **parts: Any) -> Case:
    """What a machine with those wrong parts writes; patterns are split at ` | `, those of the element at ` & `."""

    def words(found: Set) -> Ints:
        return found.words(tensor, Machine(**parts).run(found.layer)[tensor])

    return written(name, on, tensor, accept, words, element)


def written(
    name: str, on: str, tensor: str, accept: str | None, words: Callable[[Set], Ints], element: str = ""
) -> Case:
    patterns = None if accept is None else tuple(accept.split(" | "))
    return Case(name, on, tensor, words, patterns, tuple(element.split(" & ")) if element else ())


# ---- what the command said ------------------------------------------------------------------------------------------


def said(cause: Json) -> str:
    return f"{cause['name']} ({cause['detail']})"


def texts(found: Json) -> list[str]:
    """What stands for the cause named first: itself, those that predict the same words, and what was solved for."""
    causes = found["causes"]
    alike = [name for cause in causes[:1] for name in cause["alike"]]
    first = causes[:1] + [cause for cause in causes[1:] if cause["name"] in alike]
    return [*(said(cause) for cause in first), *alike, *(str(line) for line in found["solved"])]


def accepted(case: Case, found: Json) -> bool:
    """The cause named first is right; for what has no name: none is said to explain it."""
    if case.whole and found.get("memory") != case.tensor:
        return False
    if case.accept is None:
        return str(found["certainty"]) == "unexplained"
    if found["certainty"] == "crashed" or (found["certainty"] == "unexplained" and not found["solved"]):
        return False
    return any(re.search(pattern, text) for pattern in case.accept for text in texts(found))


def element_named(case: Case, found: Json) -> bool:
    whole = " ; ".join([*texts(found), *found["findings"]])
    return accepted(case, found) and all(re.search(pattern, whole) for pattern in case.element)


def wrongly_explained(case: Case, found: Json) -> bool:
    """A cause is said to explain the results, and it is not the one, or at another place."""
    right = element_named(case, found) if case.element else accepted(case, found)
    return bool(found["explained"]) and not right
