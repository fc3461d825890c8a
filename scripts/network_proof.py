"""The shipped network in integers against PyTorch's float64 pass, code for code, on CIFAR-10's test pictures.

`python scripts/network_proof.py --data cifar10/` takes all 10,000, --images N the first N. Exits with 1 where a code
that enters a convolution differs.
"""

import copy
import sys
from pathlib import Path

import click
import numpy as np
import torch

from qexport.core.network_run import Engine, decisions
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import normalise, open_split, read
from qexport.frontends.vgg.network import integer_network


def prove(data: Path, images: int | None) -> tuple[int, int, int, int]:
    """Pictures, codes that were compared, codes that differ, pictures that are classified differently."""
    network = checkpoint.load(checkpoint.BUILTIN)
    model = copy.deepcopy(network.model).double().eval()
    engine = Engine(integer_network(network).network)
    (image,) = engine.network.inputs
    source = open_split(data, "test")
    total = len(source) if images is None else images
    seen: dict[int, torch.Tensor] = {}
    for index, conv in model.quantized().items():
        conv.register_forward_pre_hook(lambda module, args, index=index: seen.__setitem__(index, args[0]))
    last = max(model.quantized())  # whose accumulators are compared, too: those of features.51
    model.features[last].register_forward_hook(lambda module, args, output: seen.__setitem__(-1, output))
    scale = engine.network.placed[f"features.{last}"].node.formats.accumulator_scales[0]
    compared = wrong = different = 0
    with torch.no_grad():
        for start in range(0, total, engine.batch):
            pixels = read(source, range(start, min(start + engine.batch, total))).pixels
            real = model(normalise(pixels, torch.float64)).argmax(1).numpy()
            held = {image.name: image.codes(pixels.numpy())}
            outputs = held | engine.run(held, list(engine.network.placed))
            for index, conv in model.quantized().items():
                codes = conv.input_codes(seen[index]).numpy()
                ours = engine.operands(f"features.{index}", outputs)["input"]
                compared, wrong = compared + codes.size, wrong + int((codes != ours).sum())
            sums = np.rint(seen[-1].numpy() / scale).astype(np.int64)
            ours = engine.sums(f"features.{last}", outputs)
            compared, wrong = compared + sums.size, wrong + int((sums != ours).sum())
            different += int((decisions(outputs["classifier"]) != real).sum())
    return total, compared, wrong, different


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--images", type=click.IntRange(1))
def main(data: Path, images: int | None) -> None:
    total, compared, wrong, different = prove(data, images)
    print(f"{total:,} pictures: {wrong:,} of {compared:,} codes up to features.51 differ from PyTorch in float64")
    print(f"  {different} pictures are classified differently, by the classifier's 8 bits")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
