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


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add_tenants(parser)
    add("--rotate", action="store_true", help="make a new version of each master key first")
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
    from ...kms.lifecycle import key_uses, rewrap, tenants_of

    with key_service(options) as service, data_key_store(options) as store:
        tenants = sorted(set(options.tenant)) or None
        after = _read(options.cursor)
        refused = 0
        if options.rotate and after is None:
            refused = _rotate(service, store, tenants)
        bar = ProgressBar(lambda: sum(one.data_keys for one in key_uses(store, tenants=tenants)))
        with _stopping() as stopped:
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
        left = {one: _left(service, store, one) for one in tenants or tenants_of(store)}
    _tell(report, {one: count for one, count in left.items() if count})
    return OK if report.complete and not refused and not any(left.values()) else FOUND


def _rotate(service: KeyService, store: DataKeyStore, named: list[str] | None) -> int:
    """
    Make a new version for those who are named, or for all who have data keys.

    Who is named is meant: then an error ends it.  Of all, who was shredded is
    passed over, and what concerns one tenant does not keep the others from
    theirs; how many these are is returned.
    """
    from ...kms.lifecycle import tenants_of
    from ...kms.lifecycle._jobs import ends_run

    refused = 0
    for tenant_id in named or list(tenants_of(store)):
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


def _tell(report: RewrapReport, left: dict[str, int]) -> None:
    write = sys.stdout.write
    write(
        f"{counted(report.looked, 'data key')} of {counted(report.tenants, 'tenant')}: "
        f"{report.rewrapped} rewrapped, {report.current} were current, {report.gone} gone\n"
    )
    for code, count in sorted(report.failed.items()):
        write(f"{count} failed: {code}\n")
    if report.stopped is not None:
        write(f"it ended early: {report.stopped}\n")
    for tenant_id, count in left.items():
        write(f"{tenant_id}: {count} {'remains' if count == 1 else 'remain'}\n")
    if not left:
        write("none remains\n")


COMMAND = Command(
    path=("kms", "rewrap"),
    help="have data keys wrapped by the newest version of their master keys",
    configure=configure,
    run=run,
    epilog="Exit status: 0 none remains, 1 some remain or a key was not rotated, "
    "2 it could not be done.\n"
    "It may be killed and run again at any time; services go on meanwhile.\n"
    "A key service that does not tell versions, as AWS KMS, leaves them all: "
    "what counts there\nis that it came to the end.",
)
