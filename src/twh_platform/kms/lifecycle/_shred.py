"""
Shredding a tenant: its keys are destroyed, and that is proved.

The order of the steps, each of which may be the last one before a crash:

1. *prepare*: the key service is healthy; a canary is wrapped by the tenant's
   master key and opens; a value is sealed and opens; a MAC can be made.  This is
   kept, durably, in a journal.  Nothing is destroyed before.
2. *tombstone*: the wrapped data keys are overwritten and the store refuses new
   ones, so that no process makes the tenant a fresh key behind our back.
3. *notify*: processes are told to let go of the keys that they hold.
4. *destroy*: the master key is destroyed, and described: its service has to
   call it destroyed, or tell when it will be.
5. *evict*: this process lets go of its keys.
6. *acknowledge*: whoever was told is waited for.
7. *prove*: the canary and the sealed value have to be refused for this reason
   and no other, while the key service is healthy.

Every step can be repeated, so a run after a crash begins with the journal and
does all of them again; what was measured first is kept.  So does a run for a
store that was restored, or for another store of the same tenant: it overwrites
what is there, and adds it to what the receipt counts.
"""

from __future__ import annotations

import hmac
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes
from typing import Any, NoReturn, Protocol

from ..._signals import announce
from ...errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from ...tenancy._tenant import valid_tenant_id
from .._announcements import TenantShredded
from .._clock import elapsed, utc_now
from .._context import DATA_KEY_ID_BYTES, KeyContext
from .._data_keys import DataKeyStore, records_of
from .._envelope import parse_head
from .._owner import PLATFORM, as_owner
from .._service import (
    Capability,
    KeyInfo,
    KeyService,
    KeyState,
    WrappedKey,
    require_result,
)
from ._journal import ShredJournal
from ._receipt import ShredReceipt, signed, time_of, time_text, verified

__all__ = ["shred"]

_PURPOSE = "canary"
_CONTEXT = {"twh": "canary"}
_ATTEMPTS = 3
_STEPS = ("prepare", "tombstone", "notify", "destroy", "evict", "acknowledge", "prove")
_GONE = (KeyState.DESTROYED, KeyState.DESTROYING)
_CAPABLE = Capability.TENANT_KEYS | Capability.DESTROY | Capability.MAC

_CAVEATS = {
    "local": "Copies of the keyset file from before, backups among them, still hold the key.",
    "vault": "Snapshots and backups of the server's storage from before still hold the key.",
    "aws": "Key material that was imported, or exists outside of AWS KMS, still is a key.",
}
_COMMON = (
    "Plaintext that is elsewhere is not covered: exports, logs, caches, memory dumps.",
    "Sealed values and their backups remain, unreadable; what was never sealed is not covered.",
)


class _Cipher(Protocol):
    def seal(self, plaintext: bytes, context: Mapping[str, str], /) -> bytes: ...

    def open(self, sealed: bytes, context: Mapping[str, str], /) -> bytes: ...

    def evict(self, tenant_id: str, /) -> object: ...


