"""What a checkpoint decides, beside a network in integers."""

from typing import Any

import torch
from numpy.typing import NDArray

from qexport.core.network import Codes, NetworkInput
from qexport.frontends.vgg.checkpoint import Network
from qexport.frontends.vgg.data import normalise


class Checkpoint:
    """In float64."""

    by, each = "float64", 1

    def __init__(self, network: Network, device: torch.device):
        self.name = str(network.path)
        self._model, self._device = network.model.double().to(device), device

    def codes(self, image: NetworkInput, given: NDArray[Any]) -> Codes:
        """The codes of an input of the network in integers."""
        return image.codes(given)

    def logits(self, given: NDArray[Any], classes: int) -> NDArray[Any]:
        """Of pictures, uint8 (n, 3, y, x)."""
        with torch.no_grad():
            found = self._model(normalise(torch.from_numpy(given).to(self._device), torch.float64))
        logits: NDArray[Any] = found.cpu().numpy()
        return logits
