"""
Gate G4: marked secrets go through every path that fails, and are seen nowhere.

A `Witness` gathers all that a service could write: log records formatted with
the locals of their tracebacks, every exception with its chain, announcements,
standard output and error.  It looks for the mark as it is, in hex, in base64 and
as Python writes bytes.  The controls leak on purpose, and are caught.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import logging
import pickle
import pprint
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("cryptography")

from tests.contracts.test_secret_store import STORES
from tests.support.secrets import tenant_cipher
from twh_platform import subscribe
from twh_platform.cli import main
from twh_platform.errors import (
    BackendUnavailableError,
    KeyAccessDeniedError,
    KeyServiceUnavailableError,
    PlatformError,
)
from twh_platform.kms import Keyset, LocalKeyService, create_keyset, platform_owner
from twh_platform.kms.secrets import (
    AsyncCachedSecrets,
    AsyncSecretStore,
    CachedSecrets,
    MemorySecretStore,
    RotationPolicy,
    RotationTask,
    Secret,
    SecretChanged,
    SecretRead,
    SqliteColumn,
    SqliteSecretStore,
    Stage,
    backup_secrets,
    migrate_column,
    migrate_env_file,
    restore_secrets,
    rotate_due,
    rotate_secret,
)
from twh_platform.tenancy import Tenant, bind_tenant

# A global, never a local: the tests' own frames are in the tracebacks too.
MARK = "canary-7f3a9d52c1"
SECRET = Secret(MARK)
POLICY = RotationPolicy(every=1, overlap=1)


def forms() -> list[str]:
    """How the mark may be written."""
    raw = MARK.encode()
    aligned = [base64.b64encode(b"." * pad + raw).decode()[4:16] for pad in range(3)]
    return [MARK, raw.hex(), raw.hex().upper(), MARK[::-1], *aligned]


def with_locals(error: BaseException) -> str:
    """An exception as the most talkative logger writes it, and all that it came from."""
    seen: list[str] = []
    todo: list[BaseException | None] = [error]
    done: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in done:
            continue
        done.add(id(one))
        told = traceback.TracebackException.from_exception(one, capture_locals=True)
        seen += [*told.format(), repr(one), str(one), repr(one.args), repr(vars(one))]
        # A context that is suppressed is not printed, but reporters walk it.
        todo += [one.__cause__, one.__context__]
    return "\n".join(seen)


class Talkative(logging.Formatter):
    """Formats exceptions with the locals of each frame."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- the base class's name
        """As `with_locals`."""
        return with_locals(ei[1])


class Witness(logging.Handler):
    """Gathers what is written, and finds the mark in it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(Talkative("%(message)s %(args)r %(name)s"))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record with all that it carries."""
        self.texts += [self.format(record), repr(vars(record))]

    def take(self, one: object) -> None:
        """Look at something as printers, debuggers and reporters do."""
        self.texts += [repr(one), str(one), f"{one}", pprint.pformat(one), ascii(one)]
        for name in [*getattr(one, "__slots__", ()), *getattr(one, "__dict__", {})]:
            self.texts.append(repr(getattr(one, name, None)))
        logging.getLogger("app").debug("took %s %r", one, one)

    def fails(self, call: Callable[[], object]) -> BaseException:
        """Run what has to fail, and log it with its traceback."""
        try:
            call()
        except Exception as error:
            logging.getLogger("app").exception("it failed: %s", error)  # noqa: TRY401 -- as people do
            self.texts.append(with_locals(error))
            return error
        raise AssertionError("it did not fail")

    def sightings(self) -> list[str]:
        """The texts that have the mark in any form."""
        return [text for text in self.texts if any(form in text for form in forms())]


@pytest.fixture
def witness(capsys) -> Iterator[Witness]:
    """A witness to all loggers, announcements and output of the test."""
    made = Witness()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(made)
    root.setLevel(logging.DEBUG)
    ends = [subscribe(SecretRead, made.take), subscribe(SecretChanged, made.take)]
    with platform_owner():
        yield made
    for end in ends:
        end()
    root.removeHandler(made)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_is_seen(request, capsys) -> Iterator[None]:
    """After every test but the controls: 0 sightings."""
    witness = request.getfixturevalue("witness")
    yield
    written = capsys.readouterr()
    witness.texts += [written.out, written.err]
    if "control" not in request.node.name:
        assert len(witness.texts) > 3
        assert [text[:2000] for text in witness.sightings()] == []