def shred(
    tenant_id: str,
    *,
    service: KeyService,
    store: DataKeyStore,
    journal: ShredJournal,
    cipher: _Cipher | None = None,
    notify: Callable[[str], object] | None = None,
    acknowledged: Callable[[str], int | None] | None = None,
    cache_seconds: float = 900.0,
    now: Callable[[], datetime] = utc_now,
    clock: Callable[[], float] = elapsed,
) -> ShredReceipt:
    """
    Destroy a tenant's keys for good, prove it, and return the receipt.

    There is no way back.  It may be run again at any time: after a crash it
    ends what was begun, and after its end it proves the same once more.  With
    the same journal it is run for each store that has data keys of the tenant,
    and again for one that was restored from a backup.

    Args:
        tenant_id: Whose.

        service: Each tenant has a master key of its own there.

        store: Where the data keys are.

        journal: What makes a run after a crash able to prove what the first one
            destroyed.

        cipher: A `TenantCipher` over both: a value that it sealed has to be
            refused afterwards, and its cache lets go of the tenant.

        notify: Tells other processes.  PostgreSQL's store does so by itself.

        acknowledged: Waits for processes that were told, and says how many there
            were; None if that is not known.

        cache_seconds: How long a process that was not told may go on opening:
            its `CachePolicy.stale_if_error`.

        now: The wall clock, for the receipt.

        clock: Seconds that never go back, for its durations.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``cache_policy_invalid``, if *cache_seconds* is no time.  Nothing was done.

        twh_platform.errors.KeyUnsupportedError: With code
            ``shred_unsupported``: the service has no master key for each
            tenant, cannot destroy it, or can make no MAC.  Nothing was done.

        twh_platform.errors.KeyNotFoundError: The tenant has no master key and
            never was shredded.  Nothing was done.

        twh_platform.errors.KeyDisabledError: No canary can be made: enable the
            key first.  Nothing was done.

        twh_platform.errors.KeyServiceUnavailableError: The service does not
            answer, or is not healthy.  If it is so at the start, nothing was done.

        twh_platform.errors.KeyServiceError: With code ``shred_incomplete``: the
            key is destroyed only for show, or something still opens.  With
            ``shred_unproven``: all is destroyed, and nothing is left to prove
            it with.  In both cases there is no receipt.
    """
    if not 0 <= cache_seconds < math.inf:
        # Said before anything is destroyed: the receipt will have it.
        message = f"cache_seconds={cache_seconds!r} is no time"
        raise ConfigurationError(message, code="cache_policy_invalid")
    work = _Shred(
        tenant_id=valid_tenant_id(tenant_id),
        service=service,
        store=store,
        journal=journal,
        cipher=cipher,
        notify=notify,
        acknowledged=acknowledged,
        cache_seconds=cache_seconds,
        now=now,
        clock=clock,
    )
    with as_owner(tenant_id):
        receipt = work.run()
    announce(
        TenantShredded(
            tenant_id=tenant_id,
            service=receipt.provider,
            state=receipt.state.value,
            seconds=receipt.seconds,
        )
    )
    return receipt


