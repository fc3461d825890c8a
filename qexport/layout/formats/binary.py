"""raw and npz: words as bytes and as numpy arrays."""

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.layout.formats.base import FileFault, WordSpec, elements_of
from qexport.layout.pack import pack

# --- without lines: raw bytes and NumPy ------------------------------------------------------------------------------


class _Raw:
    """raw_be and raw_le: the bytes of each word, from the most (`step` 1) or the least (-1) significant one."""

    def __init__(self, step: int):
        self.step = step

    def write(self, elements: Int64, spec: WordSpec) -> bytes:
        return pack(elements, spec.element)[:, :: self.step].tobytes()

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        size = spec.word_bytes
        words, rest = divmod(len(data), size)
        if rest:
            raise FileFault(words + 1, 0, f"{len(data)} bytes; needs {size} for each word", words)
        octets = np.frombuffer(data, np.uint8).reshape(-1, size)[:, :: self.step]

        def fault(word: int, message: str) -> FileFault:
            return FileFault(word + 1, 0, f"word {word} (byte {word * size}): {message}", word)

        return elements_of(octets, spec, fault)


def take_raw(file: BinaryIO, words: int, spec: WordSpec) -> bytes:
    return file.read(words * spec.word_bytes)


def _npz_arrays(elements: Int64, spec: WordSpec) -> dict[str, NDArray[Any]]:
    octets = next(octets for octets in (1, 2, 4, 8) if 8 * octets >= spec.element.bits)
    kind = f"<{'i' if spec.element.signed else 'u'}{octets}"
    return {
        "elements": elements.astype(kind, order="C"),
        "bits": np.array(spec.element.bits, "<i8"),
        "signed": np.array(spec.element.signed),
    }


def write_npz(elements: Int64, spec: WordSpec) -> bytes:
    import zipfile  # with what it needs a good part of the start-up, for one format

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in _npz_arrays(elements, spec).items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # numpy.savez leaves the date to zipfile
            member.create_system = 3  # else that of the machine
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return file.getvalue()


def read_npz(data: bytes, spec: WordSpec) -> Int64:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile and numpy raise a dozen kinds for a damaged file
        raise FileFault(1, 0, f"not a readable .npz file: {error}") from None
    for name, like in _npz_arrays(np.zeros((0, spec.lanes), np.int64), spec).items():
        array = arrays.get(name)
        if array is None or array.ndim != like.ndim or array.shape[1:] != like.shape[1:] or array.dtype != like.dtype:
            raise FileFault(1, 0, f"array '{name}' is missing or is not (words, {spec.lanes}) of {like.dtype}")
        if not like.ndim and array != like:
            raise FileFault(1, 0, f"array '{name}' holds {array}; needs {like}")
    elements: Int64 = arrays["elements"].astype(np.int64)
    outside = (elements < spec.element.low) | (elements > spec.element.high)
    if outside.any():
        word, lane = (int(i) for i in np.argwhere(outside)[0])
        message = f"word {word}: {elements[word, lane]} is outside {spec.element.low}..{spec.element.high}"
        raise FileFault(word + 1, 0, message, word)
    return elements


RAW_BE, RAW_LE = _Raw(1), _Raw(-1)
