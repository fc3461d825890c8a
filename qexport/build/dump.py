"""The pipeline of `dump`: capture -> golden -> tiles -> words -> files -> manifest -> verified folder."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec

from qexport.bench.sv import render_bench
from qexport.build.graph import verify_graph
from qexport.build.verify import verify
from qexport.core.atomic import write_atomically
from qexport.core.capture import Capture, CaptureWriter
from qexport.core.golden import Golden, parts
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import operation
from qexport.core.reference import Scan
from qexport.core.strength import counting
from qexport.errors import CheckFailed, QexportError
from qexport.layout.memory import Layout, Memory, sharing
from qexport.layout.memory_files import (
    MemoryFiles,
    check_budget,
    link,
    most_stored,
    streamed_tensors,
    suits,
    warnings,
)
from qexport.layout.order import TILE_AXIS
from qexport.layout.pack import word_bits
from qexport.layout.paths import CAPTURE, MANIFEST, SUMS
from qexport.sets.folder import file_sha256, sha256, sums_text
from qexport.sets.graph import GRAPH, Graph
from qexport.sets.index import INDEX, Index, IndexEntry
from qexport.sets.manifest import (
    SCHEMA,
    LayoutInfo,
    Manifest,
    MemoryEntry,
    MemoryFile,
    NamedFile,
    Tool,
    golden_info,
    manifest_formats,
)
from qexport.sets.staging import Stage, append, naming, refuse_foreign, refuse_strays, same_sets, staging


@dataclass(frozen=True)
class Dump:
    """What `dump` did: the set's folder, its manifest, whether it was there already.

    kept: a line for each backup of what a user had changed in a set that was replaced.
    """

    folder: Path
    manifest: Manifest
    unchanged: bool
    kept: tuple[str, ...] = ()


def plan(facts: Convolution, layout: Layout, images: int) -> list[MemoryFiles]:
    """The memories that a set of this layer gets; raises QexportError when the layout does not suit the layer."""
    streams = [MemoryFiles.of(memory, facts, images, layout.array) for memory in _present(layout, facts)]
    if not streams:
        raise QexportError(
            f"layout: layer {facts.layer.name} has no tensor of layout '{layout.name}'; choose another layout"
        )
    link(streams)
    check_budget(facts, streams, images)
    own = [stream for stream in streams if not stream.memory.follows]
    _refuse_same_paths([CAPTURE, *(path for stream in own for path, _, _ in stream.specs)])
    return streams


def _present(layout: Layout, facts: Convolution) -> list[Memory]:
    """The memories that the layer gets; where one that is left out has others behind it, the next takes its place."""
    kept = [memory for memory in layout.memories if not memory.optional or suits(memory, facts)]
    names, groups = {memory.name for memory in kept}, sharing(layout.memories)
    present = []
    for memory in kept:
        if memory.follows and memory.follows not in names:
            group = groups[memory.name]
            before = [other.name for other in group[: group.index(memory)] if other.name in names]
            memory = replace(memory, follows=before[-1] if before else "", header=() if before else group[0].header)
        present.append(memory)
    return present


def dump(capture: Capture, layout: Layout, out: Path, force: bool = False) -> Dump:
    """Write the vector set of one layer into `out`/<layer>, verified, whole or not at all.

    Images of a capture file go by in parts, so that memory does not grow with their number (but for memories whose
    order mixes images). Raises CheckFailed when the golden contradicts the capture's reference; QexportError when the
    layout does not suit the layer, or when something else is in the way.
    """
    with staging(out) as stage:
        done = _stage_set(stage, capture, layout, force, capture.layer.slug)
        if not done.unchanged:
            stage.put_in_place([done.folder.name])
    return replace(done, kept=tuple(stage.kept))


def dump_all(
    captures: Iterable[Capture],
    layout: Layout | Callable[[Capture], Layout],
    out: Path,
    force: bool = False,
    advance: Callable[[int], None] = lambda done: None,
    graph: Callable[[Index], Graph] | None = None,
    numbered: str = "",
) -> tuple[list[Dump], Path]:
    """Write the sets of all layers and `out`/index.json, which lists them; all of them or nothing.

    `layout`: for all, or what gives a layer's. `graph`: of a network, what is written beside the index. `numbered`:
    what stands before the number of each set in its folder's name, where several are of one layer.

    Everything is made before anything is put in place. Whoever is killed while that happens leaves whole sets, old or
    new, and no index; `out` is refused by all that read it until the next command that writes into it has finished it.
    Raises what `dump` raises.
    """
    with staging(out) as stage:
        dumps: list[Dump] = []
        for capture in captures:
            try:
                own = layout if isinstance(layout, Layout) else layout(capture)
                name = f"{capture.layer.slug}{numbered}{len(dumps) if numbered else ''}"
                dumps.append(_stage_set(stage, capture, own, force, name))
            except QexportError as error:
                raise type(error)(f"{capture.layer.name}: {error}; nothing was written") from None
            advance(len(dumps))
        index = _index(stage, dumps)
        files = {INDEX: index.to_bytes()} | ({GRAPH: graph(index).to_bytes()} if graph else {})
        for name, data in files.items():
            write_atomically(stage.new / name, data)
        if graph and (faults := verify_graph(stage.new)):
            raise CheckFailed(f"dump: the layers do not fit together: {faults[0]}; nothing was kept, report this")
        changed = [done.folder.name for done in dumps if not done.unchanged]
        if changed or any(not (out / n).is_file() or (out / n).read_bytes() != data for n, data in files.items()):
            stage.put_in_place([*changed, *files])
    dumps[0] = replace(dumps[0], kept=tuple(stage.kept))
    return dumps, out / INDEX


def _index(stage: Stage, dumps: Sequence[Dump]) -> Index:
    entries = [
        IndexEntry(
            path=done.folder.name,
            layer=done.manifest.layer.name,
            index=done.manifest.layer.index,
            manifest_sha256=file_sha256(stage.new / done.folder.name / MANIFEST),
        )
        for done in dumps
    ]
    return Index(layout=dumps[0].manifest.layout, source=dumps[0].manifest.source, sets=tuple(entries))


def _stage_set(stage: Stage, capture: Capture, layout: Layout, force: bool, name: str) -> Dump:
    """Make the set of one layer in the stage, as the folder `name`, and look whether it may be put in place."""
    facts = operation(capture, layout.array.get(TILE_AXIS))
    streams = plan(facts, layout, capture.images)
    target, partial = stage.out / name, stage.new / name
    refuse_foreign(target)
    partial.mkdir()
    writers = [_MemoryWriter(stream, partial) for stream in streams]
    scan, strength = Scan(facts), counting(facts)
    whole = Golden(capture, facts=facts)
    for writer in writers:
        if not writer.stream.streamed:
            writer.add(whole, 0)
    with naming(partial / CAPTURE), (partial / CAPTURE).open("wb") as file:
        copy = CaptureWriter.like(capture, file)
        for start, stop in parts(streamed_tensors(streams), facts, capture.images, most_stored(streams)):
            images = capture.part(start, stop)
            copy.add(images)
            part = Golden(images, facts=facts)
            scan.add(part)
            strength.add(part)
            for writer in writers:
                if writer.stream.streamed:
                    writer.add(part, start)
    check = scan.check()
    files: dict[str, _File] = {}
    for writer in writers:
        writer.close(files)
    memories = tuple(writer.entry(files) for writer in writers)
    formats = manifest_formats(facts, scan.observed)
    steps = None if facts.chain is None else facts.chain.steps
    checksums = {path: file.checksum for path, file in files.items()}
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
        bench=(),
        warnings=warnings(facts, streams),
        steps=steps,  # type: ignore[arg-type]  # every step is one of the union
        ties=facts.ties,
        departs=capture.departs,
    )
    bench = render_bench(partial, manifest, checksums)
    _refuse_same_paths([CAPTURE, *bench, *files])
    for path, text in bench.items():
        append(partial / path, text.encode())
    named = tuple(NamedFile(path=path, sha256=sha256(bench[path].encode())) for path in sorted(bench))
    manifest = msgspec.structs.replace(manifest, bench=named)
    append(partial / MANIFEST, manifest.to_bytes())
    sums = manifest.named_files() | {MANIFEST: sha256(manifest.to_bytes())}
    append(partial / SUMS, sums_text(sums).encode())
    if faults := verify(partial).faults:
        raise CheckFailed(
            f"dump: what was written does not verify: {faults[0]}; nothing was kept, report this as a bug"
        )
    unchanged = target.is_dir() and same_sets(partial, target)
    if not unchanged and target.is_dir() and any(target.iterdir()):
        if not force:
            raise QexportError(f"out: {target} holds another set; add --force to replace it")
        refuse_strays(target)
    return Dump(target, manifest, unchanged)


class _File:
    """A memory file as it grows: its SHA-256 and CRC-32."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.checksum = 0

    def add(self, data: bytes) -> None:
        self.hash.update(data)
        self.checksum = zlib.crc32(data, self.checksum)


