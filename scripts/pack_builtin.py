"""Pack a run's best network into the form that ships, its recipe and log beside it.

    python scripts/pack_builtin.py result/vgg16_quant_gradual

A run that started from the network that shipped until now (`--init builtin`) is added to the runs of that one.
"""

import json
from hashlib import sha256
from pathlib import Path

import click

from qexport.errors import QexportError
from qexport.frontends.vgg import checkpoint


def command(recipe: dict[str, object]) -> str:
    """The line that repeats the run, but for the place of the pictures."""
    options = {key: value for key, value in recipe.items() if key not in ("quantized", "init_sha256")}
    if recipe["init_sha256"]:
        options["init"] = "builtin"
    return " ".join(["qexport train", *(f"--{key.replace('_', '-')} {value}" for key, value in options.items())])


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(run: Path) -> None:
    """Pack the best network of the folder RUN."""
    try:
        network = checkpoint.load(run / checkpoint.BEST)
        last = checkpoint.read_training(run / checkpoint.LAST)
    except QexportError as error:
        raise click.UsageError(str(error)) from None
    story = checkpoint.BUILTIN.with_suffix(".json")
    goes_on = last["recipe"]["init_sha256"] == sha256(checkpoint.BUILTIN.read_bytes()).hexdigest()
    runs = json.loads(story.read_text()) if goes_on and story.exists() else []
    runs.append({"command": command(last["recipe"]), "recipe": last["recipe"], "log": last["log"]})
    checkpoint.pack(network, checkpoint.BUILTIN)
    story.write_text(json.dumps(runs, indent=1) + "\n")
    print(f"{checkpoint.BUILTIN}: {checkpoint.BUILTIN.stat().st_size} bytes, from sha256 {network.sha256}")
    print(f"{story}: {len(runs)} runs")


if __name__ == "__main__":
    main()
