"""
Pytest fixtures, loaded by pytest itself once the package is installed.

All names begin with ``twh_``, nothing is started before a test asks for it, and
no driver is imported.

`twh_app` and `twh_authorize` are for the suite to override: its app, and how a
request becomes a tenant's.  The marker ``twh_exception(operation, reason)``
names an operation that `twh_walk` may leave uncovered.  `twh_attack_target` is
what `twh_attack_result` attacks; the marker ``twh_attack`` chooses attacks.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._asgi import ASGIApp
from .._extras import missing_extra
from ._binaries import HINT, find_postgres
from ._clock import ManualClock
from ._postgres import PostgresDatabase, PostgresServer
from ._replay import Authorize, Replayed, replay
from ._report import WalkReport
from ._require import require_part
from ._tenants import TenantPair, tenant_pair
from ._walk import walk

try:
    import pytest
except ImportError as error:
    raise missing_extra("testing", error) from error

if TYPE_CHECKING:
    from ..tenancy.postgres.attack import AttackResult

__all__ = [
    "twh_app",
    "twh_attack_result",
    "twh_attack_target",
    "twh_authorize",
    "twh_clock",
    "twh_database",
    "twh_postgres",
    "twh_private_postgres",
    "twh_replay",
    "twh_tenants",
    "twh_walk",
]

_OVERRIDE = "define a fixture {name} in your conftest.py: {what}"

_attacks = pytest.StashKey[list[tuple[Any, Any]]]()
_walks = pytest.StashKey[list[tuple[str, WalkReport]]]()


def pytest_configure(config: pytest.Config) -> None:
    """
    Register the marker.
    """
    config.stash[_walks] = []
    config.addinivalue_line(
        "markers",
        "twh_exception(operation, reason): an operation that twh_walk may leave uncovered",
    )
    config.stash[_attacks] = []
    config.addinivalue_line(
        "markers",
        "twh_attack(*attacks, exceptions): the attacks of twh_attack_result, by id or name, "
        "and those that are borne, each with its reason",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Make a test with `twh_attack_result` one test for each attack.
    """
    if "twh_attack_result" in metafunc.fixturenames:
        from ._attacked import attack_names

        names = attack_names(metafunc.definition.get_closest_marker("twh_attack"))
        ids = list(names)
        metafunc.parametrize("twh_attack_result", ids, ids=names.values(), indirect=True)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """
    Say of each walk what it covered, and what it was allowed to leave out.
    """
    for name, report in config.stash[_walks]:
        terminalreporter.section(f"walk {name}", sep="-")
        terminalreporter.line(report.summary())
        for one in report.operations:
            if one.state == "excepted":
                terminalreporter.line(f"  excepted: {one.name}: {one.reason}")


@pytest.fixture
def twh_clock() -> ManualClock:
    """
    A clock that stands still until the test advances it.
    """
    return ManualClock()


@pytest.fixture
def twh_tenants() -> TenantPair:
    """
    Two new tenants; override it where a service knows only tenants of its own.
    """
    return tenant_pair()


@pytest.fixture
def twh_app() -> ASGIApp:
    """
    The suite's app, running: for the suite to override.
    """
    raise pytest.UsageError(_OVERRIDE.format(name="twh_app", what="return the ASGI app"))


@pytest.fixture
def twh_authorize() -> Authorize:
    """
    How a request becomes a tenant's: for the suite to override.
    """
    what = "return a function of a request and a tenant that returns the tenant's request"
    raise pytest.UsageError(_OVERRIDE.format(name="twh_authorize", what=what))


@pytest.fixture(scope="session")
def twh_attack_target() -> Mapping[str, Any]:
    """
    What is attacked, as the arguments of `attack`: for the suite to override.
    """
    what = "return the arguments of attack(): dsn, tenant, other, and what else it needs"
    raise pytest.UsageError(_OVERRIDE.format(name="twh_attack_target", what=what))


@pytest.fixture
def twh_attack_result(
    request: pytest.FixtureRequest, twh_attack_target: Mapping[str, Any]
) -> AttackResult:
    """
    What came of one attack on `twh_attack_target`: one test for each.

    All are carried out once for the tests of a module that have the same target.
    """
    from ._attacked import attacked

    marker = request.node.get_closest_marker("twh_attack")
    return attacked(request.param, twh_attack_target, marker, request, _attacks)


@pytest.fixture
def twh_replay(
    twh_app: ASGIApp, twh_authorize: Authorize, twh_tenants: TenantPair
) -> Callable[..., Awaitable[Replayed]]:
    """
    Sends a request again as the other tenant, who must learn nothing.

    It is `replay` with the app, the tenants and `twh_authorize`.
    """
    return partial(replay, twh_app, tenants=twh_tenants, authorize=twh_authorize)


@pytest.fixture
def twh_walk(
    request: pytest.FixtureRequest,
    twh_app: ASGIApp,
    twh_authorize: Authorize,
    twh_tenants: TenantPair,
) -> Callable[..., Awaitable[WalkReport]]:
    """
    Walks through the app as the other tenant, and fails unless all is clean.

    It is `walk` with the app, the tenants and `twh_authorize`.
    """
    marked: dict[str, str] = {}
    for marker in request.node.iter_markers("twh_exception"):
        marked.update([_exception(*marker.args, **marker.kwargs)])

    async def walked(*, exceptions: Mapping[str, str] | None = None, **options: Any) -> WalkReport:
        report = await walk(
            twh_app,
            tenants=twh_tenants,
            authorize=twh_authorize,
            exceptions={**marked, **(exceptions or {})},
            **options,
        )
        request.config.stash[_walks].append((request.node.nodeid, report))
        report.ensure_clean()
        return report

    return walked


def _exception(operation: str, reason: str) -> tuple[str, str]:
    return operation, reason


@pytest.fixture(scope="session")
def twh_postgres() -> Iterator[PostgresServer]:
    """
    A running PostgreSQL that all tests share; leave it running.
    """
    require_part("postgres", find_postgres(), hint=HINT)
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def twh_private_postgres() -> Iterator[PostgresServer]:
    """
    A running PostgreSQL of this module alone, to stop, restart and pause.
    """
    require_part("postgres", find_postgres(("system", "embedded")), hint=HINT)
    with PostgresServer(sources=("system", "embedded")) as server:
        yield server


@pytest.fixture(scope="module")
def twh_database(twh_postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    An empty database of this module alone, dropped at its end.

    It belongs to the role `twh_test_owner`; `twh_test_app` may connect and owns
    nothing.  Neither is a superuser and neither bypasses row-level security.
    """
    owner = twh_postgres.create_role("twh_test_owner")
    twh_postgres.create_role("twh_test_app")
    database = twh_postgres.create_database(f"twh_{secrets.token_hex(6)}", owner=owner)
    yield database
    database.drop()
