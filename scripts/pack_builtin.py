"""Pack a trained network into the form that ships: python scripts/pack_builtin.py result/.../model_best.pth.tar"""

import sys
from pathlib import Path

from qexport.frontends.vgg import checkpoint


def main() -> None:
    network = checkpoint.load(Path(sys.argv[1]))
    checkpoint.pack(network, checkpoint.BUILTIN)
    print(f"{checkpoint.BUILTIN}: {checkpoint.BUILTIN.stat().st_size} bytes, from sha256 {network.sha256}")


if __name__ == "__main__":
    main()
