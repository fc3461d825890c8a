"""The shipped network in integers against PyTorch's float64 pass, code for code, on CIFAR-10's test pictures.

`python -m scripts.network_proof --data cifar10/` takes all 10,000 and writes what it counts into how-to/network.md;
--images N takes the first N and writes nothing. With --state FILE an interrupted run goes on where it was. Exits with
1 where a code that enters a convolution differs, or an accumulator of features.51. A quarter of an hour on one core.
"""

import copy
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import msgspec
import numpy as np
import torch

from qexport.core.atomic import write_atomically
from qexport.core.network import IntegerNetwork
from qexport.core.network_run import BATCH, Engine, batches, decisions
from qexport.errors import QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import Pictures, normalise, open_split, read
from qexport.frontends.vgg.network import integer_network
from scripts.pages import fill_in

PAGE = Path(__file__).parent.parent / "docs/how-to/network.md"


class Counts(msgspec.Struct):
    """Of pictures: codes that were compared, those that differ; pictures that the integers and PyTorch classify
    rightly, and differently."""

    pictures: int = 0
    codes: int = 0
    wrong: int = 0
    right: int = 0
    framework_right: int = 0
    different: int = 0


def prove(
    network: checkpoint.Network, integers: IntegerNetwork, parts: Iterable[Pictures], before: Counts
) -> Iterator[Counts]:
    """The counts behind each part."""
    counts = copy.copy(before)
    model = copy.deepcopy(network.model).double().eval()
    engine = Engine(integers)
    (image,) = integers.inputs
    convolutions = model.quantized()
    seen: dict[int, torch.Tensor] = {}
    for index, conv in convolutions.items():
        conv.register_forward_pre_hook(lambda module, args, index=index: seen.__setitem__(index, args[0]))
    last = max(convolutions)  # whose accumulators are compared, too: those of features.51
    convolutions[last].register_forward_hook(lambda module, args, output: seen.__setitem__(-1, output))
    scale = integers.placed[f"features.{last}"].node.formats.accumulator_scales[0]
    for part in parts:
        with torch.no_grad():
            theirs = model(normalise(part.pixels, torch.float64)).argmax(1).numpy()
        held = {image.name: image.codes(part.pixels.numpy())}
        outputs = held | engine.run(held, list(integers.placed))
        pairs = [
            (conv.input_codes(seen[index]).numpy(), engine.operands(f"features.{index}", outputs)["input"])
            for index, conv in convolutions.items()
        ]
        pairs.append((np.rint(seen[-1].numpy() / scale), engine.sums(f"features.{last}", outputs)))
        ours, labels = decisions(outputs["classifier"]), part.labels.numpy()
        counts.pictures += len(labels)
        counts.codes += sum(real.size for real, _ in pairs)
        counts.wrong += sum(int((real != codes).sum()) for real, codes in pairs)
        counts.right += int((ours == labels).sum())
        counts.framework_right += int((theirs == labels).sum())
        counts.different += int((ours != theirs).sum())
        yield counts


def _record(counts: Counts) -> None:
    text = (
        f"On all {counts.pictures:,} test pictures of CIFAR-10, {counts.wrong:,} of {counts.codes:,} codes differ\n"
        "from PyTorch in float64: all that enter a convolution, and the accumulators of the last one. The integers\n"
        f"classify {counts.right:,} pictures rightly, PyTorch {counts.framework_right:,}; for {counts.different:,} the "
        "decision is another,\nby the classifier's 8 bits (`python -m scripts.network_proof --data cifar10/`)."
    )
    fill_in(PAGE, "proof", text)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--images", type=click.IntRange(1))
@click.option("--state", type=click.Path(path_type=Path, dir_okay=False), help="Counts so far; goes on from there.")
def main(data: Path, images: int | None, state: Path | None) -> None:
    try:
        source = open_split(data, "test")
    except QexportError as error:
        raise click.ClickException(str(error)) from None
    total = len(source) if images is None else min(images, len(source))
    counts = Counts()
    if state is not None and state.is_file():
        counts = msgspec.json.decode(state.read_bytes(), type=Counts)
    network = checkpoint.load(checkpoint.BUILTIN)
    integers = integer_network(network).network
    done = counts.pictures
    parts = (read(source, range(done + part.start, done + part.stop)) for part in batches(total - done, BATCH))
    for found in prove(network, integers, parts, counts):
        counts = found
        if state is not None:
            write_atomically(state, msgspec.json.encode(counts))
    print(f"{total:,} pictures: {counts.wrong:,} of {counts.codes:,} codes up to features.51 differ from PyTorch's")
    print(
        f"  {counts.right:,} right in integers, {counts.framework_right:,} in float64, {counts.different:,} different"
    )
    if images is None:
        _record(counts)
    sys.exit(counts.wrong > 0)


if __name__ == "__main__":
    main()