class Failing(LocalKeyService):
    """A key service that fails on order."""

    def __init__(self) -> None:
        super().__init__(Keyset.new())
        self.error: Exception | None = None

    def generate(self, contexts):
        """As ordered."""
        self._fail()
        return super().generate(contexts)

    def unwrap(self, keys):
        """As ordered."""
        self._fail()
        return super().unwrap(keys)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def sealed_store(tmp_path, service=None) -> SqliteSecretStore:
    """A store in a file, with a cold cipher."""
    return SqliteSecretStore(tmp_path / "secrets.sqlite", tenant_cipher(service))


@pytest.mark.parametrize("kind", STORES)
def test_every_refusal_of_every_store(kind, request, witness):
    """What is missing, revoked, expired, in conflict or misnamed."""
    with ExitStack() as stack:
        opened = STORES[kind](request, stack)
        store = opened.store
        stack.enter_context(bind_tenant(Tenant(id="acme")))
        for _ in range(3):
            store.put("key", SECRET, policy=POLICY)
        store.put("key", SECRET, stage=Stage.PENDING)
        store.revoke("key", 2)
        soon = opened.clock.utc() + timedelta(seconds=1)
        store.put("brief", SECRET, expires_at=soon)
        opened.clock.advance(2)
        calls: list[Callable[[], object]] = [
            lambda: store.get("none"),
            lambda: store.get("brief"),
            lambda: store.get("key", version=2),
            lambda: store.get("key", version=99),
            lambda: store.put("key", SECRET, expected=1),
            lambda: store.put("key", SECRET, stage=Stage.PREVIOUS),
            lambda: store.put("key", SECRET, overlap=-1),
            lambda: store.put("Not A Name", SECRET),
            lambda: store.put(SECRET, "key"),
            lambda: store.roll_back("key"),
            lambda: store.promote("none"),
            lambda: store.revoke("key", 99),
        ]
        for call in calls:
            witness.fails(call)
        for one in (store, store.get("key"), store.versions("key"), store.policy("key")):
            witness.take(one)
        if isinstance(store, MemorySecretStore | SqliteSecretStore | CachedSecrets):
            witness.take(vars(store))


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize(
    "error",
    [KeyServiceUnavailableError("away"), KeyAccessDeniedError("no"), RuntimeError("a bug")],
    ids=lambda error: type(error).__name__,
)
def test_a_key_service_that_fails_while_a_value_is_sealed_or_opened(error, cold, tmp_path, witness):
    """The plaintext is among the arguments of every frame down to the key service."""
    service = Failing()
    store = sealed_store(tmp_path, service)
    with platform_owner():
        if not cold:
            store.put("warm", SECRET)
            store = SqliteSecretStore(tmp_path / "secrets.sqlite", store._cipher)
        service.error = error
        with bind_tenant(Tenant(id="acme")):
            assert witness.fails(lambda: store.put("key", SECRET)) is not None
            assert witness.fails(lambda: backup_secrets(store, service, ["acme"])) is not None


def test_values_that_were_tampered_with(tmp_path, witness):
    """Swapped, cut, made longer, replaced by the plaintext's own length of zeros."""
    store = sealed_store(tmp_path)
    store.put("key", SECRET)
    with sqlite3.connect(tmp_path / "secrets.sqlite") as connection:
        (sealed,) = connection.execute("SELECT sealed FROM twh_secret_values_v1").fetchone()
        wrong = (sealed[:-1], sealed + b"x", bytes(len(sealed)), b"", sealed[:20])
        for value in wrong:
            connection.execute("UPDATE twh_secret_values_v1 SET sealed = ?", (value,))
            connection.commit()
            witness.fails(lambda: store.get("key"))
        connection.execute("UPDATE twh_secrets_v1 SET state = 'x'")
        connection.commit()
        witness.fails(lambda: store.get("key"))
    connection.close()


