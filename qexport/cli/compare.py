"""Train several networks with one recipe and compare them."""

from pathlib import Path

import click

from qexport.cli.common.network import default_epochs
from qexport.cli.common.options import data_options, device_option, json_option, path_type
from qexport.cli.common.output import emit, say, say_aside
from qexport.cli.common.progress import show_progress


@click.command(name="compare")
@click.argument("models", nargs=-1, required=True)
@data_options
@click.option("--epochs", type=click.IntRange(3), help="Of each run. Default: 100 on a GPU, 32 on the CPU.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@device_option
@click.option("--work", type=path_type(), default="result/compare", show_default=True, help="The runs; gone on with.")
@click.option("--out", "page", type=path_type(), default="squeeze.md", show_default=True, help="A .md or .html file.")
@json_option
def command(
    models: tuple[str, ...],
    data: Path,
    download: bool,
    epochs: int | None,
    seeds: int,
    device: str,
    work: Path,
    page: Path,
    as_json: bool,
) -> None:
    """Train several networks with one recipe and compare them.

    Each runs quantized and in float, with several seeds; a page of the results is written.

    \b
    qexport compare vgg16_quant vgg16_quant_gradual --data cifar10/
    qexport compare vgg16_quant vgg16_quant_gradual --data cifar10/ --out squeeze.html
    """
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg.data import open_split, read
    from qexport.report.comparison import check_page, write_page
    from qexport.train.compare import run_all
    from qexport.train.loop import AUTO, Recipe, pick_device

    check_page(page)
    where = pick_device(device)
    recipe = Recipe(epochs=epochs or default_epochs(where.type), precision=AUTO)
    training, validation = (read(open_split(data, split, download)) for split in ("train", "test"))
    with show_progress() as tell:
        logs = run_all(models, recipe, seeds, training, validation, work, where, tell, say_aside)
    command = f"qexport compare {' '.join(models)} --epochs {recipe.epochs} --seeds {seeds} --data DATA"
    bits = f"{recipe.weight_bits}-bit weights, {recipe.act_bits}-bit activations"
    write_page(logs, f"{recipe.epochs} epochs, batch {recipe.batch_size}, {bits}", command, page)
    result = {
        model: {"quantized": [r[-1]["top1"] for r in runs[True]], "float": [r[-1]["top1"] for r in runs[False]]}
        for model, runs in logs.items()
    }
    emit(as_json, {"top1": result, "page": str(page)}, lambda: say(f"written: {page}"))
