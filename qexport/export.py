"""The pipeline of `dump`: capture -> golden -> tiles -> words -> files -> manifest -> verified folder."""

import ctypes
import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qexport.bench import render_bench
from qexport.check import verify
from qexport.errors import CheckFailed, QexportError
from qexport.formats import FORMATS
from qexport.golden import Golden, NamedTensor, check_reference
from qexport.intformat import IntFormat
from qexport.layer import LayerCapture
from qexport.layout import CAPTURE, MANIFEST, SUMS, Layout, Memory, Tiling
from qexport.manifest import (
    SCHEMA,
    LayoutInfo,
    Manifest,
    ManifestFormats,
    MemoryEntry,
    MemoryFile,
    NamedFile,
    Tool,
    accumulator_format,
    claims_to_be_set,
    golden_info,
    set_entries,
    sha256,
    sums_text,
)
from qexport.pack import word_bits

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Dump:
    """What `dump` did: the set's folder, its manifest, whether it was there already."""

    folder: Path
    manifest: Manifest
    unchanged: bool


def dump(capture: LayerCapture, layout: Layout, out: Path, force: bool = False) -> Dump:
    """Write the vector set of one layer into `out`/<layer>, verified, whole or not at all.

    Raises CheckFailed when the golden contradicts the capture's reference; QexportError when the layout does not
    suit the layer, or when something else is in the way.
    """
    golden = Golden(capture, layout.array.get("row"))
    check = check_reference(golden)
    if not golden.accumulator.any():
        raise CheckFailed(
            f"golden: layer {capture.layer.name}: every accumulator is 0, so the set would prove nothing; "
            "choose other inputs or another layer"
        )
    with _staging(out, capture.layer.slug) as (partial, target):
        files: dict[str, bytes] = {}
        memories: list[MemoryEntry] = []
        warnings: list[str] = []
        for memory in layout.memories:
            if memory.optional and not golden.has(memory.tensor):
                continue
            tensor = golden.tensor(memory.tensor)
            entry, contents = _encode(memory, tensor, layout)
            memories.append(entry)
            warnings += _width_warning(memory, entry.element, tensor)
            for path, data in contents.items():
                _put(files, path, data)
        _put(files, CAPTURE, capture.to_bytes())
        bench = render_bench(capture.layer, tuple(memories), layout, accumulator_format(golden))
        for path, text in bench.items():
            _put(files, path, text.encode())
        manifest = Manifest(
            schema=SCHEMA,
            tool=Tool(),
            source=capture.source,
            layer=capture.layer,
            formats=ManifestFormats(
                weight=capture.formats.weight, input=capture.formats.input, accumulator=accumulator_format(golden)
            ),
            layout=LayoutInfo(name=layout.name, sha256=layout.sha256),
            array=dict(layout.array),
            golden=golden_info(check),
            memories=tuple(memories),
            capture=NamedFile(path=CAPTURE, sha256=sha256(files[CAPTURE])),
            bench=tuple(NamedFile(path=path, sha256=sha256(files[path])) for path in sorted(bench)),
            warnings=tuple(warnings),
        )
        files[MANIFEST] = manifest.to_bytes()
        files[SUMS] = sums_text({path: sha256(data) for path, data in files.items()}).encode()
        for path, data in files.items():
            _write(partial / path, data)
        _, faults = verify(partial)
        if faults:
            raise CheckFailed(
                f"dump: what was written does not verify: {faults[0]}; nothing was kept, report this as a bug"
            )
        unchanged = target.is_dir() and _same(partial, target)
        if not unchanged:
            if target.is_dir() and any(target.iterdir()):
                if not force:
                    raise QexportError(f"out: {target} holds another set; add --force to replace it")
                _refuse_strays(target)
            _replace(partial, target)
    return Dump(target, manifest, unchanged)


