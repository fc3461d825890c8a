"""What a capture of every layer costs its user, framework by framework: the table of docs/your-network.md.

The line below is run as it stands for each layer of the networks in tests/frontends/zoo.py. Needs Brevitas; a minute.
"""

import warnings
from pathlib import Path

import torch

from qexport.core.golden import Golden
from qexport.core.reference import Scan
from qexport.frontends.torch_module.capture import capture_all
from tests.frontends import zoo

PAGE = Path(__file__).parent.parent / "docs/your-network.md"
BEGIN, END = "<!-- begin:frameworks -->\n", "<!-- end:frameworks -->"
LINE = """captured = qx.capture(model, name, inputs)"""


def row(title: str, model: torch.nn.Module, inputs: torch.Tensor) -> str:
    names = [one.capture.layer.name for one in capture_all(model, inputs)]  # an AttributeError where one is refused
    compared = ties = with_codes = 0
    for name in names:
        scope = {"model": model, "name": name, "inputs": inputs}
        exec(f"import qexport as qx\n{LINE}", scope)
        golden = Golden(scope["captured"])
        scan = Scan(golden.facts)
        scan.add(golden)
        codes = scan.check().codes  # CheckFailed where the sums or codes are not the framework's
        if codes is not None:
            with_codes, compared, ties = with_codes + 1, compared + codes.compared, ties + codes.ties
    lines = len(LINE.splitlines())
    return f"| {title} | {len(names)} of {len(names)} | {lines} | {with_codes} | {compared:,} | {ties} |"


def main() -> None:
    rows = [
        "| network | layers captured, sums exact | lines of yours for a layer | layers with output codes | "
        "codes compared with the framework's | of them ties |",
        "|---|---|---|---|---|---|",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows += [row(title, *make()) for title, make in (zoo.BREVITAS | zoo.OTHERS).items()]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
