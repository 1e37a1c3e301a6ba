"""
Several workers, one page: a directory with a file for each process.

What each file holds is drawn in `_worker_file`.  The directory holds::

    ID.metrics         a worker's numbers; locked (flock) by it for as long as it lives
    retained.metrics   the sum of the dead: counters and histograms, and whose they are
    lock               held by whoever folds the dead into it
    .new-...           a file that has not got its name yet

A worker lives while its lock is held.  The kernel gives the lock up with the
process, however it ends, so process ids, which come back, say nothing.

The dead are counted exactly once.  Folding writes a new `retained.metrics`,
with their ids in it, renames it into place, and only then removes their files:
killed before the rename nothing has happened, and killed after it their ids
tell that what is left of them has been counted.  A reader opens the workers'
files first and `retained.metrics` second, and leaves out those whose ids are
in it: a file that was gone before it looked has its id in there, and one that
goes while it looks stays readable, because it is open.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from .._forks import reset_after_fork
from ..errors import ConfigurationError
from ._definitions import Definition, Series
from ._instruments import EXEMPLAR_CELLS, pack_exemplar, write_exemplar
from ._merging import add_up
from ._worker_file import (
    EXEMPLARS,
    FAMILY,
    ID_BYTES,
    IDS,
    SERIES,
    Header,
    Source,
    WorkerFile,
    definition_name,
    read_header,
    series_name,
)

__all__ = ["Gathered", "MetricsDirectory"]

_SUFFIX = ".metrics"
_RETAINED = "retained.metrics"
_NEW = ".new-"
_LOCK = "lock"
# Ids of folded workers that are remembered: more than can be folded while one reader
# opens the files.
_REMEMBERED = 4000
_IDS_IN_A_CHUNK = 1000
# So many dead files are folded by a worker that starts, when nobody asks for the page.
_PILE = 16
_TRIES = 100
_BREATH = 200
# Windows has none of these flags, and no directory either; but it imports this module.
_SAFE: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_OPEN = os.O_RDONLY | _SAFE | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE


class _Handle:
    """
    A descriptor that is closed once: in a forked child its number may soon be another file's.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags, 0o600)

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


class _Opened(NamedTuple):
    name: str
    handle: _Handle
    header: Header
    dead: bool

    @property
    def key(self) -> tuple[str, bytes]:
        # What is retained has one name, and an id of its own each time that it is written.
        return self.name, self.header.identity


class Gathered(NamedTuple):
    """
    What the other workers have counted.

    Args:
        sources: One for each worker, and one for all that are gone.

        faults: Why files, or parts of them, were left out.

        forgotten: How many series of dead workers were given up for others.
    """

    sources: list[Source]
    faults: list[str]
    forgotten: int