@dataclass(kw_only=True)
class _Shred:
    # One run: what it was asked for, and what the journal has of it.
    tenant_id: str
    service: KeyService
    store: DataKeyStore
    journal: ShredJournal
    cipher: _Cipher | None
    notify: Callable[[str], object] | None
    acknowledged: Callable[[str], int | None] | None
    cache_seconds: float
    now: Callable[[], datetime]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._entry: dict[str, Any] = {}
        self._info: KeyInfo

    def run(self) -> ShredReceipt:
        self._require_capable()
        # An unhealthy service could prove nothing afterwards.
        self._require_healthy("nothing was done")
        kept = self.journal.load(self.tenant_id)
        if kept is None:
            self._prepare()
        else:
            self._entry = self._read(kept)
        for name, act in (
            ("tombstone", self._tombstone),
            ("notify", self._tell),
            ("destroy", self._destroy),
            ("evict", self._evict),
            ("acknowledge", self._wait),
            ("prove", self._prove),
        ):
            self._step(name, act)
        return self._receipt()

    def _require_capable(self) -> None:
        if self.tenant_id == PLATFORM.id:
            message = "the platform's own keys are not shredded: receipts are signed with them"
            raise KeyUnsupportedError(message, code="shred_unsupported")
        missing = _CAPABLE & ~self.service.capabilities
        if missing:
            names = ", ".join(one.name or "" for one in missing)
            message = f"key service {self.service.name!r} cannot shred a tenant: it lacks {names}"
            raise KeyUnsupportedError(message, code="shred_unsupported")

    def _require_healthy(self, what: str) -> None:
        health = self.service.health()
        if not health.ok:
            message = f"key service {self.service.name!r} is not healthy: {health.code}; {what}"
            raise KeyServiceUnavailableError(message)

    def _read(self, text: str) -> dict[str, Any]:
        entry = verified(text, self.service, kind="journal")
        if entry["tenant"] != self.tenant_id or entry["provider"] != self.service.name:
            message = f"the journal is not of tenant {self.tenant_id!r} at this key service"
            raise DecryptionError(message, code="receipt_invalid")
        return entry

    def _save(self) -> None:
        text = signed(self._entry, self.service, kind="journal")
        self.journal.save(self.tenant_id, text)

    def _step(self, name: str, act: Callable[[], None]) -> None:
        began = self.clock()
        act()
        if name not in self._entry["steps"]:
            self._entry["steps"][name] = round(max(0.0, self.clock() - began) * 1e6)
            self._save()

    def _prepare(self) -> None:
        info = self._found()
        if info is None or info.state in _GONE:
            self._end_unproven(info)
        self._entry = {
            "tenant": self.tenant_id,
            "provider": self.service.name,
            "key_ref": info.key_ref,
            "began": time_text(self.now()),
            "data_keys": self._count(),
            "cache_seconds": math.ceil(self.cache_seconds),
            "steps": {},
        }
        self._step("prepare", self._make_canaries)
        # The journal has to be readable while there is something to go back to.
        self._read(self.journal.load(self.tenant_id) or "")

    def _found(self) -> KeyInfo | None:
        try:
            return self.service.describe(self.tenant_id)
        except KeyNotFoundError:
            if self.store.shredded(self.tenant_id) or self._count():
                return None
            raise

    def _end_unproven(self, info: KeyInfo | None) -> NoReturn:
        self._entry = {"steps": {}, "data_keys": 0}
        self._tombstone()
        self._tell()
        if info is not None:
            self._destroy()
        self._evict()
        message = (
            f"the master key of tenant {self.tenant_id!r} was gone before, and no journal of its "
            "shred is here: all is destroyed, and no receipt can be given"
        )
        raise KeyServiceError(message, code="shred_unproven")

    def _make_canaries(self) -> None:
        context = KeyContext(
            tenant_id=self.tenant_id,
            purpose=_PURPOSE,
            data_key_id=token_bytes(DATA_KEY_ID_BYTES),
        )
        made = require_result(self.service.generate([context])[0])
        opened = require_result(self.service.unwrap([(made.wrapped, context)])[0])
        if not hmac.compare_digest(opened, made.plaintext):
            raise self._incomplete("a canary did not open before anything was destroyed")
        self._entry["canary"] = _wrapped_text(made.wrapped, context)
        if self.cipher is not None and not self.store.shredded(self.tenant_id):
            sealed = self.cipher.seal(context.data_key_id, _CONTEXT)
            if self.cipher.open(sealed, _CONTEXT) != context.data_key_id:
                raise self._incomplete("a sealed canary did not open before")
            self._entry["sealed"] = b64encode(sealed).decode()

    def _count(self) -> int:
        return sum(1 for _ in records_of(self.store, self.tenant_id))

    def _tombstone(self) -> None:
        destroyed = self.store.destroy(self.tenant_id)
        if "tombstone" in self._entry["steps"]:
            self._count_more(destroyed)
        elif self._is_elsewhere():
            self._entry["data_keys"] = destroyed
        else:
            # After a crash the store says 0; else it knows better than our count.
            self._entry["data_keys"] = max(self._entry["data_keys"], destroyed)
        if not self.store.shredded(self.tenant_id) or self._count():
            raise self._incomplete("the store of data keys still has some")

    def _count_more(self, destroyed: int) -> None:
        # The store was restored, or is another one: of the same one it says 0.
        if destroyed:
            self._entry["data_keys"] += destroyed
            self._save()

    def _is_elsewhere(self) -> bool:
        # The sealed canary is of another store than this one, or of this one
        # before it was restored.
        sealed = self._entry.get("sealed")
        if sealed is None:
            return False
        head = parse_head(b64decode(sealed))
        return head is not None and self.store.get(self.tenant_id, head.data_key_id) is None

    def _tell(self) -> None:
        if self.notify is not None:
            self.notify(self.tenant_id)

    def _destroy(self) -> None:
        # A process that has not heard of it may have made a key of the same
        # name between the destruction and the look at it: that goes too.
        for _ in range(_ATTEMPTS):
            self._info = self._destroyed()
            if _is_gone(self._info):
                return
        state = self._info.state.value
        raise self._incomplete(f"the key service says that its master key is {state}")

    def _destroyed(self) -> KeyInfo:
        claim = self.service.destroy(self.tenant_id)
        try:
            return self.service.describe(self.tenant_id)
        except KeyNotFoundError:
            return claim

    def _evict(self) -> None:
        if self.cipher is not None:
            self.cipher.evict(self.tenant_id)

    def _wait(self) -> None:
        if self.acknowledged is not None:
            self._entry.setdefault("acknowledged", self.acknowledged(self.tenant_id))

    def _prove(self) -> None:
        wrapped, context = _wrapped_of(self._entry["canary"], self.tenant_id)
        code = self._refusal(lambda: require_result(self.service.unwrap([(wrapped, context)])[0]))
        self._entry.setdefault("canary_code", code)
        cipher, sealed = self.cipher, self._entry.get("sealed")
        if cipher is not None and sealed is not None:
            self._prove_sealed(lambda: cipher.open(b64decode(sealed), _CONTEXT))
        # Of a service that refuses everything, a refusal is no proof.
        self._require_healthy("its refusals prove nothing, run it again")

    def _prove_sealed(self, act: Callable[[], object]) -> None:
        if not self._is_elsewhere():
            self._entry.setdefault("sealed_code", self._refusal(act))
            return
        # Where its data key is not known nothing opens it, and that proves nothing:
        # what was noted where it is known stays, and the other canary counts.
        try:
            act()
        except KeyServiceError as error:
            if error.retryable:
                raise
            return
        raise self._incomplete("a canary still opens")

    def _refusal(self, act: Callable[[], object]) -> str:
        try:
            act()
        except (KeyDestroyedError, KeyNotFoundError) as error:
            return error.code
        except KeyServiceError as error:
            if error.retryable:
                raise
            raise self._incomplete(f"a canary is refused, but as {error.code}") from error
        raise self._incomplete("a canary still opens")

    def _incomplete(self, what: str) -> KeyServiceError:
        message = f"tenant {self.tenant_id!r} is not shredded: {what}"
        return KeyServiceError(message, code="shred_incomplete")

    def _receipt(self) -> ShredReceipt:
        entry, info = self._entry, self._info
        if entry.get("proved") != KeyState.DESTROYED.value:
            entry["proved"], entry["finished"] = info.state.value, time_text(self.now())
            self._save()
        acknowledged: int | None = entry.get("acknowledged")
        return ShredReceipt(
            tenant_id=self.tenant_id,
            provider=entry["provider"],
            key_ref=entry["key_ref"],
            state=info.state,
            destroyed_at=info.destroyed_at,
            data_keys=entry["data_keys"],
            began=time_of(entry["began"]),
            finished=time_of(entry["finished"]),
            steps=tuple((name, entry["steps"][name]) for name in _STEPS),
            canary=entry["canary_code"],
            sealed_canary=entry.get("sealed_code"),
            acknowledged=acknowledged,
            cache_seconds=entry["cache_seconds"],
            caveats=tuple(_caveats(entry, info)),
        )


