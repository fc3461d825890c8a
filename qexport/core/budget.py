"""What one input may ask for: the numbers of the budget. Who reads the input refuses more before the work begins."""

from pathlib import Path

from qexport.errors import QexportError

SIZE = 1 << 20  # of a channel count, a plane, a tile: far beyond any layer, far below what breaks arithmetic
WORD_BITS = 1 << 16  # beyond every memory; keeps a mistyped size from filling the disk
ELEMENTS = 3 << 26  # of all tensors that one image of a layer needs, 8 bytes each and some copies: psums of 224x224
CAPTURE_ELEMENTS = 1 << 28  # of a capture's weights, and of one image of its input
CHAIN = 200  # steps behind one operation
STEP_ELEMENTS = 1 << 21  # of all lists and tables of a layer's steps: 8-bit thresholds of 8,192 channels
LEVELS = 1 << 16  # of one channel's thresholds: codes of 16 bits
LAYERS = 10_000  # of a network
NETWORK_ELEMENTS = 1 << 30  # that all layers of a network look at for one picture
NETWORK_CODES = 1 << 25  # of one operand of a layer for one picture
NETWORK_CHANNELS = 1 << 22  # of all steps of a network, whose ranges are proven channel by channel
VIEWS = 8  # between two layers of a network
STORED = 1 << 36  # elements of one memory over all images
FILES = 1 << 16  # of a set's memories
LAYOUT_BYTES = 1 << 20
LAYOUT_DEPTH = 8  # of a layout's tables, lists and dotted keys
MEMORIES = 1000  # of a layout
AXES = 32  # that an order has at once: as many as the oldest numpy takes
HEADER_BYTES = 1 << 24  # of a safetensors file, whose size is else no matter
CHECKPOINT_BYTES = 1 << 31
WAVE_BYTES = 1 << 26  # of waves that are read whole
LOG_BYTES = 1 << 27  # of what a run or a training printed


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a regular file; raises QexportError for one that may never end or is larger than `limit`."""
    if path.exists() and not path.is_file():
        raise QexportError(f"{what}: {path} is not a regular file; give one")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise QexportError(f"{what}: {path} has more than {limit:,} bytes; give a smaller one")
    return data


def check_header(path: Path, what: str) -> None:
    """Raises QexportError where a safetensors file says that its header is larger than HEADER_BYTES."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if HEADER_BYTES < size <= path.stat().st_size:  # a size beyond the file is the library's to refuse
        raise QexportError(f"{what}: {path} has a header of {size:,} bytes, more than {HEADER_BYTES:,}; write less")
