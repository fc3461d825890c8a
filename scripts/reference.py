"""The reference pages that follow from the code: commands from click, schemas from the structs, Python from signatures.

Each page is a function that returns its whole text; scripts/update_docs.py writes and compares them.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

import qexport
from qexport.cli import main as program
from qexport.core.capture import _Metadata as Capture
from qexport.core.network_file import _Document as Network
from qexport.runs.plan import Plan
from qexport.sets.graph import Graph
from qexport.sets.index import Index
from qexport.sets.manifest import Manifest
from qexport.sim.record import Record

NOTE = "<!-- Written by scripts/update_docs.py from the code. Change the code, then run it. -->\n"
SCHEMAS: dict[str, tuple[type[Any], str]] = {
    "manifest": (Manifest, "`manifest.json` of a set: [what a set holds](vectors.md#manifestjson)"),
    "index": (Index, "`index.json` beside the sets of `dump --all`"),
    "graph": (Graph, "`graph.json` beside the sets of a [network](../how-to/network.md)"),
    "capture": (Capture, "the entry `qexport` in the metadata of a [capture](vectors.md#capturesafetensors)"),
    "network": (Network, "the entry `qexport` in the metadata of a [network file](../how-to/network.md#the-file)"),
    "verdict": (Record, "the [record of a verdict](verdict.md#the-record)"),
    "plan": (Plan, "the TOML file of [`regress`](../how-to/runs.md#the-plan)"),
}


def cell(text: str) -> str:
    """Words in a table; what looks like HTML or a column stays what it is."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def every_command(prefix: str = "qexport", command: click.Command = program) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with its whole name."""
    if not isinstance(command, click.Group):
        yield prefix, command
        return
    for name in sorted(command.commands):
        yield from every_command(f"{prefix} {name}", command.commands[name])


def commands() -> str:
    """Every command with its examples, arguments and options."""
    head = (
        "# Commands\n\n" + NOTE + "\nAs `qexport COMMAND --help` says it. `qexport --version` prints the version. "
        "[Exit codes](program.md#exit-codes) are the same for all.\n"
    )
    return head + "".join(_command(name, command) for name, command in every_command())


def _command(name: str, command: click.Command) -> str:
    words, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    context = click.Context(command, info_name=name)
    text = f"\n## {name}\n\n{words.strip()}\n"
    if lines := [line.strip() for line in examples.splitlines() if line.strip()]:
        text += "\n```sh\n" + "\n".join(lines) + "\n```\n"
    arguments = [part.make_metavar(context) for part in command.params if isinstance(part, click.Argument)]
    text += f"\n`{' '.join([name, *(['[OPTIONS]'] if len(command.params) > len(arguments) else []), *arguments])}`\n"
    options = [part for part in command.params if isinstance(part, click.Option) and not part.hidden]
    if options:
        text += "\n| option | what it says |\n|---|---|\n"
        text += "".join(f"| {_names(option, context)} | {cell(_said(option, context))} |\n" for option in options)
    return text


def _names(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag or option.count else " " + option.make_metavar(context)
    names = ", ".join(f"`{name}{value}`" for name in [*option.opts, *option.secondary_opts])
    return names.replace("|", "\\|")


def _said(option: click.Option, context: click.Context) -> str:
    """The help of an option with what click adds: default, range, whether it must be given."""
    record = option.get_help_record(context)
    said = record[1] if record else ""
    return said + (" May be given again." if option.multiple and "again" not in said else "")


def schema(name: str) -> str:
    """A JSON schema of one of the documents."""
    made = msgspec.json.schema(SCHEMAS[name][0])
    for part in made["$defs"].values():
        if "description" in part:  # a docstring, which msgspec before 0.23 does not dedent
            part["description"] = inspect.cleandoc(part["description"])
    text = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=1, sort_keys=True)
    return re.sub(r"_(Document|Metadata|Layer)\b", r"\1", text) + "\n"


