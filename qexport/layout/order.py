"""The layout notation: how tensors become memory files. Lane order is decided here, once.

A memory's `order` reads `TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES`, a thin reading of einops patterns.
Between the two may stand stages, each after an arrow of its own: the axes so far, joined and split again.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import chain

from qexport.core.budget import AXES as MOST_AXES
from qexport.core.budget import SIZE
from qexport.core.operations.registry import AXES_BY_KIND

BIT_AXIS = "bit"
IMAGE_AXIS = "n"
TILE_AXIS = "row"  # its size is that of psum's tiles too, whether an order names it or not
_PARAMETERS = (("oc",), ("p",), ("oc", "level"), ("p", "level"), ("level",))  # axes of the tensors that steps read


class OrderFault(Exception):
    """An error inside one value of a layout: its message and the offset of the culprit in the value."""

    def __init__(self, message: str, offset: int = 0):
        super().__init__(message)
        self.offset = offset


# --- the order ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(->|[()|~:=+]|[A-Za-z_]\w*|\d+|\S)", re.ASCII)


@dataclass(frozen=True)
class Split:
    """Axes joined in the order of writing, then split into named axes (the last runs fastest).

    Each tile of the last name also holds so many neighbours `before` and `after` it; beyond the edge stands the fill.
    """

    joined: tuple[str, ...]
    names: tuple[str, ...]
    before: int = 0
    after: int = 0

    @property
    def overlaps(self) -> bool:
        return self.before + self.after > 0


@dataclass(frozen=True)
class Item:
    """One entry right of the last arrow: an axis, or a join of axes under a name; run backwards when `reverse`."""

    name: str
    parts: tuple[str, ...]
    reverse: bool = False


@dataclass(frozen=True)
class Order:
    """A parsed order. `tensor_axes` are the tensor's own before splitting, with `bit` when it is used.

    The first of `stages` splits the tensor's axes, each further one what the stage before gave. `repeats` are axes
    right of the arrow that no stage has: each element stands there as often as [array] says. The words of each index
    along the lane axis `skew`, where it is one, are delayed by so many times `skew_by`.
    """

    text: str
    tensor_axes: tuple[str, ...]
    stages: tuple[tuple[Split, ...], ...]
    files: tuple[Item, ...]
    addresses: tuple[Item, ...]
    lanes: tuple[Item, ...]
    repeats: tuple[str, ...] = ()
    skew: str = ""
    skew_by: int = 1

    @property
    def has_copies(self) -> bool:
        """Whether a tensor element may be stored more than once."""
        return bool(self.repeats) or any(split.overlaps for split in self.splits)

    def skewed(self, axis: str, by: int) -> "Order":
        """The order with a skew; raises OrderFault where it cannot have one."""
        lanes = [part for item in self.lanes for part in item.parts]
        if axis not in lanes:
            raise OrderFault(f"'{axis}' is not a lane axis of the order; choose one of {', '.join(lanes) or 'those'}")
        if not self.addresses:
            raise OrderFault("the order has no address axis along which words could be delayed")
        return replace(self, skew=axis, skew_by=by)

    @property
    def has_bits(self) -> bool:
        return self.tensor_axes[-1] == BIT_AXIS

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits of all stages."""
        return tuple(chain.from_iterable(self.stages))

    @property
    def right(self) -> tuple[Item, ...]:
        return self.files + self.addresses + self.lanes

    @property
    def image_axis(self) -> Item | None:
        """`n`, where it is never split or joined and is the first file axis (the files of an image follow those of
        another) or the first address axis (in each file, its words do), and no skew runs along it; it may run
        backwards.
        """
        first = [group[0] for group in (self.files, self.addresses) if group]
        found = next((item for item in first if (item.name, item.parts) == (IMAGE_AXIS, (IMAGE_AXIS,))), None)
        return None if self.skew and self.addresses[-1] == found else found

    @property
    def streams_images(self) -> bool:
        """Whether the tiles of several images are those of each image, one after the other."""
        return self.image_axis is not None and not self.image_axis.reverse


