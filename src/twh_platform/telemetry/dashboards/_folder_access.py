"""
Who may see which folder, as Grafana's HTTP API takes it.

A folder's list is replaced as a whole: whoever is not on it sees nothing of the
folder, but for administrators of the organisation, whom no list keeps out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ...errors import BackendUnavailableError, ConfigurationError
from ._boards import FOLDERS

__all__ = ["DEFAULT_GRANTS", "Grafana", "Grant", "parse_grant", "set_folder_access"]

_LEVELS: Final = {"view": 1, "edit": 2, "admin": 4}
_ROLES: Final = {"viewer": "Viewer", "editor": "Editor"}
_grant = re.compile(r"(?P<folder>[^=]+)=(?P<kind>role|team|user):(?P<who>.+):(?P<level>\w+)")


class Grant(NamedTuple):
    """
    A right.

    Args:
        folder: The uid of a folder.

        kind: ``role``, ``team`` or ``user``.

        who: ``viewer`` or ``editor``, the name of a team, the login or address of a user.

        level: ``view``, ``edit`` or ``admin``.
    """

    folder: str
    kind: str
    who: str
    level: str


DEFAULT_GRANTS: Final = (
    Grant("twh-platform", "role", "viewer", "view"),
    Grant("twh-business", "role", "viewer", "view"),
)
"""
What holds unless something else is asked for: only administrators see who the tenants are.
"""


class Grafana(Protocol):
    """
    Grafana, as far as folders need it.
    """

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """
        Read; None where there is nothing.
        """

    def post(self, path: str, value: Mapping[str, Any]) -> Any:
        """
        Write.
        """


def parse_grant(text: str) -> Grant:
    """
    Read a right as ``twh-tenants=team:Support:view``.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``dashboard_grant_invalid``.
    """
    found = _grant.fullmatch(text)
    if found is None or found["level"] not in _LEVELS or found["folder"] not in FOLDERS:
        message = (
            f"{text!r} is not as twh-tenants=team:Support:view; folders are {', '.join(FOLDERS)},"
            f" levels {', '.join(_LEVELS)}"
        )
        raise ConfigurationError(message, code="dashboard_grant_invalid")
    if found["kind"] == "role" and found["who"] not in _ROLES:
        message = f"{text!r}: a role is one of {', '.join(_ROLES)}"
        raise ConfigurationError(message, code="dashboard_grant_invalid")
    return Grant(**found.groupdict())


def set_folder_access(
    grafana: Grafana, grants: Sequence[Grant], *, check: bool = False
) -> list[str]:
    """
    Make the rights of all folders exactly these.

    Everything is looked up before anything is changed, and what was set is read again.

    Args:
        grafana: Where.

        grants: The rights.

        check: Change nothing.

    Returns:
        A line for each folder that is, or was, different.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``dashboard_grant_unknown``
            if there is no such team or user, and ``grafana_refused`` if Grafana
            does not keep what it was told.

        twh_platform.errors.BackendUnavailableError: With code ``grafana_unavailable``
            if an answer is not of Grafana's API.
    """
    try:
        return _folder_access(grafana, grants, check=check)
    except (AttributeError, KeyError, TypeError) as error:
        message = "Grafana answered with JSON that is not of its API"
        raise BackendUnavailableError(message, code="grafana_unavailable") from error


def _folder_access(grafana: Grafana, grants: Sequence[Grant], *, check: bool) -> list[str]:
    wanted = {uid: _items(grafana, uid, grants) for uid in FOLDERS}
    told = []
    for uid, items in wanted.items():
        folder = grafana.get(f"/api/folders/{uid}")
        if folder is not None and _now(grafana, uid) == _as_set(items):
            continue
        told.append(f"{uid}: {'has other rights' if folder is not None else 'is not there'}")
        if not check:
            _set(grafana, uid, items, exists=folder is not None)
    return told


def _set(grafana: Grafana, uid: str, items: list[dict[str, Any]], *, exists: bool) -> None:
    if not exists:
        grafana.post("/api/folders", {"uid": uid, "title": FOLDERS[uid]})
    grafana.post(f"/api/folders/{uid}/permissions", {"items": items})
    if _now(grafana, uid) != _as_set(items):
        message = f"the rights of {uid} are not what was set"
        raise ConfigurationError(message, code="grafana_refused")


def _items(grafana: Grafana, uid: str, grants: Sequence[Grant]) -> list[dict[str, Any]]:
    return [
        {**_whom(grafana, grant), "permission": _LEVELS[grant.level]}
        for grant in grants
        if grant.folder == uid
    ]


def _whom(grafana: Grafana, grant: Grant) -> dict[str, Any]:
    if grant.kind == "role":
        return {"role": _ROLES[grant.who]}
    if grant.kind == "team":
        found = grafana.get("/api/teams/search", {"name": grant.who}) or {"teams": []}
        ids = [one["id"] for one in found["teams"] if one["name"] == grant.who]
    else:
        found = grafana.get("/api/users/lookup", {"loginOrEmail": grant.who})
        ids = [] if found is None else [found["id"]]
    if len(ids) != 1:
        message = f"Grafana knows no {grant.kind} {grant.who!r}"
        raise ConfigurationError(message, code="dashboard_grant_unknown")
    return {f"{grant.kind}Id": ids[0]}


def _now(grafana: Grafana, uid: str) -> set[tuple[Any, ...]]:
    found = grafana.get(f"/api/folders/{uid}/permissions") or []
    # The administrators' own right is shown as well, and cannot be taken.
    return _as_set(one for one in found if not one.get("inherited") and one.get("role") != "Admin")


def _as_set(items: Any) -> set[tuple[Any, ...]]:
    return {
        (one.get("role") or "", one.get("teamId") or 0, one.get("userId") or 0, one["permission"])
        for one in items
    }