def schemas() -> str:
    """The documents, and the fields of every struct of the manifest."""
    text = f"# Schemas of the JSON files\n\n{NOTE}\n"
    text += (
        "JSON schemas, made of the structs that read and write these documents. Keys that begin with `x-` are yours in "
        "manifests and captures: they are taken out before the schema counts. What a schema cannot say, such as sizes "
        "that must agree, is checked besides.\n\n| schema | of |\n|---|---|\n"
    )
    text += "".join(f"| [{name}.json](schemas/{name}.json) | {of} |\n" for name, (_, of) in SCHEMAS.items())
    text += "\n## The manifest, field by field\n\n[What a set holds](vectors.md#manifestjson) says what they mean.\n"
    definitions = msgspec.json.schema(Manifest)["$defs"]
    for name, facts in definitions.items():
        text += f"\n### {name}\n\n| field | type | without it |\n|---|---|---|\n"
        for field, of in facts["properties"].items():
            default = f"`{cell(json.dumps(of['default']))}`" if "default" in of else "-"
            default = "must be given" if field in facts.get("required", ()) else default
            text += f"| `{field}` | {_type(of)} | {default} |\n"
    return text


def _type(of: dict[str, Any]) -> str:
    """A schema of a field in a few words."""
    if "$ref" in of:
        name = of["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(_type(one) for one in of["anyOf"]))
    if "enum" in of:
        return " or ".join(f"`{json.dumps(value)}`" for value in of["enum"])
    if "const" in of:
        return f"`{json.dumps(of['const'])}`"
    kind = of.get("type", "any")
    if kind == "array":
        items = of.get("prefixItems") or ([of["items"]] if isinstance(of.get("items"), dict) else [])
        return "list of " + ", ".join(dict.fromkeys(map(_type, items))) if items else "list"
    if kind == "object" and isinstance(of.get("additionalProperties"), dict):
        return f"object of {_type(of['additionalProperties'])}"
    least, most = of.get("minimum", of.get("exclusiveMinimum", "")), of.get("maximum", of.get("exclusiveMaximum", ""))
    return kind if least == most == "" else f"{kind} ({least}..{most})"


def api() -> str:
    """Signatures and docstrings of the public names."""
    text = f"# Python, name by name\n\n{NOTE}\n[From Python](python.md) shows them at work. "
    text += "Errors are `qexport.errors.QexportError` and `CheckFailed`.\n"
    for name in qexport.__all__:
        found = getattr(qexport, name)
        text += f"\n## {name}\n\n{_documented(name, found)}"
        if inspect.isclass(found):
            for part, value in vars(found).items():
                if not part.startswith("_") or part == "__getitem__":
                    text += _member(name, part, value)
    return text


def _member(owner: str, name: str, value: object) -> str:
    if inspect.isfunction(value):
        return f"\n### {owner}.{name}\n\n{_documented(name, value)}"
    if isinstance(value, property) or hasattr(value, "func"):
        words = inspect.getdoc(value) or ""
        return f"\n### {owner}.{name}\n\n{_quoted(words)}" if words else ""
    return ""


def _documented(name: str, found: Callable[..., Any]) -> str:
    shown = f"class {name}" if inspect.isclass(found) else _signature(name, found)
    return f"```text\n{shown}\n```\n\n{_quoted(inspect.getdoc(found) or '')}"


def _signature(name: str, found: Callable[..., Any]) -> str:
    """The signature as the source has it, the same on every Python; a parameter a line where it is long."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    assert isinstance(function, ast.FunctionDef)
    inside = ast.unparse(function.args).removeprefix("self, ").removeprefix("self")
    inside = re.sub(r": '?([^:=]+?)'?=", r": \1 = ", inside)
    result = f" -> {ast.unparse(function.returns)}".replace("'", "") if function.returns else ""
    if len(name + inside + result) <= 100:
        return f"{name}({inside}){result}"
    parts = re.split(r", (?![^\[(]*[\])])", inside)
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _quoted(words: str) -> str:
    return f"{words.replace('<', '&lt;').strip()}\n" if words else ""


WHOLE: dict[str, Callable[[], str]] = {
    "docs/reference/commands.md": commands,
    "docs/reference/schemas.md": schemas,
    "docs/reference/api.md": api,
    **{f"docs/reference/schemas/{name}.json": (lambda name=name: schema(name)) for name in SCHEMAS},
}
