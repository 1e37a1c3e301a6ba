"""
What a shred keeps while it is under way, so that another run can end it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..._files import replace_file
from ...errors import ConfigurationError

__all__ = ["FileShredJournal", "MemoryShredJournal", "ShredJournal"]


class ShredJournal(Protocol):
    """
    Keeps one text for a tenant: what a shred needs to prove itself later.

    It holds no key and no secret, is authenticated, and stays when the shred is
    done: a second run then gives the same receipt.
    """

    def load(self, tenant_id: str) -> str | None:
        """
        What was saved last, or None.
        """
        ...

    def save(self, tenant_id: str, text: str) -> None:
        """
        Keep it durably, in the place of what there was.
        """
        ...


class MemoryShredJournal:
    """
    A journal that is lost with the process: for tests.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def load(self, tenant_id: str) -> str | None:
        """
        See `ShredJournal.load`.
        """
        return self._texts.get(tenant_id)

    def save(self, tenant_id: str, text: str) -> None:
        """
        See `ShredJournal.save`.
        """
        self._texts[tenant_id] = text


class FileShredJournal:
    """
    A journal in a folder, a file ``TENANT.shred`` for each tenant.

    Args:
        folder: It is made if it is not there.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def load(self, tenant_id: str) -> str | None:
        """
        See `ShredJournal.load`.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``shred_journal_unusable``, if the file cannot be read.
        """
        try:
            return self._path(tenant_id).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._unusable(tenant_id, "read") from error

    def save(self, tenant_id: str, text: str) -> None:
        """
        See `ShredJournal.save`.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``shred_journal_unusable``, if the file cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path(tenant_id), text.encode("ascii"))
        except OSError as error:
            raise self._unusable(tenant_id, "written") from error

    def _path(self, tenant_id: str) -> Path:
        return self._folder / f"{tenant_id}.shred"

    def _unusable(self, tenant_id: str, what: str) -> ConfigurationError:
        message = f"the journal {str(self._path(tenant_id))!r} cannot be {what}"
        return ConfigurationError(message, code="shred_journal_unusable")
