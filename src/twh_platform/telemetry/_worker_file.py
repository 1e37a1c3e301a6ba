r"""
One worker's numbers in a file that outlives it.

A file is a row of pages of 64 KiB.  Numbers are in the machine's byte order::

    page 0     64 bytes of header: "TWHMETR\0", version (u32), bytes of a page (u32),
               id (16), process id (u64), made at (f64), CRC-32 of these (u32), zeros
    then, and from the start of every other page, chunks side by side:
               cells of the chunk, this header included (u32; 0: no more on this page)
               CRC-32 of generation, family, length, kind and name (u32)
               generation (u64): one more each time that the chunk changes hands
               number of the family (u32)
               length of the name (u16), kind (u16; 0: free)
               the name, filled up with zeros to eight bytes
               the numbers (f64)

A chunk is a definition (JSON), a series (its label values, a zero after each),
the exemplars of a series, or ids of workers.

Only the owner writes.  A number is one aligned word of eight bytes, which
x86-64 and AArch64 load and store as one, so that no half of it can be seen.
Readers take each page three times: a chunk whose header is the same in the
first and the last copy was the same series all the while, and its numbers are
those of the copy in the middle.  They use `pread`, not a mapping, because a
file that is cut short under a mapping kills the reader (SIGBUS).  The owner
fills every page with zeros before it maps it: a full disk is then an error
that can be dealt with.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError
from ._cells import CELL_BYTES, PAGE_BYTES, PAGE_CELLS, Cells, Page, Slot
from ._definitions import Definition, Series, clean_help
from ._instruments import read_exemplars
from ._labels import clean_label

__all__ = [
    "EXEMPLARS",
    "FAMILY",
    "IDS",
    "ID_BYTES",
    "SERIES",
    "Source",
    "WorkerFile",
    "definition_name",
    "read_header",
    "series_name",
]

FAMILY: Final = 1
SERIES: Final = 2
EXEMPLARS: Final = 3
IDS: Final = 4
ID_BYTES: Final = 16

VERSION: Final = 1
_MAGIC: Final = b"TWHMETR\0"
_FILE = struct.Struct("=8sII16sQd")
_FILE_BYTES: Final = 64
_CHUNK = struct.Struct("=IIQIHH")
_SEALED = struct.Struct("=QIHH")
_CHUNK_CELLS: Final = _CHUNK.size // CELL_BYTES
# Chunks come in multiples of this, so that one that comes back fits the next series.
_GRAIN: Final = 8


class WorkerFile(Cells):
    """
    Cells in a file, each slot with the name of what it counts.

    Args:
        handle: The open file, empty; closed by `close`.

        lock: The same file, opened once more and locked; closed by `close`.

        identity: 16 bytes that no other file has.

        max_bytes: How large the file may become.

    Raises:
        OSError: If there is no room for the first page.
    """

    def __init__(self, handle: int, identity: bytes, *, max_bytes: int, lock: int) -> None:
        super().__init__()
        self.identity = identity
        self._handle = handle
        self._lock = lock
        self._max_pages = max(1, max_bytes // PAGE_BYTES)
        self._generation = 0
        page = self._grow()
        head = _FILE.pack(_MAGIC, VERSION, PAGE_BYTES, identity, os.getpid(), time.time())
        page.raw[: len(head) + 4] = head + struct.pack("=I", zlib.crc32(head))
        page.used = _FILE_BYTES // CELL_BYTES

    def take(
        self, width: int, name: bytes = b"", kind: int = 0, family: int = 0, *, start: float = 0.0
    ) -> Slot | None:
        """
        Hand out *width* cells under a name; None where the file may not grow, or cannot.
        """
        before = _CHUNK_CELLS + -(-len(name) // CELL_BYTES)
        size = -(-(before + width) // _GRAIN) * _GRAIN
        free = self._free.get(size)
        chunk = free.pop() if free else self._carve(size)
        if chunk is None:
            return None
        page, at = chunk.page, chunk.at
        first = at * CELL_BYTES
        page.raw[first + _CHUNK.size : first + _CHUNK.size + len(name)] = name
        if start:
            # Before the header: no reader sees the series without it.
            page.cells[at + before] = start
        self._generation += 1
        _write_chunk(page, at, size, (self._generation, family, len(name), kind), name)
        return Slot(page, at + before, width, (at, size))

    def give_back(self, slot: Slot) -> None:
        """
        Take a slot back: it is nobody's before its cells become zero.
        """
        at, size = slot.chunk
        self._generation += 1
        _write_chunk(slot.page, at, size, (self._generation, 0, 0, 0), b"")
        start = at * CELL_BYTES
        rest = slot.page.raw[start + _CHUNK.size : start + size * CELL_BYTES]
        rest[:] = bytes(len(rest))
        self._free.setdefault(size, []).append(Slot(slot.page, at, size))

    def close(self) -> None:
        """
        Close the file, and with it give up its lock; mapped pages stay until they are unused.
        """
        if self._handle >= 0:
            os.close(self._handle)
            os.close(self._lock)
            self._handle = -1

    def _carve(self, width: int) -> Slot | None:
        if width > PAGE_CELLS - _FILE_BYTES // CELL_BYTES:
            return None
        page = self._pages[-1]
        if page.used + width > PAGE_CELLS:
            try:
                page = self._grow()
            except OSError:
                return None
        at, page.used = page.used, page.used + width
        return Slot(page, at, width)

    def _grow(self) -> Page:
        count = len(self._pages)
        if count >= self._max_pages:
            raise OSError
        start = count * PAGE_BYTES
        if os.pwrite(self._handle, bytes(PAGE_BYTES), start) != PAGE_BYTES:
            os.ftruncate(self._handle, start)
            raise OSError
        page = Page(memoryview(mmap.mmap(self._handle, PAGE_BYTES, offset=start)))
        self._pages.append(page)
        return page


def _write_chunk(
    page: Page, at: int, size: int, sealed: tuple[int, int, int, int], name: bytes
) -> None:
    generation, family, length, kind = sealed
    seal = zlib.crc32(name, zlib.crc32(_SEALED.pack(*sealed)))
    head = _CHUNK.pack(size, seal, generation, family, length, kind)
    page.raw[at * CELL_BYTES : at * CELL_BYTES + _CHUNK.size] = head


def definition_name(definition: Definition) -> bytes:
    """
    Write a definition as the name of its chunk.
    """
    return json.dumps(
        {
            "name": definition.name,
            "kind": definition.kind,
            "help": definition.help,
            "labels": definition.labels,
            "buckets": definition.buckets,
            "merge": definition.merge,
        }
    ).encode()


def series_name(labels: tuple[str, ...]) -> bytes:
    """
    Write label values as the name of their chunk, a zero after each: clean ones hold none.
    """
    return b"".join(label.encode() + b"\0" for label in labels)


class Header(NamedTuple):
    """
    What the first bytes of a file say.
    """

    identity: bytes
    pid: int


def read_header(handle: int) -> Header | str:
    """
    Read a file's header, or say why the file cannot be read: `version` or `damaged`.
    """
    head = os.pread(handle, _FILE.size + 4, 0)
    if len(head) < _FILE.size + 4 or not head.startswith(_MAGIC):
        return "damaged"
    magic, version, page_bytes, identity, pid, _ = _FILE.unpack_from(head)
    if version != VERSION:
        return "version"
    (seal,) = struct.unpack_from("=I", head, _FILE.size)
    if seal != zlib.crc32(head[: _FILE.size]) or page_bytes != PAGE_BYTES:
        return "damaged"
    del magic
    return Header(identity, pid)


class _Chunk(NamedTuple):
    # What a header and a name mean; decoded once.
    head: bytes
    kind: int
    family: int
    meaning: Any
    cells: int


# A chunk, the copy of its page, and where its numbers begin.
_Found = tuple[_Chunk, bytes, int]
_Family = tuple[Definition, dict[tuple[str, ...], Series]]
_BREATH: Final = 250


@dataclass(slots=True)
class Source:
    """
    A file as it was read last, and what need not be decoded again.

    Attributes:
        families: By shape: the definition, and each series by its label values.

        ids: The workers whose numbers are in it, besides its own.

        faults: Why parts of it could not be read.

        pid: The process id that the file names.
    """

    families: dict[tuple[object, ...], _Family] = field(default_factory=dict)
    ids: set[bytes] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    pid: int = 0
    _known: dict[tuple[int, int], _Chunk] = field(default_factory=dict)

    def begin(self, pid: int) -> Source:
        """
        An empty one that knows what this one has decoded.
        """
        return Source(pid=pid, _known=self._known)

    def read(self, handle: int, *, gauges: bool, max_bytes: int) -> Iterator[None]:
        """
        Read the file anew, with a breath after each page.

        Args:
            handle: The open file, whose header was found good.

            gauges: Whether its gauges count: only those of the living do.

            max_bytes: What lies beyond is left out, as a fault.
        """
        self.faults = []
        length = os.fstat(handle).st_size
        if length % PAGE_BYTES or length > max_bytes:
            self.faults.append("damaged")
        found: list[_Found] = []
        known: dict[tuple[int, int], _Chunk] = {}
        for number in range(min(length, max_bytes) // PAGE_BYTES):
            self._read_page(handle, number, found, known)
            yield
        self._known = known
        yield from self._sort(found, gauges=gauges)

    def _read_page(
        self,
        handle: int,
        number: int,
        found: list[_Found],
        known: dict[tuple[int, int], _Chunk],
    ) -> None:
        first, page, last = (os.pread(handle, PAGE_BYTES, number * PAGE_BYTES) for _ in range(3))
        if not len(first) == len(page) == len(last) == PAGE_BYTES:
            self.faults.append("damaged")
            return
        at = _FILE_BYTES if number == 0 else 0
        while at + _CHUNK.size <= PAGE_BYTES:
            size = int.from_bytes(first[at : at + 4], sys.byteorder) * CELL_BYTES
            if size == 0:
                return
            if size < _CHUNK.size or at + size > PAGE_BYTES:
                self.faults.append("damaged")
                return
            head = first[at : at + _CHUNK.size]
            if head == last[at : at + _CHUNK.size] and head[-2:] != b"\0\0":
                chunk = self._known.get((number, at))
                if chunk is None or chunk.head != head:
                    chunk = self._decode(head, first, at, size)
                if chunk is not None:
                    known[number, at] = chunk
                    found.append((chunk, page, at + chunk.cells))
            at += size

    def _decode(self, head: bytes, page: bytes, at: int, size: int) -> _Chunk | None:
        _, seal, generation, family, length, kind = _CHUNK.unpack(head)
        name = page[at + _CHUNK.size : at + _CHUNK.size + length]
        sealed = _SEALED.pack(generation, family, length, kind)
        if _CHUNK.size + length > size or seal != zlib.crc32(name, zlib.crc32(sealed)):
            self.faults.append("damaged")
            return None
        cells = _CHUNK.size + -(-length // CELL_BYTES) * CELL_BYTES
        meaning = _meaning(kind, name, (size - cells) // CELL_BYTES)
        if meaning is None:
            self.faults.append("damaged")
            return None
        return _Chunk(head, kind, family, meaning, cells)

    def _sort(self, found: list[_Found], *, gauges: bool) -> Iterator[None]:
        self.families, self.ids = {}, set()
        numbered: dict[int, _Family] = {}
        late: list[_Found] = []
        for one in found:
            chunk = one[0]
            if chunk.kind == FAMILY and (gauges or chunk.meaning.kind != "gauge"):
                numbered[chunk.family] = (chunk.meaning, {})
                self.families[chunk.meaning.shape] = numbered[chunk.family]
            elif chunk.kind == IDS:
                self.ids |= chunk.meaning
            elif chunk.kind == EXEMPLARS:
                late.append(one)
        yield
        yield from self._each(found, SERIES, numbered, self._add)
        yield from self._each(late, EXEMPLARS, numbered, _add_exemplars)

    def _each(
        self,
        found: list[_Found],
        kind: int,
        numbered: dict[int, _Family],
        add: Callable[[_Family, _Chunk, bytes, int], None],
    ) -> Iterator[None]:
        for count, (chunk, page, start) in enumerate(found):
            if chunk.kind == kind and chunk.family in numbered:
                add(numbered[chunk.family], chunk, page, start)
            if count % _BREATH == 0:
                yield

    def _add(self, family: _Family, chunk: _Chunk, page: bytes, start: int) -> None:
        definition, series = family
        labels, width = chunk.meaning
        if len(labels) != len(definition.labels) or width < definition.width:
            self.faults.append("damaged")
            return
        numbers = struct.unpack_from(f"={definition.width}d", page, start)
        if definition.kind != "gauge" and not _plausible(definition, numbers):
            self.faults.append("damaged")
            return
        series[labels] = Series(labels, numbers, {})


def _add_exemplars(family: _Family, chunk: _Chunk, page: bytes, start: int) -> None:
    definition, series = family
    labels, width = chunk.meaning
    if labels in series:
        read = read_exemplars(page, start, width)
        kept = {at: one for at, one in read.items() if at < definition.width - 1}
        series[labels].exemplars.update(kept)


def _plausible(definition: Definition, numbers: tuple[float, ...]) -> bool:
    # NaN is not: one would stay in the sum of all workers for ever.
    if definition.kind == "histogram":
        # OpenMetrics 1.0.0, section 5.3: counts of buckets are integers; others reject the page.
        counts = all(0.0 <= number < 1e300 and number.is_integer() for number in numbers[1:])  # noqa: PLR2004
        return counts and abs(numbers[0]) < 1e300  # noqa: PLR2004
    return 0.0 <= numbers[0] < 1e300  # noqa: PLR2004 -- so that no sum of them overflows


def _meaning(kind: int, name: bytes, width: int) -> Any:
    if kind == FAMILY:
        return _read_definition(name)
    if kind in {SERIES, EXEMPLARS}:
        parts = name.decode(errors="replace").split("\0")[:-1]
        return tuple(clean_label(part) for part in parts), width
    if kind == IDS and len(name) % ID_BYTES == 0:
        return {name[at : at + ID_BYTES] for at in range(0, len(name), ID_BYTES)}
    return None


def _read_definition(name: bytes) -> Definition | None:
    try:
        read = json.loads(name)
        if read["kind"] not in {"counter", "gauge", "histogram"}:
            return None
        if read["merge"] not in {"sum", "max", "min", "each"}:
            return None
        return Definition(
            name=read["name"],
            kind=read["kind"],
            help=clean_help(read["help"]),
            labels=tuple(read["labels"]),
            buckets=tuple(float(bound) for bound in read["buckets"]),
            merge=read["merge"],
        )
    except (ConfigurationError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
