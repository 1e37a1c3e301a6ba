"""
TWH8xx: the server, and whether there was anything to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .._findings import Hit
from .._survey import Survey
from ._make import rule

__all__ = ["FIRST_FIXED", "RULES"]

FIRST_FIXED: Mapping[str, Mapping[int, int]] = {
    "CVE-2016-2193": {},
    "CVE-2023-2455": {15: 3},
    "CVE-2023-39418": {15: 4},
    "CVE-2024-10976": {15: 9, 16: 5, 17: 1},
    "CVE-2025-8713": {15: 14, 16: 10, 17: 6},
}
"""
The faults of row security, each with the first minor of a major that is free of it.

A major that is not listed never had it.  CVE-2016-2193 was of 9.5, which this lint
does not read.
"""


@rule(
    "TWH801",
    "old-minor",
    "error",
    title="The server has a known fault of row security.",
    why="Cached plans and statistics gave rows away past the policies; a newer minor has the fix.",
    attacks=(25,),
)
def old_minor(survey: Survey) -> Iterator[Hit]:
    """
    Compare the server's version with the first fixed ones.
    """
    server = survey.catalog.server
    open_faults = {
        fault: fixed[server.major]
        for fault, fixed in FIRST_FIXED.items()
        if server.minor < fixed.get(server.major, 0)
    }
    if open_faults:
        wanted = f"{server.major}.{max(open_faults.values())}"
        yield Hit(
            kind="server",
            object=f"PostgreSQL {server.major}",
            message=f"{server.major}.{server.minor} has {', '.join(open_faults)}.",
            remedy=f"-- Install {wanted} or newer and restart the server; then this says so:\n"
            "SHOW server_version;",
        )


@rule(
    "TWH802",
    "no-tenant-found",
    "warning",
    title="Nothing in the database looks like a tenant's.",
    why="A lint that had nothing to look at has not found it good.",
)
def no_tenant_found(survey: Survey) -> Iterator[Hit]:
    """
    Look whether any table was recognised.
    """
    if not survey.tenant_tables:
        yield Hit(
            kind="database",
            object=survey.catalog.server.database,
            message="No table has a column that a policy compares with a setting, a function or "
            "the role, nor one with a usual name.",
            remedy="-- Name it: twh-platform tenancy lint --tenant-column COLUMN\nSELECT 1;",
        )


RULES = (old_minor, no_tenant_found)
