"""Say how one output value comes about, term by term."""

import re
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from qexport.cli.common.options import folder_argument, json_option
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_table
from qexport.findings.explain import Explanation, explain, steps_csv
from qexport.layout.tiling import describe_index
from qexport.sets.folder import find_sets


def _read_output_index(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    parts = value.split(",")
    if len(parts) not in (3, 4) or not all(re.fullmatch(r" *[0-9]{1,9} *", part) for part in parts):
        raise click.BadParameter(f"'{value}' is not IMAGE,OC,Y,X, such as 0,5,2,3, or IMAGE,M,P", ctx, param)
    return tuple(int(part) for part in parts)


@click.command(name="explain")
@folder_argument
@click.option(
    "--at",
    required=True,
    metavar="IMAGE,OC,Y,X",
    callback=_read_output_index,
    help="Image, output channel, position; of a matrix product image, m and p.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the terms as CSV.")
@json_option
def command(folder: Path, at: tuple[int, ...], as_csv: bool, as_json: bool) -> None:
    """Say how one output value comes about, term by term.

    Terms stand in the order of the array, with each operand's place.
    Places are FILE:LINE:LANE. In a folder of sets, for every set.

    \b
    qexport explain vectors/features_33 --at 0,5,2,3
    qexport explain vectors/features_33 --at 0,5,2,3 --csv
    """
    if as_csv and as_json:
        raise click.UsageError("give either --csv or --json")
    found = [explain(path, *at) for path in find_sets(folder)]
    if as_csv:
        click.echo(steps_csv(found), nl=False)
        return

    def show() -> None:
        for one in found:
            _show_explanation(one)

    emit(as_json, {"values": [one.as_json() for one in found]}, show)


def _show_explanation(one: Explanation) -> None:
    column = "" if one.column is None else f", {describe_index(one.column)} of the array"
    say(f"{click.style(one.set, bold=True)}: layer {one.layer}, {describe_index(one.at)}{column}")
    terms = [step for step in one.steps if step.kind == "term"]
    names = list(dict.fromkeys(name for step in terms for name, _, _ in step.factors))
    tap = [name for name in ("it", "kh", "kw", "row", "ic", "k", "mul") if getattr(terms[0], name) is not None]
    numbers = (*tap, *names, "product", "sum")
    table = make_table(*numbers, *(f"{name} at" for name in names), "")
    ending = make_table("value", "computed", "stored", "at")
    for step in one.steps:
        if step.kind == "term":
            codes = {name: code for name, code, _ in step.factors}
            places = {name: found for name, _, found in step.factors}
            cells = [*(getattr(step, name) for name in tap), *(codes.get(name, "") for name in names)]
            at = [_places(places.get(name, ())) for name in names]
            table.add_row(*map(str, cells), str(step.value), str(step.sum), *at, "padding" if step.padding else "")
        elif step.kind == "psum":
            taps, sums = map(str, (step.it, step.kh, step.kw)), map(str, (step.value, step.sum))
            table.add_row(*taps, "", "", "", "psum", *sums, _places(step.at), style="bold")
        else:
            held = [(str(stored.value), stored.at) for stored in one.stored if stored.tensor == step.kind]
            for value, place in held or [("-", _places(step.at))]:
                ending.add_row(step.kind, str(step.value), value, escape(place))
    for column_ in (*table.columns[: len(numbers)], *ending.columns[1:3]):
        column_.justify = "right"
    print_table(table)
    say()
    print_table(ending)


def _places(places: Sequence[str]) -> str:
    """The first, and how many more there are."""
    more = f" and {len(places) - 1} more bits" if len(places) > 1 else ""
    return escape(places[0]) + more if places else "-"
