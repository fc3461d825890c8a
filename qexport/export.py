"""The pipeline of `dump`: capture -> golden -> tiles -> words -> files -> manifest -> verified folder."""

import ctypes
import fcntl
import filecmp
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from qexport.bench import render_bench
from qexport.check import verify
from qexport.errors import CheckFailed, QexportError
from qexport.golden import Facts, Golden, Scan
from qexport.layer import Capture, CaptureWriter
from qexport.layout import CAPTURE, MANIFEST, SUMS, TILE_AXIS, Layout
from qexport.manifest import (
    INDEX,
    SCHEMA,
    Index,
    IndexEntry,
    LayoutInfo,
    Manifest,
    MemoryEntry,
    MemoryFile,
    NamedFile,
    Tool,
    claims_to_be_set,
    file_sha256,
    golden_info,
    manifest_formats,
    set_entries,
    sha256,
    sums_text,
)
from qexport.pack import word_bits
from qexport.stream import MemoryStream, parts, warnings
from qexport.strength import Strength

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Dump:
    """What `dump` did: the set's folder, its manifest, whether it was there already."""

    folder: Path
    manifest: Manifest
    unchanged: bool


def plan(facts: Facts, layout: Layout, images: int) -> list[MemoryStream]:
    """The memories that a set of this layer gets; raises QexportError when the layout does not suit the layer."""
    memories = [memory for memory in layout.memories if facts.has(memory.tensor) or not memory.optional]
    streams = [MemoryStream.of(memory, facts, images, layout.array) for memory in memories]
    if not streams:
        raise QexportError(
            f"layout: layer {facts.layer.name} has no tensor of layout '{layout.name}'; choose another layout"
        )
    _refuse_same_paths([CAPTURE, *(path for stream in streams for path, _, _ in stream.specs)])
    return streams


def dump(capture: Capture, layout: Layout, out: Path, force: bool = False) -> Dump:
    """Write the vector set of one layer into `out`/<layer>, verified, whole or not at all.

    Images of a capture file go by in parts, so that memory does not grow with their number (but for memories whose
    order mixes images). Raises CheckFailed when the golden contradicts the capture's reference; QexportError when the
    layout does not suit the layer, or when something else is in the way.
    """
    facts = Facts(capture, layout.array.get(TILE_AXIS))
    streams = plan(facts, layout, capture.images)
    with _staging(out, capture.layer.slug) as (partial, target):
        writers = [_MemoryWriter(stream, partial) for stream in streams]
        scan, strength = Scan(facts), Strength(capture.layer, capture.formats, capture.weight)
        whole = Golden(capture, facts=facts)
        for writer in writers:
            if not writer.stream.streamed:
                writer.add(whole, 0)
        with _naming(partial / CAPTURE), (partial / CAPTURE).open("wb") as file:
            copy = CaptureWriter.like(capture, file)
            for start, stop in parts(streams, facts, capture.images):
                images = capture.part(start, stop)
                copy.add(images)
                part = Golden(images, facts=facts)
                scan.add(part)
                strength.add(part)
                for writer in writers:
                    if writer.stream.streamed:
                        writer.add(part, start)
        check = scan.check()
        memories = tuple(writer.entry() for writer in writers)
        formats = manifest_formats(facts, scan.observed)
        checksums = {path: crc for writer in writers for path, crc in writer.checksums.items()}
        bench = render_bench(capture.layer, memories, layout, formats, checksums)
        _refuse_same_paths([CAPTURE, *bench, *(file.path for entry in memories for file in entry.files)])
        for path, text in bench.items():
            _write(partial / path, text.encode())
        manifest = Manifest(
            schema=SCHEMA,
            tool=Tool(),
            source=capture.source,
            layer=capture.layer,
            formats=formats,
            layout=LayoutInfo(name=layout.name, sha256=layout.sha256),
            array=dict(layout.array),
            golden=golden_info(check),
            strength=strength.info,
            memories=memories,
            capture=NamedFile(path=CAPTURE, sha256=file_sha256(partial / CAPTURE)),
            bench=tuple(NamedFile(path=path, sha256=sha256(bench[path].encode())) for path in sorted(bench)),
            warnings=warnings(facts, streams),
        )
        _write(partial / MANIFEST, manifest.to_bytes())
        sums = manifest.named_files() | {MANIFEST: sha256(manifest.to_bytes())}
        _write(partial / SUMS, sums_text(sums).encode())
        for path in sums:
            _sync(partial / path)
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