def _encode(memory: Memory, tensor: NamedTensor, layout: Layout) -> tuple[MemoryEntry, dict[str, bytes]]:
    """One memory's manifest entry and the bytes of its files."""
    codes = memory.elements(tensor.values, tensor.default)
    fmt = memory.element_format(tensor.default)
    tiling = Tiling(memory.order, codes.shape, layout.array, fmt.bits)
    blocks = memory.stored(tiling.tile(codes), fmt, tiling)
    contents: dict[str, bytes] = {}
    files: list[MemoryFile] = []
    for block, (path, index) in zip(blocks, memory.paths(tiling), strict=True):
        data = FORMATS[memory.radix].write(block, memory.spec(tiling, fmt, index))
        _put(contents, path, data)
        files.append(MemoryFile(path=path, index=index, words=tiling.words, sha256=sha256(data)))
    entry = MemoryEntry(
        name=memory.name,
        tensor=memory.tensor,
        shape=codes.shape,
        order=memory.order.text,
        radix=memory.radix,
        bits=fmt.bits,
        signed=fmt.signed,
        offset=memory.offset,
        overflow=memory.overflow,  # type: ignore[arg-type]  # the layout's parser admits no other
        word_bits=word_bits(tiling.lanes, fmt),
        header=memory.header,
        fill=tiling.fill,
        files=tuple(files),
    )
    return entry, contents


def _width_warning(memory: Memory, fmt: IntFormat, tensor: NamedTensor) -> list[str]:
    """A warning when the memory holds what was observed but not all that the weights and the code range can give."""
    fmt, offset = (tensor.default, 0) if memory.order.has_bits else (fmt, memory.offset)
    low, high = (bound + offset for bound in tensor.bounds)
    observed = int(tensor.values.min()) + offset, int(tensor.values.max()) + offset
    if fmt.holds(low, high) or not fmt.holds(*observed):
        return []
    return [
        f"memory '{memory.name}': {fmt} hold the values of these inputs, but other inputs can give {low}..{high}, "
        f"which needs {IntFormat.holding(low, high, fmt.signed or low < 0)}"
    ]


def _put(files: dict[str, bytes], path: str, data: bytes) -> None:
    if path in files:
        raise QexportError(f"layout: two files of the set would be named '{path}'; change a memory's file name")
    files[path] = data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def _staging(out: Path, slug: str) -> Iterator[tuple[Path, Path]]:
    """A fresh folder beside the target, under a lock; it is gone afterwards, whatever happens.

    Folders that had to be made for `out` are taken away again when the dump fails.
    """
    target, partial, previous = out / slug, out / f".{slug}.partial", out / f".{slug}.previous"
    if out.exists() and not out.is_dir():
        raise QexportError(f"out: {out} is a file; give a folder")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if previous.exists():  # an earlier run was cut off between the two renames of _replace
                if target.exists():
                    _clear(previous)
                else:
                    previous.rename(target)
            _clear(partial)
            if target.is_symlink() or (target.exists() and not _is_set_or_empty(target)):
                raise QexportError(f"out: {target} is in the way and is no vector set; move it or choose another --out")
            partial.mkdir()
            yield partial, target
        finally:
            _clear(partial)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    finally:
        os.close(lock)


def _is_set_or_empty(folder: Path) -> bool:
    return folder.is_dir() and (claims_to_be_set(folder) or not any(folder.iterdir()))


def _refuse_strays(folder: Path) -> None:
    """Raises QexportError when replacing the set would take away a file that is not the set's."""
    sums = folder / SUMS
    listed = {line[66:] for line in sums.read_text(errors="replace").splitlines()} if sums.is_file() else set()
    strays = sorted(set(set_entries(folder)) - listed - {MANIFEST, SUMS})
    if strays:
        raise QexportError(
            f"out: {folder / strays[0]} is not of the set that would be replaced; move it elsewhere first"
        )


def _clear(folder: Path) -> None:
    """Take away what an earlier or a failed dump left."""
    if folder.is_symlink():  # a link to a set stood in the target's place
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _same(a: Path, b: Path) -> bool:
    """Whether two sets have the same entries with the same bytes."""
    entries, others = set_entries(a), set_entries(b)
    return entries.keys() == others.keys() and all(
        others[name].is_file() and filecmp.cmp(path, others[name], shallow=False) for name, path in entries.items()
    )


def _replace(partial: Path, target: Path) -> None:
    """Put `partial` where `target` is: one step where the system can exchange two folders."""
    if not target.exists():
        partial.rename(target)
    elif not _exchange(partial, target):
        previous = target.with_name(f".{target.name}.previous")
        target.rename(previous)
        partial.rename(target)
        _clear(previous)


def _exchange(a: Path, b: Path) -> bool:
    """Linux renameat2(RENAME_EXCHANGE); False where the system or the file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0
