"""
`twh-platform kms rewrap`: have data keys wrapped by the newest version of their master keys.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError, KeyDestroyedError, KeyNotFoundError, KeyServiceError
from .._command import FOUND, OK, Command
from .._keys import add_data_keys, add_key_service, add_tenants, data_key_store, key_service
from .._output import counted
from .._progress import ProgressBar

if TYPE_CHECKING:
    from ...kms import DataKeyStore, KeyService
    from ...kms.lifecycle import JobProgress, RewrapReport

__all__ = ["COMMAND"]

_PASSES = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add_tenants(parser)
    add(
        "--rotate",
        action="store_true",
        help="make a new version of each master key first, unless the last one is not used by all",
    )
    add("--rate", type=float, metavar="NUMBER", help="data keys per second; all it can if left out")
    add("--check", action="store_true", help="open and compare each before it is stored")
    add(
        "--cursor",
        type=Path,
        metavar="FILE",
        help="keep here how far it is, and go on there; the file goes at the end",
    )
    add(
        "--from-keyset",
        type=Path,
        metavar="FILE",
        help="move here what the keyset in FILE has wrapped",
    )
    add_key_service(parser)
    add_data_keys(parser)


def run(options: argparse.Namespace) -> int:
    """
    Rewrap, and say what was done and what remains.
    """
    with key_service(options) as service, data_key_store(options) as store:
        after = _read(options.cursor)
        refused = 0
        if options.rotate and after is None:
            refused = _rotate(service, store, _named(options))
        elif options.rotate:
            sys.stdout.write(f"going on at {options.cursor}: nothing is rotated\n")
        with _stopping() as stopped:
            report, left = _passes(options, service, store, after, stopped)
    for tenant_id, count in left.items():
        sys.stdout.write(f"{tenant_id}: {_remain(count)}\n")
    if not left:
        sys.stdout.write("none remains\n")
    return OK if report.complete and not refused and not left else FOUND


def _passes(
    options: argparse.Namespace,
    service: KeyService,
    store: DataKeyStore,
    after: str | None,
    stopped: Callable[[], bool],
) -> tuple[RewrapReport, dict[str, int]]:
    """
    Go over the data keys, and once more from the start while that can help.

    What was wrapped just before the rotation may be stored behind the place
    where a pass is, or after one that somebody else rotated in.
    """
    from ...kms.lifecycle import tenants_of

    passes = 0
    while True:
        passes += 1
        report = _one_pass(options, service, store, after, stopped)
        _tell(report)
        counts = {one: _left(service, store, one) for one in _named(options) or tenants_of(store)}
        left = {one: count for one, count in counts.items() if count}
        if passes == _PASSES or not _can_help(report, sum(left.values())):
            return report, left
        after = None
        sys.stdout.write(f"{_remain(sum(left.values()))}: once more from the start\n")


def _can_help(report: RewrapReport, left: int) -> bool:
    # What was refused will be again; what somebody changed meanwhile need not be.
    refused = sum(report.failed.values()) - report.failed.get("rewrap_conflict", 0)
    return report.stopped is None and left > refused


def _one_pass(
    options: argparse.Namespace,
    service: KeyService,
    store: DataKeyStore,
    after: str | None,
    stopped: Callable[[], bool],
) -> RewrapReport:
    from ...kms.lifecycle import key_uses, rewrap

    tenants = _named(options)
    bar = ProgressBar(lambda: sum(one.data_keys for one in key_uses(store, tenants=tenants)))
    report = rewrap(
        service,
        store,
        tenants=tenants,
        after=after,
        origin=_origin(options),
        check=options.check,
        rate=options.rate,
        progress=_both(bar, options.cursor),
        stop=stopped,
    )
    bar.close()
    _keep(options.cursor, report.cursor)
    return report


def _named(options: argparse.Namespace) -> list[str] | None:
    return sorted(set(options.tenant)) or None


def _rotate(service: KeyService, store: DataKeyStore, named: list[str] | None) -> int:
    """
    Make a new version for those who are named, or for all who have data keys.

    Who is named is meant: then an error ends it.  Of all, who was shredded is
    passed over, and what concerns one tenant does not keep the others from
    theirs; how many these are is returned.  Whose last rotation is not finished
    is not rotated again: that is what a repeated command is for.
    """
    from ...kms.lifecycle import tenants_of
    from ...kms.lifecycle._jobs import ends_run

    refused = 0
    for tenant_id in named or list(tenants_of(store)):
        waiting, version = _unfinished(service, store, tenant_id)
        if waiting:
            keys = counted(waiting, "data key")
            sys.stdout.write(
                f"{tenant_id}: not rotated again, version {version} waits for {keys}\n"
            )
            continue
        try:
            info = service.rotate(tenant_id)
        except KeyServiceError as error:
            if named is not None or ends_run(error):
                raise
            if _is_shredded(store, tenant_id, error):
                sys.stdout.write(f"{tenant_id}: passed over, its keys are destroyed\n")
            else:
                refused += 1
                sys.stdout.write(f"{tenant_id}: not rotated, {error.code}\n")
        else:
            sys.stdout.write(f"{tenant_id}: version {info.version or 'new'} wraps\n")
    return refused


def _unfinished(service: KeyService, store: DataKeyStore, tenant_id: str) -> tuple[int, int]:
    """
    How many data keys are by an older version, and which version wraps.
    """
    from ...kms.lifecycle import key_uses

    uses = [one for one in key_uses(store, tenants=[tenant_id]) if one.key_version]
    if not uses:
        return 0, 0
    try:
        info = service.describe(tenant_id)
    except KeyServiceError:
        return 0, 0  # to rotate it fails too, and is told
    mine = [one for one in uses if (one.provider, one.key_ref) == (service.name, info.key_ref)]
    waiting = sum(one.data_keys for one in mine if one.key_version < info.version)
    return waiting, info.version


def _is_shredded(store: DataKeyStore, tenant_id: str, error: KeyServiceError) -> bool:
    from ...kms._owner import as_owner

    # A service that forgets destroyed keys knows none: then the store is asked.
    with as_owner(tenant_id):
        return isinstance(error, KeyDestroyedError) or store.shredded(tenant_id)


def _left(service: KeyService, store: DataKeyStore, tenant_id: str) -> int:
    from ...kms.lifecycle import key_uses, remaining

    try:
        return remaining(service, store, tenant_id)
    except KeyNotFoundError:
        return sum(one.data_keys for one in key_uses(store, tenants=[tenant_id]))


def _origin(options: argparse.Namespace) -> KeyService | None:
    if options.from_keyset is None:
        return None
    from ...kms import LocalKeyService

    return LocalKeyService(options.from_keyset, create_missing=False)


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    # At Ctrl-C or SIGTERM the page that is under way is finished first.
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _both(bar: ProgressBar, path: Path | None) -> Callable[[JobProgress], None]:
    def tell(progress: JobProgress) -> None:
        _keep(path, progress.cursor)
        bar(progress)

    return tell


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path) from error


def _keep(path: Path | None, cursor: str | None) -> None:
    if path is None:
        return
    from ..._files import replace_file

    try:
        if cursor is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, f"{cursor}\n".encode("ascii"))
    except OSError as error:
        raise _unusable(path) from error


def _unusable(path: Path) -> ConfigurationError:
    message = f"cannot read or write the cursor {str(path)!r}"
    return ConfigurationError(message, code="job_cursor_unusable")


def _tell(report: RewrapReport) -> None:
    write = sys.stdout.write
    write(
        f"{counted(report.looked, 'data key')} of {counted(report.tenants, 'tenant')}: "
        f"{report.rewrapped} rewrapped, {report.current} were current, {report.gone} gone\n"
    )
    for code, count in sorted(report.failed.items()):
        write(f"{count} failed: {code}\n")
    if report.stopped is not None:
        write(f"it ended early: {report.stopped}\n")


def _remain(count: int) -> str:
    return f"{count} {'remains' if count == 1 else 'remain'}"


COMMAND = Command(
    path=("kms", "rewrap"),
    help="have data keys wrapped by the newest version of their master keys",
    configure=configure,
    run=run,
    epilog="Exit status: 0 none remains, 1 some remain or a key was not rotated, "
    "2 it could not be done.\n"
    "It may be killed and run again at any time; services go on meanwhile.\n"
    "What is stored behind its place is found by another pass, two at most.\n"
    "--rotate does not rotate a tenant again whose data keys are not yet all by its newest\n"
    "version: it ends that rotation, and the next run makes a new version.\n"
    "A key service that does not tell versions, as AWS KMS, leaves them all: "
    "what counts there\nis that it came to the end.",
)
