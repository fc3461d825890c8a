"""Put real output into the README between its markers; with --check only say whether it is up to date (exit 1)."""

import subprocess
import sys
from pathlib import Path

import click

from qexport.cli import main as program
from qexport.manifest import read_manifest

ROOT = Path(__file__).parent.parent
SET = Path("vectors/features_33")
WIDTH = 34


def files() -> str:
    manifest = read_manifest(ROOT / SET)
    tensors = {file.path: f"`{m.tensor}`: `{m.order}`" for m in manifest.memories for file in m.files}
    others = {
        "capture.safetensors": "the codes and PyTorch's output",
        "manifest.json": "what every file holds",
        "SHA256SUMS": "hashes of all other files",
        "params.vh": "sizes, for Verilog",
        "features_33_pkg.sv": "the same as a SystemVerilog package",
        "tb_features_33.sv": "the self-checking bench",
        "dut.sv": "a behavioural design, to be replaced by yours",
        "files.f": "sources in compile order",
        "Makefile": "`make -C vectors/features_33 sim`, Icarus alone",
    }
    rows = ["| file | what it holds | first line |", "|---|---|---|"]
    for name in [*tensors, *others]:
        data = (ROOT / SET / name).read_bytes()
        line = "(binary)" if name.endswith(".safetensors") else data.split(b"\n")[0].decode()
        short = line if len(line) <= WIDTH else line[:WIDTH] + "..."
        rows.append(f"| `{name}` | {(tensors | others)[name].replace('|', chr(92) + '|')} | `{short}` |")
    return "\n".join(rows)


def output(*arguments: str) -> str:
    command = [sys.executable, "-c", "from qexport.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


def show() -> str:
    return f"```\n$ qexport show {SET} weight.hex:5\n{output('show', str(SET), 'weight.hex:5')}\n```"


def verdict() -> str:
    return f"```\n{output('simulate', str(SET), '--simulator', 'verilator')}\n```"


def commands() -> str:
    rows = ["| command | what it does |", "|---|---|"]

    def add(prefix: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name in sorted(command.commands):
                add(f"{prefix} {name}", command.commands[name])
        else:
            rows.append(f"| `{prefix}` | {command.get_short_help_str(120)} |")

    add("qexport", program)
    return "\n".join(rows)


def main() -> None:
    path = ROOT / "README.md"
    old = new = path.read_text(encoding="utf-8")
    for make in (verdict, files, show, commands):
        begin, end = f"<!-- begin:{make.__name__} -->\n", f"<!-- end:{make.__name__} -->"
        before, _, rest = new.partition(begin)
        new = before + begin + make() + "\n" + end + rest.partition(end)[2]
    if "--check" in sys.argv[1:]:
        sys.exit("README.md is not up to date; run scripts/update_readme.py" if new != old else 0)
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