class _MemoryWriter:
    """The files of one memory as they grow; those of a memory that follows another one are put behind it in the end."""

    def __init__(self, stream: MemoryFiles, folder: Path):
        self.stream = stream
        self._folder = folder
        self._files = [_File() for _ in stream.specs]
        self._words = [0 for _ in stream.specs]

    def add(self, golden: Golden, first_image: int) -> None:
        """Write what some images, or for a tensor without images the layer, give."""
        first_file, blocks = self.stream.stored(golden.values(self.stream.memory.tensor), first_image)
        for number, block in enumerate(blocks, start=first_file):
            path, _, spec = self.stream.specs[number]
            data = self.stream.format.write(block, spec.from_word(self._words[number]))
            self._words[number] += len(block)
            self._files[number].add(data)
            append(self._place(path), data)

    def _place(self, path: str) -> Path:
        """Where the words are written: in the file, or under a name that no file of a set can have."""
        memory = self.stream.memory
        return self._folder / (f"{path}~{memory.name.encode().hex()}" if memory.follows else path)

    def close(self, files: dict[str, _File]) -> None:
        """Put the words where they belong; those of the memories before stand there, in `files`."""
        for (path, _, _), file in zip(self.stream.specs, self._files, strict=True):
            place = self._place(path)
            if place == self._folder / path:
                files[path] = file
                continue
            with place.open("rb") as words:
                while data := words.read(1 << 20):
                    files[path].add(data)
                    append(self._folder / path, data)
            place.unlink()

    def entry(self, files: Mapping[str, _File]) -> MemoryEntry:
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
                MemoryFile(
                    path=path,
                    index=index,
                    words=tiling.words,
                    first_word=self.stream.first_word,
                    sha256=files[path].hash.hexdigest(),
                )
                for path, index, _ in self.stream.specs
            ),
            **memory.unusual,  # type: ignore[arg-type]  # keys of the same names and types
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