class _Tokens:
    """The order's tokens with their offsets; an end token closes the list."""

    def __init__(self, text: str):
        self.items = [(m.group(1), m.start(1)) for m in _TOKEN.finditer(text)]
        self.items.append(("", len(text)))
        self.at = 0

    @property
    def token(self) -> str:
        return self.items[self.at][0]

    @property
    def offset(self) -> int:
        return self.items[self.at][1]

    def take(self) -> tuple[str, int]:
        item = self.items[self.at]
        self.at += 1
        return item

    def skip(self, token: str) -> bool:
        if self.token != token:
            return False
        self.at += 1
        return True

    def name(self) -> tuple[str, int]:
        if not (self.token[:1].isalpha() or self.token[:1] == "_"):
            raise OrderFault(f"expected an axis name, found {self.described()}", self.offset)
        return self.take()

    def names(self) -> list[tuple[str, int]]:
        """The names up to a closing parenthesis, at least one; the opening one is already taken."""
        names = [self.name()]
        while not self.skip(")"):
            if self.token == "":
                raise OrderFault("parenthesis is not closed", self.offset)
            names.append(self.name())
        return names

    def number(self) -> int:
        """The neighbours of a tile."""
        text, offset = self.take()
        if not text.isdigit() or not 0 < int(text[:9]) <= SIZE:
            raise OrderFault(f"'{text}' neighbours; give a number from 1 to {SIZE}", offset)
        return int(text)

    def parts(self) -> tuple[list[tuple[str, int]], int, int]:
        """The names of a split up to the closing parenthesis, and the neighbours `1+name+2` of the last one."""
        names: list[tuple[str, int]] = []
        before = after = 0
        while not names or not self.skip(")"):
            if self.token == "":
                raise OrderFault("parenthesis is not closed", self.offset)
            if before or after:
                raise OrderFault("only the tiles of a split's last name have neighbours", self.offset)
            if self.token.isdigit():
                before = self.number()
                if not self.skip("+"):
                    raise OrderFault(f"expected '+' after {before}, found {self.described()}", self.offset)
            names.append(self.name())
            if self.skip("+"):
                after = self.number()
        return names, before, after

    def described(self) -> str:
        return f"'{self.token}'" if self.token else "the end"


def _given(axes: tuple[str, ...]) -> str:
    return f"left of the arrow stand {' '.join(axes)}"


def _tensor_axes(
    tensor: str, axes: tuple[str, ...]
) -> tuple[Callable[[str | None, int], str], Callable[[], str | None]]:
    """How the first stage takes the tensor's axes, in their order, `bit` being optional; and which one is missing."""
    taken: list[str] = []

    def take(name: str | None, offset: int) -> str:
        if name is None:
            if len(taken) >= len(axes):
                raise OrderFault(f"tensor '{tensor}' has no axis left to split; it has {' '.join(axes)}", offset)
            name = axes[len(taken)]
        expected = (*axes, BIT_AXIS, None)[len(taken)]
        if name != expected:
            what = f"axis {len(taken) + 1} is '{expected}'" if expected else "no further axis"
            raise OrderFault(f"axis '{name}': tensor '{tensor}' has axes {' '.join(axes)} [bit]; here {what}", offset)
        taken.append(name)
        return name

    return take, lambda: axes[len(taken)] if len(taken) < len(axes) else None


def _any_axes(tensor: str, known: set[str]) -> tuple[Callable[[str | None, int], str], Callable[[], str | None]]:
    """The same for a tensor whose axes only a layer can tell: they are those that are written."""
    taken: list[str] = []

    def take(name: str | None, offset: int) -> str:
        name = f"axis{len(taken) + 1}" if name is None else name
        if BIT_AXIS in taken:
            raise OrderFault(f"axis '{name}': nothing stands behind '{BIT_AXIS}'", offset)
        if name in taken or (name in known and name != BIT_AXIS):
            raise OrderFault(f"axis '{name}' is there already; tensor '{tensor}' has each axis once", offset)
        taken.append(name)
        known.add(name)
        return name

    return take, lambda: None if taken else "n"


def _axes_before(axes: tuple[str, ...]) -> tuple[Callable[[str | None, int], str], Callable[[], str | None]]:
    """How a further stage takes the axes of the stage before, in any order; and which one is missing."""
    left = list(axes)

    def take(name: str | None, offset: int) -> str:
        if name is None:
            raise OrderFault("after the first arrow a split names what it splits: (axes)=(parts)", offset)
        if name not in axes:
            raise OrderFault(f"axis '{name}' is unknown; {_given(axes)}", offset)
        if name not in left:
            raise OrderFault(f"axis '{name}' is repeated in this stage", offset)
        left.remove(name)
        return name

    return take, lambda: left[0] if left else None


def _read_stage(
    tokens: _Tokens, take: Callable[[str | None, int], str], missing: Callable[[], str | None], known: set[str]
) -> tuple[Split, ...]:
    """The splits up to the next arrow; the names that they introduce go into `known`."""
    splits: list[Split] = []
    while tokens.token != "->":
        if tokens.token in ("|", "~", ":"):
            raise OrderFault(f"'{tokens.token}' stands right of the last arrow only", tokens.offset)
        if not tokens.skip("("):
            name, offset = tokens.name()
            splits.append(Split((take(name, offset),), (name,)))
            continue
        names, before, after = tokens.parts()
        if tokens.skip("="):
            if before or after:
                raise OrderFault("neighbours stand right of the '='", tokens.offset)
            joined = tuple(take(name, offset) for name, offset in names)
            if not tokens.skip("("):
                raise OrderFault(f"expected '(' after '=', found {tokens.described()}", tokens.offset)
            names, before, after = tokens.parts()
        else:
            joined = (take(None, names[0][1]),)
        for name, offset in names:
            if name in known:
                raise OrderFault(f"axis '{name}' is there already; give the parts of a split new names", offset)
            known.add(name)
        splits.append(Split(joined, tuple(name for name, _ in names), before, after))
    if (axis := missing()) is not None:
        raise OrderFault(f"axis '{axis}' is missing left of the arrow", tokens.offset)
    if (count := sum(len(split.names) for split in splits)) > MOST_AXES:
        raise OrderFault(f"{count} axes at once are more than {MOST_AXES}; join some", tokens.offset)
    tokens.take()
    return tuple(splits)


