"""Train a quantization-aware network on CIFAR-10."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qexport.cli.common.network import default_epochs
from qexport.cli.common.options import data_options, device_option, json_option, path_type
from qexport.cli.common.output import emit, say, say_aside
from qexport.cli.common.progress import show_progress
from qexport.cli.common.tables import make_table, print_table


@click.command(name="train")
@data_options
@click.option("--model", default="vgg16_quant_gradual", show_default=True, help="Or vgg16_quant, the sudden squeeze.")
@click.option("--weight-bits", type=click.IntRange(2, 8), default=4, show_default=True)
@click.option("--act-bits", type=click.IntRange(2, 8), default=4, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Default: 100 on a GPU, 32 on the CPU.")
@click.option("--batch-size", type=click.IntRange(1), default=250, show_default=True, help="Over all processes.")
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True, help="Peak of the cycle."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True,
    help="Of the convolutions; auto: bf16 on a GPU, on a CPU the one that a short timing finds faster.",
)  # fmt: skip
@device_option
@click.option("--init", metavar="FILE", help="Start from this checkpoint's weights, or 'builtin', quantizers on.")
@click.option("--out", "folder", type=path_type(), help="Default: result/<model>.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, bit for bit on the CPU.")
@click.option(
    "--plot", type=path_type(), help="Write curves and what became of the narrowest layer: an .html or .svg file."
)
@json_option
def command(
    data: Path,
    download: bool,
    device: str,
    init: str | None,
    folder: Path | None,
    resume: bool,
    plot: Path | None,
    as_json: bool,
    epochs: int | None,
    **recipe: Any,
) -> None:
    """Train a quantization-aware network on CIFAR-10.

    Writes checkpoint.pth (the last epoch), model_best.pth.tar, log.jsonl, and report.html with curves.

    \b
    qexport train --data data/ --download
    qexport train --data cifar10/ --epochs 30 --resume
    qexport train --data cifar10/ --init builtin --epochs 16 --out result/more
    torchrun --nproc-per-node 4 -m qexport train --data cifar10/ --batch-size 512
    """
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg.checkpoint import load_any, path_of
    from qexport.frontends.vgg.data import open_split, read
    from qexport.train import parallel
    from qexport.train.loop import Recipe, pick_device, starting_state, train
    from qexport.train.precision import settle

    source = None if init is None else load_any(path_of(init))
    if plot is not None:
        from qexport.report.training import check_plot

        check_plot(plot)
    with parallel.group(pick_device(device)) as where:
        first = parallel.place()[0] == 0
        recipe |= {"epochs": epochs or default_epochs(where.type), "init_sha256": source.sha256 if source else ""}
        settings = Recipe(**recipe)
        target = Path("result") / settings.model if folder is None else folder
        start = starting_state(settings, target, resume)
        with parallel.first_one_first():
            training, validation = (open_split(data, split, download) for split in ("train", "test"))
        if first:
            say_aside(f"reading {len(training)} and {len(validation)} pictures of {data}")
        settings = settle(settings, start, where, say_aside if first else lambda line: None)
        if first:
            say_aside(
                "recipe: " + ", ".join(f"{key} {value}" for key, value in asdict(settings).items() if value != "")
            )
        pictures = read(training), read(validation)
        with show_progress() as tell:
            records = train(settings, *pictures, target, where, start, source, tell, say_aside)
    if not first:
        return
    best = max((record for record in records if record["quantized"]), key=lambda record: record["top1"])
    kept = target / "model_best.pth.tar"
    from qexport.report.training import PAGE, records_of, write_plot

    page = target / PAGE
    for path in (page, *([] if plot is None else [plot])):
        write_plot(records_of(records), settings.model, path)

    def show() -> None:
        _show_squeeze(best["squeeze"])
        say(f"best top-1 {best['top1']:.2f} %, {kept}; its curves: {page}")

    emit(as_json, {"top1": best["top1"], "checkpoint": str(kept), "squeeze": best["squeeze"]}, show)


def _show_squeeze(squeeze: Mapping[str, Any]) -> None:
    """What squeeze_report says of the narrowest layer."""
    table = make_table("narrowest layer", f"features.{squeeze['layer']}")
    table.add_row("input codes", f"{squeeze['input_zero']:.1%} are 0, {squeeze['input_saturated']:.1%} the largest")
    table.add_row("weight codes", "  ".join(f"{code}: {share:.1%}" for code, share in squeeze["weight_codes"].items()))
    for side in ("inputs", "outputs"):
        dead = squeeze[f"dead_{side}"]
        table.add_row(f"dead {side}", ", ".join(map(str, dead)) or "none")
    table.add_row("effective rank", f"{squeeze['effective_rank']:.2f} of the input channels")
    print_table(table)
