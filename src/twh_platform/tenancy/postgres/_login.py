"""
What a login may be and do, so that policies and the seal hold it.

`verified` judges what the catalog answered to `_login_query`.  Nothing here talks
to a server; each driver's `verify_login` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...errors import ConfigurationError, UnsafeLoginError
from ._binding import SETTING
from ._minors import open_faults
from ._seal_functions import TENANT_FUNCTION, difference, is_transition, made_by_us
from ._seal_sql import seal_sql

__all__ = ["LOGIN_FAULTS", "LoginFault", "VerifiedLogin", "verified"]

LOGIN_FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "login_superuser": "it is a superuser, or can become one",
        "login_bypasses_policies": "it has BYPASSRLS, or can become a role that has",
        "login_creates_roles": "it has CREATEROLE, which before PostgreSQL 16 is any role's power",
        "login_replicates": "it has REPLICATION: the log of changes holds the rows of all tenants",
        "login_owns_tables": "it owns tables with row security, or has the rights of their owner",
        "login_owns_schema": "it owns the schema twh or something in it, or has its owner's rights",
        "login_changes_schema": "it may create things in the schema twh",
        "login_reaches_server": "it reads or writes the server's files, or runs its programs",
        "login_reaches_others": "it opens connections from within the server without a password",
        "setting_preset": "sessions begin with a tenant",
        "row_security_off": "sessions begin with row_security off",
        "server_outdated": "the server has a known fault of row security",
        "seal_missing": "the database was to be sealed and is not",
        "seal_altered": "a function of the seal is not the one that seal_sql() makes",
        "seal_keys_reachable": "it has privileges on the keys of the seal",
        "seal_keys_copied": "the keys of the seal have a rule, a trigger, a view or an heir",
        "temporary_allowed": "it makes temporary tables, types and functions, which a seal meets",
        "unsealed_tenants_believed": "tenants are believed without a seal too",
        "token_visible": "its tokens can be read in pg_stat_activity",
        "token_in_statements": "its tokens can be read in pg_stat_statements",
        "login_watches_sessions": "it reads what other sessions do",
        "login_ends_sessions": "it ends the sessions of others",
    }
)
"""The codes of what can be wrong with a login, each with its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFault:
    """
    One thing that is wrong with a login.

    Attributes:
        code: One of `LOGIN_FAULTS`.

        message: What it is, in a sentence.

        remedy: SQL that mends it, for a superuser or the owner; read it before
            you run it.
    """

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLogin:
    """
    A login that was found safe.

    Attributes:
        login: The role that logged in.

        database: The database.

        server_version: Such as ``15.18``.

        roles: What the login is, has the rights of, or can become.

        sealed: Whether the database is sealed.

        accepted: Faults that were found and accepted.
    """

    login: str
    database: str
    server_version: str
    roles: tuple[str, ...]
    sealed: bool
    accepted: tuple[LoginFault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    name: str
    becomes: bool
    superuser: bool
    bypasses: bool
    creates: bool
    makes_databases: bool
    replicates: bool
    way: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """
    What the query answered.
    """

    login: str
    current: str
    database: str
    version: int
    safe_owner: str
    reach: list[dict[str, Any]]
    owned: list[dict[str, str]]
    granted: list[dict[str, str]]
    settings: dict[str, list[str]]
    presets: list[dict[str, Any]]
    elsewhere: list[str]
    database_owner: str
    sealed: bool
    handed: list[dict[str, str]]
    key_holders: list[str]
    functions: dict[str, dict[str, Any]]

    @property
    def roles(self) -> list[_Role]:
        return [_Role(**one) for one in self.reach]

    @property
    def makers(self) -> list[str]:
        """
        Who makes databases, where nothing was revoked yet.
        """
        return [one.name for one in self.roles if one.becomes and one.makes_databases]

    @property
    def server_version(self) -> str:
        return f"{self.version // 10_000}.{self.version % 10_000}"

    def is_on(self, setting: str) -> bool:
        """
        Whether a setting is on now, or comes back on by RESET.
        """
        return any(value not in {"off", "none"} for value in self.settings.get(setting, ()))

    def grantees(self, kind: str) -> Mapping[str, list[str]]:
        """
        Who has a privilege that the login has from it, by the objects of a kind.
        """
        found: dict[str, list[str]] = {}
        for one in self.granted:
            if one["kind"] == kind:
                found.setdefault(one["name"], []).append(one["grantee"])
        return found


def verified(answer: str, *, sealed: bool = False, accept: Collection[str] = ()) -> VerifiedLogin:
    """
    Judge what the catalog said about a login.

    Args:
        answer: What `LOGIN_QUERY` gave.

        sealed: Whether the database has to be sealed.

        accept: Codes of faults that are known and borne.

    Raises:
        twh_platform.errors.UnsafeLoginError: With all faults that are not accepted.
        twh_platform.errors.ConfigurationError: With code
            ``login_fault_unknown``, for a code in *accept* that there is not.
    """
    if strange := sorted(set(accept) - LOGIN_FAULTS.keys()):
        raise ConfigurationError(
            f"there is no fault of logins {strange[0]!r}", code="login_fault_unknown"
        )
    facts = _Answer(**json.loads(answer))
    found = tuple(_faults(facts, sealed=sealed))
    open_ = tuple(fault for fault in found if fault.code not in accept)
    if open_:
        raise UnsafeLoginError(_told(facts, open_), faults=open_)
    return VerifiedLogin(
        login=facts.login,
        database=facts.database,
        server_version=facts.server_version,
        roles=tuple(role.name for role in facts.roles),
        sealed=facts.sealed,
        accepted=found,
    )


def _told(facts: _Answer, faults: Iterable[LoginFault]) -> str:
    lines = [f"the login {facts.login} is not safe in database {facts.database}:"]
    for fault in faults:
        lines.append(f"- {fault.code}: {fault.message}")
        lines += (f"      {line}" for line in fault.remedy.splitlines())
    return "\n".join(lines)


def _faults(facts: _Answer, *, sealed: bool) -> Iterator[LoginFault]:
    checks = [_powers, _ownership, _creation, _memberships, _connections, _presets, _minor]
    if facts.sealed:
        checks += [_functions, _keys, _copies, _temporary, _activity, _statements, _watching]
    for check in checks:
        yield from check(facts)
    if sealed and not facts.sealed:
        yield _fault(
            "seal_missing",
            f"Database {facts.database} is not sealed: it has no table twh.seal_keys.",
            "-- as the owner of the schema twh, or: twh-platform tenancy seal init\n"
            + seal_sql().rstrip(),
        )


def _fault(kind: str, message: str, remedy: str) -> LoginFault:
    return LoginFault(code=kind, message=message, remedy=remedy)


# --- roles

_POWERS: tuple[tuple[str, str, str, Callable[[_Role, int], bool]], ...] = (
    ("login_superuser", "is a superuser", "NOSUPERUSER", lambda role, _: role.superuser),
    ("login_bypasses_policies", "has BYPASSRLS", "NOBYPASSRLS", lambda role, _: role.bypasses),
    (
        "login_creates_roles",
        "has CREATEROLE, and so may take on every role that is no superuser",
        "NOCREATEROLE",
        # Since then only roles that it made, or administers: those are followed.
        lambda role, version: role.creates and version < _FIRST_TAME_CREATEROLE,
    ),
    (
        "login_replicates",
        "has REPLICATION, and so may read the changes of all tenants",
        "NOREPLICATION",
        lambda role, _: role.replicates,
    ),
)
_FIRST_TAME_CREATEROLE = 160_000


def _powers(facts: _Answer) -> Iterator[LoginFault]:
    for role in facts.roles:
        # Attributes are not inherited: only who becomes the role has them.
        if role.becomes:
            for code, what, without, has in _POWERS:
                if has(role, facts.version) and (code == "login_superuser" or not role.superuser):
                    yield _of_role(facts, code, role, what, f"ALTER ROLE {role.name} {without};")


def _of_role(facts: _Answer, kind: str, role: _Role, what: str, remedy: str) -> LoginFault:
    """
    A fault of the login itself, or of a role on whose way it is.
    """
    if len(role.way) == 1:
        return _fault(kind, f"{role.name} {what}.", remedy)
    verb = "can become" if role.becomes else "has the rights of"
    return _fault(
        kind,
        f"{role.way[0]} {verb} {role.name} ({' -> '.join(role.way)}), which {what}.",
        _disowned(facts)
        if role.way[1] == "pg_database_owner"
        else f"REVOKE {role.way[1]} FROM {role.way[0]};",
    )


def _disowned(facts: _Answer) -> str:
    return f"ALTER DATABASE {facts.database} OWNER TO {facts.safe_owner};"


def _ownership(facts: _Answer) -> Iterator[LoginFault]:
    for role in facts.roles:
        ours = [one for one in facts.owned if one["owner"] == role.name]
        tables = [one for one in ours if one["kind"] == "TABLE"]
        rest = [one for one in ours if one["kind"] != "TABLE"]
        for code, owned in (("login_owns_tables", tables), ("login_owns_schema", rest)):
            if owned:
                names = [one["name"] for one in owned]
                remedy = "\n".join(_given_away(facts, one) for one in owned)
                yield _of_role(facts, code, role, f"owns {_listed(names)}", remedy)


def _given_away(facts: _Answer, one: Mapping[str, str]) -> str:
    kind = "TABLE" if one["kind"] == "KEYS" else one["kind"]
    moved = f"ALTER {kind} {one['name']} OWNER TO {facts.safe_owner};"
    if one["kind"] == "TABLE":
        # What an owner may do by itself it loses.
        granted = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {one['name']} TO {facts.login};"
        return f"{moved}\n{granted}"
    return moved


def _creation(facts: _Answer) -> Iterator[LoginFault]:
    for name, grantees in facts.grantees("schema").items():
        who = ", ".join(grantees)
        yield _fault(
            "login_changes_schema",
            f"{who} may create things in the schema {name}, which policies call into.",
            f"REVOKE CREATE ON SCHEMA {name} FROM {who};",
        )


def _bare(signature: str) -> str:
    return signature.partition("(")[0]


def _listed(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


_SERVER_ROLES = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")


def _memberships(facts: _Answer) -> Iterator[LoginFault]:
    what = "works on the server's own files"
    yield from _members(facts, "login_reaches_server", _SERVER_ROLES, what)
    what = "ends the sessions of others"
    yield from _members(facts, "login_ends_sessions", ("pg_signal_backend",), what)
    for kind in ("pg_read_file", "pg_read_binary_file", "lo_import", "lo_export"):
        yield from _callable(facts, "login_reaches_server", kind, "works on the server's own files")


def _members(facts: _Answer, code: str, names: Collection[str], what: str) -> Iterator[LoginFault]:
    for role in facts.roles:
        # Of what a role is a member of in turn, the role itself is told.
        if role.name in names and not set(role.way[1:-1]) & set(names):
            yield _of_role(facts, code, role, what, "")


def _callable(facts: _Answer, code: str, kind: str, what: str) -> Iterator[LoginFault]:
    for name, grantees in facts.grantees(kind).items():
        yield _fault(
            code,
            f"{', '.join(grantees)} may call {_bare(name)}, which {what}.",
            f"REVOKE EXECUTE ON FUNCTION {name} FROM {', '.join(grantees)};",
        )


def _connections(facts: _Answer) -> Iterator[LoginFault]:
    what = "opens connections as the server's own account"
    yield from _callable(facts, "login_reaches_others", "dblink_connect_u", what)


# --- settings and the server


_OFF = ("off", "false", "no", "0")


def _presets(facts: _Answer) -> Iterator[LoginFault]:
    said = False
    for one in facts.presets:
        whom = _whom(facts, one)
        if one["name"] == SETTING and one["value"]:
            yield _fault(
                "setting_preset",
                f"{whom} presets {SETTING}, so work that binds no tenant is still somebody's.",
                f"ALTER {whom} RESET {SETTING};",
            )
        if one["name"] == "row_security" and one["value"].lower() in _OFF:
            said = True
            yield _fault(
                "row_security_off",
                f"{whom} presets row_security to off, so policies raise errors.",
                f"ALTER {whom} RESET row_security;",
            )
    if not said and "off" in facts.settings["row_security"]:
        yield _fault(
            "row_security_off",
            "row_security is off in this session, so policies raise errors.",
            "-- Take it out of the connection string, or of postgresql.conf.\nSHOW row_security;",
        )


def _whom(facts: _Answer, preset: Mapping[str, Any]) -> str:
    if preset["role"]:
        inside = f" IN DATABASE {facts.database}" if preset["database"] else ""
        return f"ROLE {facts.login}{inside}"
    return f"DATABASE {facts.database}" if preset["database"] else "ROLE ALL"


def _minor(facts: _Answer) -> Iterator[LoginFault]:
    major, minor = divmod(facts.version, 10_000)
    faults = open_faults(major, minor)
    if faults:
        yield _fault(
            "server_outdated",
            f"PostgreSQL {facts.server_version} has {', '.join(faults)}.",
            f"-- Install {major}.{max(faults.values())} or newer.\nSHOW server_version;",
        )


# --- the seal


def _functions(facts: _Answer) -> Iterator[LoginFault]:
    body = facts.functions.get(TENANT_FUNCTION, {}).get("body")
    transition = is_transition(body)
    if transition:
        yield _fault(
            "unsealed_tenants_believed",
            "Tenants are believed without a seal too, so SQL injection switches them.",
            made_by_us(allow_unsealed=False)[TENANT_FUNCTION],
        )
    for signature, statement in made_by_us(allow_unsealed=transition).items():
        function = facts.functions.get(signature)
        if function is not None:
            what = difference(statement, **function)
            if what:
                yield _fault("seal_altered", f"{signature} {what}.", statement)
        else:
            yield _fault("seal_altered", f"{signature} is missing.", statement)


_DATA_ROLES = ("pg_read_all_data", "pg_write_all_data")


def _keys(facts: _Answer) -> Iterator[LoginFault]:
    what = "reaches the keys of the seal"
    known = list(_members(facts, "seal_keys_reachable", _DATA_ROLES, what))
    for name, grantees in facts.grantees("seal_keys").items():
        who = ", ".join(grantees)
        known.append(
            _fault(
                "seal_keys_reachable",
                f"{who} has privileges on {name}: whoever reads or writes keys makes tokens.",
                f"REVOKE ALL ON {name} FROM {who};",
            )
        )
    yield from known
    # Of owners _ownership tells.
    if facts.key_holders and not (known or any(one["kind"] == "KEYS" for one in facts.owned)):
        who = ", ".join(facts.key_holders)
        yield _fault(
            "seal_keys_reachable",
            f"{who} reads or writes twh.seal_keys, for a reason that is not known here.",
            f"REVOKE ALL ON twh.seal_keys FROM {who};",
        )


_UNDONE = {
    "RULE": "DROP RULE {name} ON {place};",
    "TRIGGER": "DROP TRIGGER {name} ON {place};",
    "VIEW": "DROP VIEW {place};",
    "MATERIALIZED VIEW": "DROP MATERIALIZED VIEW {place};",
    "TABLE": "ALTER TABLE {place} NO INHERIT twh.seal_keys;",
}


def _copies(facts: _Answer) -> Iterator[LoginFault]:
    for one in facts.handed:
        place = one["place"]
        what = f"{one['name']} on {place}" if one["kind"] in {"RULE", "TRIGGER"} else place
        yield _fault(
            "seal_keys_copied",
            f"{one['kind'].capitalize()} {what} takes keys from twh.seal_keys, or brings some.",
            _UNDONE[one["kind"]].format(**one),
        )


def _temporary(facts: _Answer) -> Iterator[LoginFault]:
    for name, grantees in facts.grantees("database").items():
        who = ", ".join(grantees)
        both = ", ".join(dict.fromkeys(("PUBLIC", *grantees)))
        owned = f"{_disowned(facts)}\n" if facts.database_owner in grantees else ""
        yield _fault(
            "temporary_allowed",
            f"{who} may make temporary tables, types and functions in database {name}: "
            "names of the system's, in the way of those who look them up.",
            f"{owned}REVOKE TEMPORARY ON DATABASE {name} FROM {both};",
        )


_ACTIVITY = ("pg_stat_get_activity", "pg_stat_get_backend_activity")


def _activity(facts: _Answer) -> Iterator[LoginFault]:
    callable_ = {name: who for kind in _ACTIVITY for name, who in facts.grantees(kind).items()}
    shown = _shown(facts, "track_activities")
    if not shown or not (seen := _places(facts, callable_)):
        return
    others = [
        f"REVOKE EXECUTE ON FUNCTION {name} FROM {', '.join(who)};"
        for name, who in callable_.items()
    ] + [
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, {facts.login};" for name in facts.elsewhere
    ]
    others += [f"ALTER ROLE {name} NOCREATEDB;" for name in facts.makers]
    yield _fault(
        "token_visible",
        f"{shown}, and its tokens can be read through {_listed(seen)}.",
        f"{_hidden(facts, 'track_activities')}\n-- or, all of these:\n"
        + "\n".join(f"-- {line}" for line in others),
    )


def _places(facts: _Answer, functions: Iterable[str]) -> list[str]:
    """
    Where something can be read: by functions, or else by those of other databases.
    """
    return (
        [_bare(name) for name in functions]
        or [f"database {name}" for name in facts.elsewhere]
        or [f"a database that {name} makes" for name in facts.makers]
    )


def _shown(facts: _Answer, setting: str) -> str:
    """
    Why others see what a setting tells of this session; empty if they do not.
    """
    if facts.is_on(setting):
        return f"{setting} is on for {facts.login}"
    if setters := facts.grantees("parameter").get(setting):
        return f"{', '.join(setters)} may set {setting}"
    return ""


def _hidden(facts: _Answer, setting: str) -> str:
    lines = [f"ALTER ROLE {facts.login} SET {setting} = off;"] if facts.is_on(setting) else []
    if setters := facts.grantees("parameter").get(setting):
        lines.append(f"REVOKE ALL ON PARAMETER {setting} FROM {', '.join(setters)};")
    return "\n".join(lines)


def _statements(facts: _Answer) -> Iterator[LoginFault]:
    utility, every = "pg_stat_statements.track_utility", "pg_stat_statements.track"
    settable = facts.grantees("parameter").keys()
    if every not in facts.settings or not (facts.is_on(every) or every in settable):
        return
    shown, callable_ = _shown(facts, utility), facts.grantees("pg_stat_statements")
    seen = _places(facts, callable_)
    if shown and seen:
        yield _fault(
            "token_in_statements",
            f"{shown}, and its tokens can be read through {_listed(seen)}.",
            _hidden(facts, utility),
        )


_WATCHING_ROLES = ("pg_monitor", "pg_read_all_stats")


def _watching(facts: _Answer) -> Iterator[LoginFault]:
    what = "reads what other sessions do, tokens among it"
    yield from _members(facts, "login_watches_sessions", _WATCHING_ROLES, what)
