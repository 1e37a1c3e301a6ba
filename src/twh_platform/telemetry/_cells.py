"""
Numbers in memory that is written in place: float64 cells, on pages of 64 KiB.

A page is private memory here; in `_worker_file` it is part of a file, so that
what a process counted is still there when it is killed.  Whoever counts knows
only a view and an index, and does the same work in both.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LOST", "PAGE_BYTES", "Cells", "Page", "Slot"]

CELL_BYTES: Final = 8
PAGE_BYTES: Final = 65536
PAGE_CELLS: Final = PAGE_BYTES // CELL_BYTES


class Page:
    """
    One page, seen as numbers and as bytes.

    Attributes:
        cells: The numbers; indices are stable for as long as the page is used.

        raw: The same memory as bytes.

        used: How many cells were given out, from the left.
    """

    __slots__ = ("cells", "raw", "used")

    def __init__(self, memory: bytearray | memoryview) -> None:
        self.raw = memoryview(memory)
        self.cells: memoryview[float] = self.raw.cast("d")
        self.used = 0


class Slot:
    """
    Cells side by side on one page, zero when they are handed out, but perhaps the first.

    Attributes:
        page: Where they are.

        at: The index of the first.

        width: How many there are.

        chunk: What belongs to the owner of the memory; see `_worker_file`.
    """

    __slots__ = ("at", "chunk", "page", "width")

    def __init__(self, page: Page, at: int, width: int, chunk: tuple[int, int] = (0, 0)) -> None:
        self.page = page
        self.at = at
        self.width = width
        self.chunk = chunk

    def read(self) -> list[float]:
        """
        All numbers at once: no other thread runs in between, where there is a GIL.
        """
        numbers = self.page.cells[self.at : self.at + self.width]
        # typeshed has it that all memory is of ints.
        return numbers.tolist()  # type: ignore[return-value]

    def clear(self) -> None:
        """
        Set every cell to zero.
        """
        start = self.at * CELL_BYTES
        self.page.raw[start : start + self.width * CELL_BYTES] = bytes(self.width * CELL_BYTES)


class Cells:
    """
    Private memory, handed out in slots and taken back.

    It grows by a page at a time and never shrinks: slots that came back are
    handed out again.  Not safe by itself for several threads that take.
    """

    def __init__(self) -> None:
        self._pages: list[Page] = []
        self._free: dict[int, list[Slot]] = {}

    def take(
        self, width: int, name: bytes = b"", kind: int = 0, family: int = 0, *, start: float = 0.0
    ) -> Slot | None:
        """
        Hand out *width* cells side by side.

        Args:
            width: How many.

            name: Whose they are; only files keep it.

            kind: As *name*.

            family: As *name*.

            start: What the first one holds.

        Returns:
            The slot, or None where there is no more room.
        """
        del name, kind, family
        free = self._free.get(width)
        slot = free.pop() if free else self._carve(width)
        if slot is not None and start:
            slot.page.cells[slot.at] = start
        return slot

    def give_back(self, slot: Slot) -> None:
        """
        Take a slot back; its owner must have stopped writing.
        """
        slot.clear()
        self._free.setdefault(slot.width, []).append(slot)

    def _carve(self, width: int) -> Slot | None:
        if width > PAGE_CELLS:
            return None
        if not self._pages or self._pages[-1].used + width > PAGE_CELLS:
            self._pages.append(Page(bytearray(PAGE_BYTES)))
        page = self._pages[-1]
        at, page.used = page.used, page.used + width
        return Slot(page, at, width)


LOST: Final = Slot(Page(bytearray(2048)), 0, 256)
"""
Where children count that are on no page: removed ones, and those beyond the budget.
"""