class MetricsDirectory:
    """
    Where the workers of one service on one machine share their numbers.

    Give every worker's `Registry` a directory of the same path: any of them
    then answers for all.  Best on a file system in memory (``/dev/shm``, a
    systemd ``RuntimeDirectory``); it must be local and know `flock`.  What is
    in it after a restart is counted on.  Another service needs another one.

        >>> import tempfile
        >>> from twh_platform.telemetry import Registry
        >>> shared = MetricsDirectory(tempfile.mkdtemp())
        >>> orders = Registry(shared=shared).counter("orders_total", "Orders placed.")
        >>> orders.inc()

    Args:
        path: The directory; made with mode 700 where it is missing.

        max_bytes: How large one worker's file may become; series beyond it are
            refused and counted.

        max_retained: How many series of dead workers are kept.  Beyond it those
            go that no dead worker has added to for longest; they are counted.

    Raises:
        twh_platform.errors.ConfigurationError: `metrics_directory_invalid`, if it
            is no directory, belongs to somebody else, or others may write to it;
            `metrics_directory_unsupported`, where there is no `flock`, as on Windows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 64 * 1024 * 1024,
        max_retained: int = 20_000,
    ) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.max_retained = max_retained
        self._sources: dict[tuple[str, bytes], Source] = {}
        # What a page that is being made has open.
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        _check_directory(self.path)
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Close what the parent has open for a page: its locks would last as long as this child.
        """
        for handle in list(self._handles):
            handle.close()

    def attach(self) -> WorkerFile:
        """
        Make this process's file, and hold its lock.

        Raises:
            OSError: If there is no room, or the directory is gone.
        """
        if len(list(self._names())) >= _PILE:
            with contextlib.suppress(OSError):
                for _ in self._fold():
                    pass
        for _ in range(_TRIES):
            identity = secrets.token_bytes(ID_BYTES)
            new = self.path / f"{_NEW}{identity.hex()}"
            # Somebody who cleans up may come between making and locking.
            with contextlib.suppress(FileNotFoundError):
                file = self._begin(new, identity, self.max_bytes)
                if file is not None:
                    try:
                        new.rename(self.path / _file_name(identity))
                    except BaseException:
                        file.close()
                        raise
                    return file
        raise OSError

    def gather(self, own: bytes) -> Generator[None, None, Gathered]:
        """
        Read what all the others have counted, with breaths in between.

        Never raises for what it finds in the directory.

        Args:
            own: The id of the file to leave out.

        Returns:
            What was found, as the generator's value.
        """
        faults: list[str] = []
        forgotten = 0
        if not _is_there(self.path / _file_name(own)):
            # Somebody has cleaned up: those who come later see nothing of this worker.
            faults.append("removed")
        try:
            forgotten = yield from self._fold(faults)
        except OSError:
            faults.append("unfolded")
        with contextlib.ExitStack() as stack:
            opened = self._open_all(stack, faults, leave_out=own.hex())
            retained = self._open(_RETAINED, stack, faults)
            sources: list[Source] = []
            if retained is not None:
                sources.append((yield from self._read(retained, faults, gauges=False)))
            counted = sources[0].ids if sources else set()
            for one in opened:
                if one.header.identity not in counted:
                    source = yield from self._read(one, faults, gauges=not one.dead)
                    sources.append(source)
            self._forget({*opened, *filter(None, [retained])})
            # The dead first: the last to define a metric has the say.
            return Gathered(sources, faults, forgotten)

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and entry.name != _RETAINED:
                    yield entry.name

    def _open_all(
        self, stack: contextlib.ExitStack, faults: list[str], *, leave_out: str
    ) -> list[_Opened]:
        names = [name for name in self._names() if not name.startswith(leave_out)]
        found = (self._open(name, stack, faults) for name in names)
        return [one for one in found if one is not None]

    def _open(self, name: str, stack: contextlib.ExitStack, faults: list[str]) -> _Opened | None:
        try:
            handle = self._hold(self.path / name, _OPEN, stack)
        except FileNotFoundError:
            return None
        except OSError:
            faults.append("unreadable")
            return None
        header: Header | str = "unreadable"
        if stat.S_ISREG(os.fstat(handle.number).st_mode):
            header = read_header(handle.number)
        if isinstance(header, str):
            faults.append(header)
            return None
        # Shared, so that two who look do not take each other for the worker.
        return _Opened(name, handle, header, _lock(handle.number, shared=True))

    def _hold(self, path: Path, flags: int, stack: contextlib.ExitStack) -> _Handle:
        handle = _Handle(path, flags)
        stack.callback(handle.close)
        self._handles.add(handle)
        return handle

    def _read(
        self, one: _Opened, faults: list[str], *, gauges: bool
    ) -> Generator[None, None, Source]:
        source = self._sources.setdefault(one.key, Source())
        # Read into a copy: another page may be in the making.
        fresh = source.begin(one.header.pid)
        try:
            yield from fresh.read(
                one.handle.number,
                gauges=gauges,
                max_bytes=max(self.max_bytes, self._retained_bytes()),
            )
        except OSError:
            fresh.faults.append("unreadable")
        self._sources[one.key] = fresh
        faults.extend(fresh.faults)
        return fresh

    def _forget(self, opened: set[_Opened]) -> None:
        for key in self._sources.keys() - {one.key for one in opened}:
            self._sources.pop(key, None)

    def _retained_bytes(self) -> int:
        return max(self.max_bytes, 4096 * self.max_retained)

    def _fold(self, faults: list[str] | None = None) -> Generator[None, None, int]:
        # Returns how many series were forgotten.
        faults = [] if faults is None else faults
        with contextlib.ExitStack() as stack:
            lock = self._hold(self.path / _LOCK, os.O_RDWR | os.O_CREAT | _SAFE, stack)
            if not _lock(lock.number):
                return 0
            self._sweep()
            dead = [one for one in self._open_all(stack, [], leave_out="-") if one.dead]
            if not dead:
                return 0
            retained = self._open(_RETAINED, stack, faults)
            if retained is None and "version" in faults:
                # Not ours to overwrite: a release that can read it may still be here.
                return 0
            totals = _Totals(self.max_retained)
            if retained is not None:
                yield from totals.add((yield from self._read(retained, faults, gauges=False)))
            news = [one for one in dead if one.header.identity not in totals.ids]
            for one in news:
                yield from totals.add((yield from self._read(one, faults, gauges=False)))
                totals.ids[one.header.identity] = None
            if news:
                yield from self._retain(totals, lock)
            for one in dead:
                (self.path / one.name).unlink(missing_ok=True)
            return totals.forgotten

    def _retain(self, totals: _Totals, lock: _Handle) -> Iterator[None]:
        new = self.path / f"{_NEW}{secrets.token_hex(ID_BYTES)}"
        file = self._begin(new, secrets.token_bytes(ID_BYTES), self._retained_bytes())
        if file is None:
            raise OSError
        try:
            yield from totals.write(file)
            if lock.number < 0:
                # A forked child that goes on with its parent's page: this is its parent's work.
                raise OSError
            new.rename(self.path / _RETAINED)
        finally:
            # Without a name it will be swept.  Not removed here: it may be the parent's.
            file.close()

    def _begin(self, new: Path, identity: bytes, max_bytes: int) -> WorkerFile | None:
        lock = os.open(new, _CREATE, 0o600)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, lock)
            stack.callback(new.unlink, missing_ok=True)
            if not _lock(lock):
                return None
            # Opened once more: a mapping keeps what it was made from open, and so the lock.
            handle = os.open(new, os.O_RDWR | _SAFE)
            stack.callback(os.close, handle)
            file = WorkerFile(handle, identity, max_bytes=max_bytes, lock=lock)
            stack.pop_all()
            return file

    def _sweep(self) -> None:
        # Files that never got a name: their makers were killed, or are about to look again.
        for left in self.path.glob(f"{_NEW}*"):
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                handle = os.open(left, _OPEN)
                stack.callback(os.close, handle)
                if _lock(handle, shared=True):
                    left.unlink(missing_ok=True)


