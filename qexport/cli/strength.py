"""Count exactly which single-bit errors a set can notice."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from qexport.build.blind_spots import Stored, blind_spots
from qexport.cli.common.options import folder_argument, json_option
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_pairs, print_table
from qexport.core.operations.registry import AXES
from qexport.core.strength import COUNTED, compared, measure, percent, strength_text
from qexport.errors import CheckFailed
from qexport.layout.order import TILE_AXIS
from qexport.layout.paths import MANIFEST
from qexport.layout.tiling import describe_index
from qexport.sets.folder import find_sets
from qexport.sets.manifest import capture_of, read_manifest

_SHOWN_PLACES = 4


@click.command(name="strength")
@folder_argument
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Count exactly which single-bit errors a set can notice.

    Errors are those of weight and input codes. In a folder of sets, for every one.

    \b
    qexport strength vectors/features_33
    """
    results = [_strength_of(path) for path in find_sets(folder)]

    def show() -> None:
        for number, result in enumerate(results):
            if number:
                say()
            _show_strength(result)

    if as_json:  # lists are long and slow: a wide layer has a million weights
        for result in results:
            result["unexercised"] = {stage: places.tolist() for stage, places in result["unexercised"].items()}
    emit(as_json, {"sets": results}, show)


def _strength_of(path: Path) -> dict[str, Any]:
    """The strength of a set from its capture; raises CheckFailed when the capture was changed."""
    manifest = read_manifest(path)
    capture = capture_of(path, manifest)
    strength = measure(capture)
    info = strength.info
    if info != manifest.strength:
        raise CheckFailed(f"{path / MANIFEST}: strength is not what the capture gives; dump the set again")
    stored = [Stored(m.name, m.tensor, m.tiling(manifest.array)) for m in manifest.memories]
    return {
        "set": str(path),
        "layer": manifest.layer.name,
        "layout": manifest.layout.name,
        "images": capture.images,
        "compared": list(compared(manifest.memories)),
        "summary": strength_text(info, manifest.memories),
        "flips": msgspec.to_builtins(info),
        "unexercised": {stage: strength.unexercised(stage) for stage in COUNTED[1:]},
        "dead_inputs": strength.dead_inputs,
        "dead_outputs": strength.dead_outputs,
        "blind_spots": [str(spot) for spot in blind_spots(capture, stored, manifest.array.get(TILE_AXIS))],
    }


def _first(places: Sequence[Any], text: Callable[[Any], str]) -> str:
    """'none', or the number and the first few."""
    if not len(places):
        return "none"
    more = ", ..." if len(places) > _SHOWN_PLACES else ""
    return f"{len(places)}: {', '.join(text(place) for place in places[:_SHOWN_PLACES])}{more}"


def _show_strength(result: Mapping[str, Any]) -> None:
    print_pairs([
        ("set", f"{result['set']}, layer {result['layer']}, layout '{result['layout']}', {result['images']} image(s)"),
        ("strength", result["summary"]),
    ])  # fmt: skip
    say()
    table = make_table("errors of", "single bits", *(f"show in {stage}" for stage in COUNTED))
    for kind, counts in result["flips"].items():
        total = counts["flips"]
        shares = [f"{counts[stage]} ({percent(counts[stage], total)})" if stage in counts else "-" for stage in COUNTED]
        table.add_row(f"{kind} codes", str(total), *shares)
    print_table(table)
    say()
    rows = [
        (
            f"weights unexercised in {stage}",
            _first(places, lambda place: describe_index(dict(zip(AXES["weight"], place, strict=True)))),
        )
        for stage, places in result["unexercised"].items()
        if "weight" in result["flips"]
    ]
    if "weight" in result["flips"]:
        rows.append(("input channels always 0", _first(result["dead_inputs"], "ic={}".format)))
        rows.append(("output channels never above 0", _first(result["dead_outputs"], "oc={}".format)))
    print_pairs(rows)
    for spot in result["blind_spots"]:
        say(f"blind spot: {spot}")
