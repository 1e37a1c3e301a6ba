"""
Whose statements a setting shows to others, and from where they can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .._catalog import PUBLIC, Role
from .._sql import name_sql
from .._survey import Survey

__all__ = ["Shown", "elsewhere", "hidden_sql", "makers", "shown"]

_OFF = frozenset(("off", "false", "no", "0", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """
    A login of the application for which a setting is on, or can be.

    Args:
        role: The login.

        on: Whether it is on when a session begins.

        here: Whether that was set for the login in this database.

        setters: Who may set it, of those that the login is or can become.
    """

    role: Role
    on: bool
    here: bool
    setters: tuple[str, ...]

    @property
    def told(self) -> str:
        """
        The same, for a message.
        """
        name = name_sql(self.role.name)
        return name if self.on else f"{name}, by {', '.join(self.setters)}"


def shown(survey: Survey, setting: str) -> list[Shown]:
    """
    The logins for which a setting is on or can be turned on.
    """
    found = []
    for role in survey.app_roles:
        value, here = _preset(survey, role, setting)
        one = Shown(
            role=role,
            on=value.lower() not in _OFF,
            here=here,
            setters=tuple(sorted(_setters(survey, role, setting))),
        )
        if role.logs_in and (one.on or one.setters):
            found.append(one)
    return found


def _preset(survey: Survey, role: Role, setting: str) -> tuple[str, bool]:
    database = survey.catalog.server.database_oid
    # What is said for the role weighs more than what is said for the database.
    ranks = {
        (one.role == role.oid, one.database == database): one.value
        for one in survey.catalog.presets
        if one.name.lower() == setting
        and one.role in {0, role.oid}
        and one.database in {0, database}
    }
    if not ranks:
        return survey.catalog.server.settings.get(setting, "off"), False
    return ranks[max(ranks)], max(ranks) == (True, True)


def _setters(survey: Survey, role: Role, setting: str) -> Iterator[str]:
    ours = {PUBLIC, *survey.becomes(role.oid), *survey.holds(role.oid)}
    for grant in survey.catalog.parameter_grants:
        if grant.name == setting and grant.grantee in ours:
            yield survey.role_name(grant.grantee)


def hidden_sql(survey: Survey, logins: list[Shown], setting: str) -> list[str]:
    """
    The statements that turn it off for all of them, and keep it so.
    """
    database = name_sql(survey.catalog.server.database)
    lines = []
    for one in logins:
        name = name_sql(one.role.name)
        if one.on and one.here:
            lines.append(f"ALTER ROLE {name} IN DATABASE {database} RESET {setting};")
        if one.on:
            lines.append(f"ALTER ROLE {name} SET {setting} = off;")
        if one.setters:
            lines.append(f"REVOKE ALL ON PARAMETER {setting} FROM {', '.join(one.setters)};")
    return list(dict.fromkeys(lines))


def makers(survey: Survey) -> list[str]:
    """
    The roles by which the application makes databases, where nothing was revoked yet.
    """
    ours = {oid for role in survey.app_roles if role.logs_in for oid in survey.becomes(role.oid)}
    return sorted(
        survey.role_name(oid)
        for oid in ours
        if (role := survey.catalog.roles[oid]).creates_databases and not role.superuser
    )


def elsewhere(survey: Survey) -> list[str]:
    """
    The other databases that the application's logins may connect to.
    """
    ours = {PUBLIC}
    for role in survey.app_roles:
        if role.logs_in:
            ours.update(survey.holds(role.oid))
    here = survey.catalog.server.database_oid
    return sorted(
        name
        for oid, name in survey.catalog.databases.items()
        if oid != here
        and any(
            grant.privilege == "CONNECT" and grant.grantee in ours
            for grant in survey.grants_of.get(("database", oid), ())
        )
    )