def test_a_database_that_fails_in_the_middle_of_a_change(tmp_path, witness):
    """Locked, full, without its tables, gone."""
    path = tmp_path / "secrets.sqlite"
    store = SqliteSecretStore(path, tenant_cipher(), timeout=0.05)
    store.put("key", SECRET)
    locking = sqlite3.connect(path, isolation_level=None)
    locking.execute("BEGIN EXCLUSIVE")
    witness.fails(lambda: store.put("key", SECRET))
    locking.execute("ROLLBACK")
    locking.execute(
        "CREATE TRIGGER full BEFORE INSERT ON twh_secret_values_v1"
        " BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    witness.fails(lambda: store.put("key", SECRET))
    locking.execute("DROP TABLE twh_secret_values_v1")
    witness.fails(lambda: store.put("key", SECRET))
    witness.fails(lambda: store.get("key"))
    locking.close()
    path.unlink()
    path.mkdir()
    witness.fails(lambda: store.put("key", SECRET))


def test_a_secret_in_the_hands_of_code_that_expects_something_else(witness):
    """Every protocol of the language that could show it fails without showing it."""
    value = Secret(MARK)
    calls: list[Callable[[], object]] = [
        lambda: pickle.dumps(value),
        lambda: pickle.dumps(value.hidden()),
        lambda: json.dumps({"secret": value}),
        lambda: json.dumps(value.hidden()),
        lambda: hash(value),
        lambda: bytes(value),
        lambda: int(value),
        lambda: value + "x",
        lambda: "x".join(iter([value])),
        lambda: value[0],
        lambda: list(value),
        lambda: len(value),
        lambda: vars(value),
        lambda: sorted([value, value]),
        lambda: setattr(value, "x", 1),
        lambda: open(value),  # noqa: PTH123, SIM115 -- the fault
        lambda: io.StringIO().write(value),
        lambda: io.StringIO().write(value.hidden()),
        lambda: Secret(value),
        lambda: Secret([MARK]),
        lambda: Secret(MARK * 10_000),
        lambda: Secret("\ud800" + MARK),
        lambda: Secret(b"\xff" + MARK.encode()).text(),
        lambda: {}[value],
        lambda: getattr(object(), value),
        lambda: exec(value),
        lambda: RotationPolicy(every=value, overlap=0),
    ]
    for call in calls:
        witness.fails(call)


def test_a_secret_in_the_hands_of_code_that_prints(witness):
    """As people log, copy, dump and format values; on its own and in others."""
    store = MemorySecretStore()
    store.put("key", SECRET, policy=POLICY)
    value = store.get("key")
    for one in (SECRET, SECRET.hidden(), value, value.version, [value], {"k": value}, (SECRET,)):
        witness.take(one)
        witness.take(copy.copy(one))
        witness.take(copy.deepcopy(one))
        logging.getLogger("app").warning("%s %r %a %-40s|", one, one, one, one)
    witness.texts += [
        repr(asdict(value)),
        json.dumps(asdict(value), default=str),
        f"{SECRET:>80} {SECRET!r:.99} {SECRET.hidden():x}",
        "%s %r" % (SECRET, SECRET.hidden()),  # noqa: UP031 -- as loggers do it
        "{0} {0!r}".format(SECRET),  # noqa: UP032 -- as old code does it
        repr(SECRET.__reduce_ex__.__doc__),
        repr(dir(SECRET)),
    ]
    logging.getLogger("app").info("extra", extra={"secret": SECRET, "value": value})


def test_a_bug_in_any_method_of_a_store(witness):
    """Whatever a store of somebody else raises passes with the values in reach."""

    class Buggy(MemorySecretStore):
        def _boom(self, *_args: object) -> Any:
            raise ZeroDivisionError

    for method in ("_load", "_save", "_value", "_pack", "_unpack"):
        store = Buggy()
        store.put("key", SECRET)
        setattr(store, method, store._boom)
        cached = CachedSecrets(store)
        if method not in ("_value", "_unpack"):
            witness.fails(lambda store=store: store.put("key", SECRET))
        if method not in ("_save", "_pack"):
            witness.fails(lambda cached=cached: cached.get("key"))
            witness.fails(lambda cached=cached: cached.accepted("key"))


def test_caches_that_go_stale_and_refuse(witness):
    """The store away, with the values still in memory."""

    class Away(MemorySecretStore):
        away = False

        def _load(self, *args):
            if self.away:
                raise BackendUnavailableError("away")
            return super()._load(*args)

    store = Away()
    store.put("key", SECRET)
    stale, refusing = (
        CachedSecrets(store, max_age=0.001),
        CachedSecrets(store, max_age=0.001, stale_if_error=0),
    )
    for cached in (stale, refusing):
        cached.get("key")
        witness.take(vars(cached))
    store.away = True
    witness.take(stale.get("key"))
    witness.fails(lambda: refusing.get("key"))


async def test_tasks_that_time_out_and_are_cancelled(witness):
    """With asyncio in debug mode, which writes about what is slow or forgotten."""
    asyncio.get_running_loop().set_debug(True)
    gate = asyncio.Event()
    store = MemorySecretStore()
    store.put("key", SECRET)

    class Slow(MemorySecretStore):
        def _load(self, *args):
            while not gate.is_set():
                pass
            raise BackendUnavailableError("away")

    async with AsyncSecretStore(Slow(), seconds=0.05) as slow:
        for one in (slow.put("key", SECRET), slow.get("key")):
            with pytest.raises(BackendUnavailableError) as caught:
                await one
            witness.texts.append(with_locals(caught.value))
        task = asyncio.create_task(slow.put("key", SECRET))
        await asyncio.sleep(0.01)
        witness.take(task)
        task.cancel()
        gate.set()
        await asyncio.wait((task,))
    async with AsyncCachedSecrets(CachedSecrets(store)) as cached:
        witness.take(await cached.get("key"))
        witness.take(vars(cached))


def test_rotations_that_fail(witness, monkeypatch):
    """A maker that fails with values at hand, a store that refuses what was made."""

    def made(*_: object) -> Secret:
        return Secret(MARK)

    store = MemorySecretStore()
    store.put("key", SECRET, policy=POLICY)
    store.put("plain", SECRET)
    monkeypatch.setattr("twh_platform.kms.secrets._versions.is_due", lambda *_, **__: True)
    witness.fails(lambda: rotate_secret(store, "plain"))
    witness.fails(lambda: rotate_secret(store, "none"))
    late = MemorySecretStore()
    late.put("key", SECRET, policy=POLICY)
    monkeypatch.setattr(late, "_save", lambda *_: False)
    witness.fails(lambda: rotate_secret(late, "key", makers={"*": made}))
    witness.take(rotate_due(late, now=late._now() + timedelta(days=1), makers={"*": made}))
    witness.take(RotationTask(late, makers={"*": made}).run_once())
    witness.take(rotate_due(store, makers={"*": made}))


def test_backups_that_cannot_be_opened_or_written(witness, tmp_path):
    """Tampered, cut, of another key, into a store that fails half-way."""
    service = Failing()
    store = sealed_store(tmp_path, service)
    store.put("key", SECRET)
    backup, report = backup_secrets(store, service, ["_platform"])
    witness.take(report)
    witness.take(backup)
    for wrong in (backup[:-1], backup[:99], backup + b"x", b"TWHSECB1", b""):
        witness.fails(lambda wrong=wrong: restore_secrets(MemorySecretStore(), service, wrong))
    witness.fails(lambda: restore_secrets(MemorySecretStore(), Failing(), backup))
    witness.fails(lambda: restore_secrets(store, service, backup))

    class Full(MemorySecretStore):
        def _save(self, *_: object) -> bool:
            raise BackendUnavailableError("full")

    witness.fails(lambda: restore_secrets(Full(), service, backup))
    service.error = KeyAccessDeniedError("no")
    witness.fails(lambda: restore_secrets(MemorySecretStore(), service, backup))


def test_migrations_that_fail(witness, tmp_path, monkeypatch):
    """With the readable source in memory: twice there, too long, in conflict, a disk that fails."""
    env, store = tmp_path / "app.env", MemorySecretStore()
    names = {"TOKEN": "app/token"}
    for text in (f"TOKEN={MARK}\nTOKEN={MARK}", f"TOKEN={MARK * 9000}", f"# TOKEN={MARK}"):
        env.write_text(text)
        del text
        witness.fails(lambda: migrate_env_file(env, store, names))
    env.write_text(f"TOKEN={MARK}\n")
    store.put("app/token", Secret("another"))
    witness.fails(lambda: migrate_env_file(env, store, names))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        witness.fails(lambda: migrate_env_file(env, MemorySecretStore(), names))
    (tmp_path / "app.env.bak").write_bytes(env.read_bytes())
    witness.take(migrate_env_file(env, MemorySecretStore(), names))


def test_columns_that_fail(witness, tmp_path):
    """A key that makes no name, a trigger that refuses, a table that is not there."""
    path = tmp_path / "app.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (id, c)")
    connection.execute("INSERT INTO t VALUES ('not a name', ?)", (MARK,))
    source, store = SqliteColumn(path, "t", "c"), MemorySecretStore()
    witness.fails(lambda: migrate_column(source, store, prefix="t"))
    connection.execute("UPDATE t SET id = 1")
    connection.execute("CREATE TRIGGER no BEFORE UPDATE ON t BEGIN SELECT RAISE(ABORT, 'no'); END")
    witness.fails(lambda: migrate_column(source, store, prefix="t"))
    witness.take(list(source.rows()))
    connection.execute("DROP TABLE t")
    witness.fails(lambda: migrate_column(source, store, prefix="t"))
    connection.close()


