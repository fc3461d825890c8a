"""What a PyTorch module decides, beside a network in integers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qexport.core.network import Codes, NetworkInput
from qexport.errors import QexportError
from qexport.frontends.inputs import Normalised, line_of, vectors
from qexport.frontends.torch_module.loading import load_model


class Module:
    """In its own precision."""

    by, each = "PyTorch", 1

    def __init__(self, named: str, weights: Path | None, normalised: Normalised):
        self.name, self._normalised = named, normalised
        self._model = load_model(named, weights).model.eval()

    def codes(self, image: NetworkInput, given: NDArray[Any]) -> Codes:
        """The codes of an input of the network in integers."""
        if image.lookup is None:
            return image.rounded(self._normalised(given))
        if given.dtype != np.uint8:
            raise QexportError(f"inputs: they are {given.dtype}; this network takes pixels: give uint8")
        return image.codes(given)

    def logits(self, given: NDArray[Any], classes: int) -> NDArray[Any]:
        """Of each input."""
        real = torch.from_numpy(np.ascontiguousarray(self._normalised(given)))
        try:
            with torch.no_grad():
                out: Any = self._model(real)
            found = out[0] if isinstance(out, tuple) else out  # a tensor of Brevitas is a tuple, its values first
            return vectors(self.name, found.detach().double().numpy(), len(given), classes)
        except QexportError:
            raise
        except Exception as error:  # whatever the user's code raises, or gives
            raise QexportError(
                f"model: it fails for inputs of {tuple(real.shape)}: {line_of(error)}; it takes them and gives logits"
            ) from None
