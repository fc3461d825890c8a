"""Changes of valid files: of bytes, of words and lines of a text, of values of a document."""

import copy
import random
import re
from typing import Any

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    65_536,
    1_000_003,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
)
TEXTS = (
    "", " ", "x", "0", "-1", "nan", "inf", "1e999", "../x", "/dev/zero", "a/b", "\ud800", "\0", "ü", "\n", "{", "{it}",
    "~", "|", "->", "(", ")", "[", "]", "'", '"', "`", "$(x)", "A" * 5000, "(" * 300, "features.33", "conv2d", "linear",
)  # fmt: skip
FLOATS = (0.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"))


def value(rng: random.Random) -> Any:
    """Something that nobody expects there."""
    plain: list[Any] = [None, True, False, rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), [], {}]
    chosen = rng.choice(plain)
    return rng.choice([chosen, chosen, chosen, [chosen] * rng.randrange(5), {"x": chosen}])


def document(rng: random.Random, whole: Any) -> Any:
    """A document of lists, tables and plain values with one or some of its values changed."""
    changed = copy.deepcopy(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(changed))
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        match rng.randrange(9):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 1:
                holder[rng.choice(TEXTS)] = holder[key]
            case 2 | 3 | 4 | 5 if isinstance(holder[key], int | float):
                holder[key] = _number(rng, holder[key])
            case 2 | 3 if isinstance(holder[key], str):
                holder[key] = text(rng, holder[key])
            case _:
                holder[key] = value(rng)
    return changed


def plausible(rng: random.Random, whole: Any) -> Any:
    """A document with one of its numbers changed, to one that may stand there."""
    changed = copy.deepcopy(whole)
    places = [(holder, key) for holder, key in _places(changed) if isinstance(holder[key], int | float)]
    if places:
        holder, key = rng.choice(places)
        number = holder[key]
        if isinstance(number, bool):
            holder[key] = not number
        elif isinstance(number, int):
            holder[key] = rng.choice(
                [number + 1, max(number - 1, 0), 2 * number, rng.randrange(9), rng.randrange(5000)]
            )
        else:
            holder[key] = number * rng.choice([0.5, 3, 1e-3, 1e-30, 1e30, 1e-300])
    return changed


def _number(rng: random.Random, number: float) -> float:
    near = [number + 1, number - 1, -number, 2 * number, rng.randrange(10)]
    return rng.choice([*near, rng.randrange(5000), rng.choice(NUMBERS)])


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in list(items):
        yield node, key
        yield from _places(item)


def text(rng: random.Random, whole: str) -> str:
    """A text with some of its words, numbers, signs and lines changed."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        match rng.randrange(8):
            case 0 | 1 | 2:
                words = list(re.finditer(r"\w+", whole))
                if words:
                    word = rng.choice(words)
                    new = rng.choice([rng.choice(words).group(), str(rng.choice(NUMBERS)), rng.choice(TEXTS)])
                    whole = whole[: word.start()] + new + whole[word.end() :]
            case 3 | 4:
                signs = list(re.finditer(r"[^\w\s]", whole))
                if signs:
                    sign = rng.choice(signs)
                    new = rng.choice([rng.choice(signs).group(), "", sign.group() * rng.choice((2, 50)), "\n"])
                    whole = whole[: sign.start()] + new + whole[sign.end() :]
            case 5 | 6:
                lines = whole.splitlines(keepends=True)
                if lines:
                    at = rng.randrange(len(lines))
                    lines[at] = rng.choice(["", lines[at] * 2, rng.choice(lines), lines[at].rstrip("\n")])
                    whole = "".join(lines)
            case _:
                at = rng.randrange(len(whole) + 1)
                whole = whole[:at] + rng.choice(TEXTS) + whole[at:]
    return whole


def data(rng: random.Random, whole: bytes) -> bytes:
    """Bytes with some of them changed, added, doubled or cut off."""
    changed = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 2, 8, 100, 5000)), len(changed) - at)
        match rng.randrange(7):
            case 0 | 1 | 2 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                changed[at : at + length] = rng.choice(
                    [rng.randbytes(length), b"\0" * length, b"\xff" * length, b"\r\n", b"9" * length]
                )
            case _ if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)
