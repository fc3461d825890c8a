"""Pack a trained network into the form that ships: python scripts/pack_builtin.py result/vgg16_quant_gradual

Its recipe and log go into docs/how-to/builtin.json.
"""

import json
import sys
from pathlib import Path

from qexport.frontends.vgg import checkpoint

LOG = Path(__file__).parent.parent / "docs/how-to/builtin.json"


def main(run: Path) -> None:
    network = checkpoint.load(run / checkpoint.BEST)
    checkpoint.pack(network, checkpoint.BUILTIN)
    print(f"{checkpoint.BUILTIN}: {checkpoint.BUILTIN.stat().st_size} bytes, from sha256 {network.sha256}")
    trained = checkpoint.read_training(run / checkpoint.LAST)
    LOG.write_text(json.dumps({"recipe": trained["recipe"], "log": trained["log"]}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