def _read_groups(
    tokens: _Tokens, axes: tuple[str, ...], known: set[str], sized: Collection[str] | None
) -> tuple[list[tuple[Item, ...]], tuple[str, ...]]:
    """The file, address and lane axes, which are `axes` in another order; a join takes none of the `known` names.

    Also those among them that no stage has, which repeat elements: all that [array] has `sized`, None: any.
    """
    groups: list[list[Item]] = [[]]
    used: set[str] = set()
    repeats: list[str] = []
    while tokens.token:
        bar = tokens.offset
        if tokens.skip("|"):
            groups.append([])
            if len(groups) > 3:
                raise OrderFault("more than three groups right of the arrow; needs FILE | ADDRESS | LANE", bar)
            continue
        tilde = tokens.offset
        reverse = tokens.skip("~")
        if reverse and len(groups) == 1:
            raise OrderFault("'~' runs an address or lane axis backwards; a file axis has no direction", tilde)
        at = tokens.offset
        if tokens.skip("("):
            if len(groups) == 1:
                raise OrderFault("a join of file axes needs a name: NAME:(...)", at)
            parts = tokens.names()
            name = f"({' '.join(part for part, _ in parts)})"
        else:
            name, offset = tokens.name()
            parts = [(name, offset)]
            if tokens.skip(":"):
                if name in known or name in used:
                    raise OrderFault(f"join '{name}' has the name of an axis; choose another", offset)
                if not tokens.skip("("):
                    raise OrderFault(f"expected '(' after '{name}:', found {tokens.described()}", tokens.offset)
                parts = tokens.names()
                if any(item.name == name for group in groups for item in group):
                    raise OrderFault(f"join '{name}' is repeated", offset)
        for part, at in parts:
            if part in used:
                raise OrderFault(f"axis '{part}' is repeated right of the arrow", at)
            if part not in axes:
                if part in known or (sized is not None and part not in sized):
                    raise OrderFault(f"axis '{part}' is unknown; {_given(axes)}", at)
                if any(part == item.name for group in groups for item in group):
                    raise OrderFault(f"axis '{part}' has the name of a join; choose another", at)
                repeats.append(part)
            used.add(part)
        groups[-1].append(Item(name, tuple(part for part, _ in parts), reverse))
    if len(groups) != 3:
        message = f"{len(groups)} group(s) right of the arrow; needs three: FILE | ADDRESS | LANE"
        raise OrderFault(message, tokens.offset)
    for axis in axes:
        if axis not in used:
            raise OrderFault(f"axis '{axis}' is missing right of the arrow", tokens.offset)
    return [tuple(group) for group in groups], tuple(repeats)


def parse_order(
    text: str, tensor: str, axes: tuple[str, ...] | None = None, sized: Collection[str] | None = None
) -> Order:
    """Parse the order of a memory that holds `tensor`; raises OrderFault with the offset of the culprit.

    `axes`: the tensor's in the layer at hand. Without them they are those of the first operation that has the tensor
    with such axes. A name that no operation has is that of a step or of its parameter; any axes may be its own.
    `sized`: the names that [array] has, where they are known.
    """
    steps = (*AXES_BY_KIND["accumulator"], *_PARAMETERS)
    faults: list[OrderFault] = []
    for choice in (axes,) if axes else AXES_BY_KIND.get(tensor, steps):
        try:
            return _parse(text, tensor, choice, sized)
        except OrderFault as fault:
            faults.append(fault)
    if axes is None and tensor not in AXES_BY_KIND:
        return _parse(text, tensor, None, sized)
    raise max(faults, key=lambda fault: fault.offset)  # of the axes that the order comes nearest to


def _parse(text: str, tensor: str, tensor_axes: tuple[str, ...] | None, sized: Collection[str] | None) -> Order:
    tokens = _Tokens(text)
    arrows = sum(token == "->" for token, _ in tokens.items)
    if not arrows:
        message = "no arrow; an order reads TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES"
        raise OrderFault(message, len(text.rstrip()))
    known = {*(tensor_axes or ()), BIT_AXIS}
    taking = _any_axes(tensor, known) if tensor_axes is None else _tensor_axes(tensor, tensor_axes)
    stages = [_read_stage(tokens, *taking, known)]

    def axes() -> tuple[str, ...]:
        return tuple(name for split in stages[-1] for name in split.names)

    while len(stages) < arrows:
        stages.append(_read_stage(tokens, *_axes_before(axes()), known))
    groups, repeats = _read_groups(tokens, axes(), known, sized)
    own = tuple(axis for split in stages[0] for axis in split.joined)
    files, addresses, lanes = groups
    return Order(" ".join(text.split()), own, tuple(stages), files, addresses, lanes, repeats)