def _is_gone(info: KeyInfo) -> bool:
    # Without a date nobody has promised that it will ever be destroyed.
    dated = info.state is KeyState.DESTROYING and info.destroyed_at is not None
    return info.state is KeyState.DESTROYED or dated


def _caveats(entry: Mapping[str, Any], info: KeyInfo) -> Iterator[str]:
    if info.state is KeyState.DESTROYING:
        until = time_text(info.destroyed_at) if info.destroyed_at else "then"
        yield (
            f"Until {until} the destruction of the master key can be cancelled at the key service; "
            "backups of the data keys would open then."
        )
    if entry.get("acknowledged") is None:
        yield (
            "Processes that were not told may go on opening with keys in their memory, for "
            f"{entry['cache_seconds']} seconds at most."
        )
    if entry["provider"] in _CAVEATS:
        yield _CAVEATS[entry["provider"]]
    yield from _COMMON


def _wrapped_text(wrapped: WrappedKey, context: KeyContext) -> dict[str, Any]:
    return {
        "id": context.data_key_id.hex(),
        "provider": wrapped.provider,
        "key_ref": wrapped.key_ref,
        "key_version": wrapped.key_version,
        "ciphertext": b64encode(wrapped.ciphertext).decode(),
    }


def _wrapped_of(found: Mapping[str, Any], tenant_id: str) -> tuple[WrappedKey, KeyContext]:
    wrapped = WrappedKey(
        provider=found["provider"],
        key_ref=found["key_ref"],
        key_version=found["key_version"],
        ciphertext=b64decode(found["ciphertext"]),
    )
    context = KeyContext(
        tenant_id=tenant_id, purpose=_PURPOSE, data_key_id=bytes.fromhex(found["id"])
    )
    return wrapped, context