class _Totals:
    """
    The sum of what dead workers counted.
    """

    def __init__(self, most: int) -> None:
        self.ids: dict[bytes, None] = {}
        self.forgotten = 0
        self._most = most
        self._definitions: dict[tuple[object, ...], Definition] = {}
        # By shape and labels, those that were added to last at the end.
        self._series: dict[tuple[tuple[object, ...], tuple[str, ...]], Series] = {}

    def add(self, source: Source) -> Iterator[None]:
        self.ids.update(dict.fromkeys(source.ids))
        for shape, (definition, all_series) in source.families.items():
            if definition.kind == "gauge":
                continue
            self._definitions[shape] = definition
            for count, (labels, series) in enumerate(all_series.items()):
                if count % _BREATH == 0:
                    yield
                before = self._series.pop((shape, labels), None)
                self._series[shape, labels] = series if before is None else add_up(before, series)
        self._shrink()

    def write(self, file: WorkerFile) -> Iterator[None]:
        ids = list(self.ids)[-_REMEMBERED:]
        for start in range(0, len(ids), _IDS_IN_A_CHUNK):
            if file.take(0, b"".join(ids[start : start + _IDS_IN_A_CHUNK]), IDS) is None:
                raise OSError
        numbers: dict[tuple[object, ...], int] = {}
        for count, ((shape, labels), series) in enumerate(self._series.items()):
            if shape not in numbers:
                number = numbers[shape] = len(numbers)
                file.take(0, definition_name(self._definitions[shape]), FAMILY, number)
            self._write_one(file, numbers[shape], labels, series)
            if count % _BREATH == 0:
                yield

    def _write_one(
        self, file: WorkerFile, family: int, labels: tuple[str, ...], series: Series
    ) -> None:
        name = series_name(labels)
        slot = file.take(len(series.numbers), name, SERIES, family)
        if slot is None:
            self.forgotten += 1
            return
        for at, number in enumerate(series.numbers, slot.at):
            slot.page.cells[at] = number
        if series.exemplars:
            buckets = len(series.numbers) - 1
            kept = file.take(buckets * EXEMPLAR_CELLS, name, EXEMPLARS, family)
            for bucket, exemplar in series.exemplars.items():
                if kept is not None and bucket < buckets:
                    write_exemplar(kept, bucket, pack_exemplar(*exemplar))

    def _shrink(self) -> None:
        while len(self._series) > self._most:
            self._series.pop(next(iter(self._series)))
            self.forgotten += 1


def _file_name(identity: bytes) -> str:
    return f"{identity.hex()}{_SUFFIX}"


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _lock(handle: int, *, shared: bool = False) -> bool:
    import fcntl  # not on Windows

    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_directory(path: Path) -> None:
    try:
        import fcntl  # noqa: F401 -- asked for before anything is made
    except ImportError as error:
        message = "workers cannot share metrics here: the system has no flock"
        raise ConfigurationError(message, code="metrics_directory_unsupported") from error
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        message = f"path={str(path)!r} cannot be a directory of metrics: {error.strerror}"
        raise ConfigurationError(message, code="metrics_directory_invalid") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        message = f"path={str(path)!r} belongs to, or can be written by, somebody else"
        raise ConfigurationError(message, code="metrics_directory_invalid")
