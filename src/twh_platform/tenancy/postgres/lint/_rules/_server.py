"""
TWH8xx: the server, and whether there was anything to look at.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..._minors import FIRST_FIXED, open_faults
from .._findings import Hit
from .._survey import Survey
from ._make import rule

__all__ = ["FIRST_FIXED", "RULES"]


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
    faults = open_faults(server.major, server.minor)
    if faults:
        wanted = f"{server.major}.{max(faults.values())}"
        yield Hit(
            kind="server",
            object=f"PostgreSQL {server.major}",
            message=f"{server.major}.{server.minor} has {', '.join(faults)}.",
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