class Stdin:
    """Standard input with the mark."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO(MARK.encode())

    def isatty(self) -> bool:
        """A pipe."""
        return False


def commands(folder):
    """Every command of `secrets`, where it works and where it does not."""
    env, backup = folder / "app.env", str(folder / "backup")
    env.write_text(f"TOKEN={MARK}\n")
    (folder / "app.env.bak").write_text(f"TOKEN={MARK}\n")
    migrate = ["migrate", "--env", str(env), "--variable"]
    return [
        ["put", "key", "--every", "1", "--overlap", "1"],
        ["put", "key", "--expected", "7"],
        ["put", "Bad Name"],
        ["put", "key", "--tenant", "nobody"],
        ["put", "key", "--every", "1"],
        ["get", "key", "--output", str(folder / "out")],
        ["get", "key", "--output", str(folder / "no" / "out")],
        ["get", "none"],
        ["list"],
        ["put", "key", "--pending"],
        ["rotate", "key"],
        ["rotate", "none"],
        ["rotate", "--due"],
        ["rollback", "key"],
        ["rollback", "none"],
        ["backup", backup],
        ["restore", backup],
        [*migrate, "TOKEN=app/token"],
        [*migrate, f"TOKEN{MARK}"],
        [*migrate, "TOKEN=key"],
        ["revoke", "key", "1"],
        ["revoke", "key", "99"],
        ["list"],
    ]


def test_the_command_line(witness, tmp_path, monkeypatch):
    """Every command, where it works and where it does not; `get` writes to a file."""
    create_keyset(tmp_path / "keyset.json", tenants=("_platform",))
    monkeypatch.setenv("TWH_KEYSET", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("TWH_SECRETS", str(tmp_path / "secrets.sqlite"))
    for words in commands(tmp_path):
        monkeypatch.setattr("sys.stdin", Stdin())
        witness.take(main(["secrets", *words]))

    def boom(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sys.stdin", Stdin())
    monkeypatch.setattr("twh_platform.kms.secrets.SqliteSecretStore._save", boom)
    witness.fails(lambda: main(["secrets", "put", "key"]))


@dataclass
class Leaky:
    """A secret as people write one."""

    value: str


def _leaky_frame(plain: bytes) -> None:
    raise PlatformError(f"a message of {len(plain)} bytes")


CONTROLS: dict[str, Callable[[Witness], object]] = {
    "a dataclass": lambda witness: witness.take(Leaky(MARK)),
    "a logger": lambda _: logging.getLogger("app").debug("token %s", SECRET.text()),
    "bytes in a logger": lambda _: logging.getLogger("app").debug("token %r", SECRET.reveal()),
    "an extra": lambda _: logging.getLogger("app").info("x", extra={"token": SECRET.text()}),
    "a message": lambda witness: witness.fails(lambda: {}[SECRET.text()]),
    "a local": lambda witness: witness.fails(lambda: _leaky_frame(SECRET.reveal())),
    "a cause": lambda witness: witness.fails(lambda: json.loads("{" + MARK)),
    "base64": lambda witness: witness.take(base64.b64encode(b"u:" + SECRET.reveal())),
    "hex": lambda witness: witness.take(SECRET.reveal().hex()),
    "output": lambda witness: witness.texts.append(SECRET.text()),
}


@pytest.mark.parametrize("leak", CONTROLS)
def test_control_a_leak_is_seen(leak, witness):
    """What leaks on purpose is found: the search is able to fail."""
    assert witness.sightings() == []
    try:
        CONTROLS[leak](witness)
    except AssertionError:
        pytest.fail("the control itself did not run")

    assert witness.sightings() != []