def write_index(out: Path, dumps: Sequence[Dump]) -> Path:
    """Write `out`/index.json: the sets of one dump of all layers, each with the SHA-256 of its manifest."""
    entries = [
        IndexEntry(
            path=done.folder.name,
            layer=done.manifest.layer.name,
            index=done.manifest.layer.index,
            manifest_sha256=file_sha256(done.folder / MANIFEST),
        )
        for done in dumps
    ]
    index = Index(layout=dumps[0].manifest.layout, source=dumps[0].manifest.source, sets=tuple(entries))
    partial, path = out / f".{INDEX}.partial", out / INDEX
    partial.unlink(missing_ok=True)
    try:
        _write(partial, index.to_bytes())
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_new_folder(target: Path, files: Mapping[str, str]) -> None:
    """Write text files into a folder that appears whole or not at all.

    Raises QexportError when it is not empty or lies in a set.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise QexportError(f"out: {target} is there already and not empty; give a new folder")
    whole = target.resolve()
    if sets := [folder for folder in whole.parents if claims_to_be_set(folder)]:
        raise QexportError(f"out: {target} lies in the set {sets[0]}; give a folder outside it")
    partial = whole.with_name(f".{whole.name}.partial")
    _clear(partial)
    try:
        for name, text in files.items():
            _write(partial / name, text.encode())
            _sync(partial / name)
        partial.replace(whole)
    finally:
        _clear(partial)


class _MemoryWriter:
    """The files of one memory as they grow."""

    def __init__(self, stream: MemoryStream, folder: Path):
        self.stream = stream
        self._folder = folder
        self._hashes = [hashlib.sha256() for _ in stream.specs]
        self.checksums = {path: 0 for path, _, _ in stream.specs}  # CRC-32

    def add(self, golden: Golden, first_image: int) -> None:
        """Write what some images, or for a tensor without images the layer, give."""
        first_file, blocks = self.stream.stored(golden.values(self.stream.memory.tensor), first_image)
        for number, block in enumerate(blocks, start=first_file):
            path, _, spec = self.stream.specs[number]
            fresh = not (self._folder / path).exists()
            data = self.stream.format.write(block, spec if fresh else replace(spec, header=()))
            self._hashes[number].update(data)
            self.checksums[path] = zlib.crc32(data, self.checksums[path])
            _write(self._folder / path, data)

    def entry(self) -> MemoryEntry:
        """The memory's entry of the manifest, when all is written."""
        memory, tiling, element = self.stream.memory, self.stream.tiling, self.stream.element
        return MemoryEntry(
            name=memory.name,
            tensor=memory.tensor,
            shape=self.stream.shape,
            order=memory.order.text,
            radix=memory.radix,
            bits=element.bits,
            signed=element.signed,
            offset=memory.offset,
            overflow=memory.overflow,  # type: ignore[arg-type]  # the layout's parser admits no other
            word_bits=word_bits(tiling.lanes, element),
            header=memory.header,
            fill=tiling.fill,
            files=tuple(
                MemoryFile(path=path, index=index, words=tiling.words, sha256=digest.hexdigest())
                for (path, index, _), digest in zip(self.stream.specs, self._hashes, strict=True)
            ),
        )


def _refuse_same_paths(paths: Sequence[str]) -> None:
    """Raises QexportError when two files of the set would have one name, or one would stand where a folder must."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise QexportError(f"layout: two files of the set would be named '{path}'; change a memory's file name")
        seen.add(path)
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    if both := sorted(seen & folders):
        raise QexportError(
            f"layout: '{both[0]}' of the set would be a file and the folder of another one; change a memory's file name"
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system while writing names the file, unless it names one already."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, error.filename or str(path)) from None


def _write(path: Path, data: bytes) -> None:
    """Append to a file of the new set."""
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def _sync(path: Path) -> None:
    with _naming(path), path.open("rb") as file:
        os.fsync(file.fileno())


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
