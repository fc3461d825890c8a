"""What an ONNX file decides, beside the network in integers that was imported from it."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qexport.core.network import Codes, IntegerNetwork, NetworkInput
from qexport.errors import QexportError
from qexport.frontends.inputs import Normalised, vectors
from qexport.frontends.onnx_model.capture import codes_of
from qexport.frontends.onnx_model.evaluate import Runner
from qexport.frontends.onnx_model.reading import read_model
from qexport.frontends.onnx_model.walk import Walked, walk

Array = NDArray[Any]


class OnnxFile:
    """By onnxruntime, where it is installed and knows the operators; else by onnx.reference."""

    def __init__(self, integers: IntegerNetwork, path: Path, normalised: Normalised):
        self.name, self._graph, self._normalised = str(path), read_model(path), normalised
        if self._graph.sha256 != integers.source.checkpoint_sha256:
            raise QexportError(f"network: it was not imported from {path}; give the --model that it was imported from")
        if len(self._graph.inputs) > 1:
            raise QexportError(f"model: {path} has {len(self._graph.inputs)} inputs; pictures are one")
        ((self._input, kind),) = self._graph.inputs.items()
        self._pixels = kind.tensor_type.elem_type == TensorProto.UINT8
        self._each = next((dim.dim_value for dim in kind.tensor_type.shape.dim), 0)
        named = integers.outputs[0].name
        self._output = named if named in self._graph.outputs else self._graph.outputs[0]
        self._graph_walked: Walked | None = None
        self._session = _session(path)
        self.each = self._each or 1
        self.by = "onnx.reference" if self._session is None else "onnxruntime"

    def codes(self, image: NetworkInput, given: Array) -> Codes:
        """The codes of an input of the network in integers: what the file's own first nodes make of it."""
        typed = self._typed(given)
        fed = self._walked(typed).fed[image.name]
        return codes_of(fed.format, self._referred(typed, fed.tensor), fed.integers)

    def logits(self, given: Array, classes: int) -> Array:
        """Of each input."""
        typed = self._typed(given)
        if self._session is None:
            return vectors(self.name, self._referred(typed, self._output), len(given), classes)
        try:
            parts = [
                self._session.run([self._output], {self._input: part})[0] for part in self._parts(typed, len(typed))
            ]
        except Exception as error:  # whatever the library raises
            reason = " ".join(str(error).split())
            raise QexportError(f"model: {self.name} fails in onnxruntime: {reason:.150}") from None
        return vectors(self.name, np.concatenate(parts), len(given), classes)

    def _typed(self, given: Array) -> Array:
        if self._pixels and given.dtype != np.uint8:
            raise QexportError(f"inputs: they are {given.dtype}; {self.name} takes pixels: give uint8")
        return given if self._pixels else self._normalised(given)

    def _parts(self, typed: Array, most: int) -> list[Array]:
        """As many inputs at once as the model says, else so many."""
        each = self._each or most
        if len(typed) % each:
            raise QexportError(f"images: {self.name} takes {each} inputs at once; give a multiple")
        return np.split(typed, len(typed) // each)

    def _walked(self, typed: Array) -> Walked:
        if self._graph_walked is None:
            self._graph_walked = walk(self._graph, {self._input: self._parts(typed, 1)[0].shape})
        return self._graph_walked

    def _referred(self, typed: Array, tensor: str) -> Array:
        """A tensor by onnx.reference, one input at a time where the model takes any number."""
        run = Runner(self._graph, [tensor], self._walked(typed).shape)
        return np.concatenate([run({self._input: part})[tensor] for part in self._parts(typed, 1)])


def _session(path: Path) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # fused kernels of u8s8 saturate on some processors; unfused nodes compute what the file says
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # operators that it does not know, such as QONNX's
        return None
