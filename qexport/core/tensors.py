"""The named tensors of a layer and their axes."""

from collections.abc import Mapping

# The named tensors and their axes, in order.
AXES: Mapping[str, tuple[str, ...]] = {
    "weight": ("oc", "ic", "kh", "kw"),
    "bias": ("oc",),
    "input": ("n", "ic", "iy", "ix"),
    "input_padded": ("n", "ic", "py", "px"),
    "patches": ("n", "ic", "kh", "kw", "oy", "ox"),
    "psum": ("n", "it", "kh", "kw", "oc", "py", "px"),
    "acc_address": ("oy", "ox", "kh", "kw"),
    "accumulator": ("n", "oc", "oy", "ox"),
    "relu": ("n", "oc", "oy", "ox"),
    "output": ("n", "oc", "oy", "ox"),
}

RESULTS = ("psum", "accumulator", "relu", "output")  # tensors that a design gives, in the order of the computation
