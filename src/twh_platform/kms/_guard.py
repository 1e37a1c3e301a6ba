"""
A key service that is asked with a deadline, retries, a breaker, and a budget per tenant.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeAlias, TypeVar

from .._breaker import Breaker
from .._forks import reset_after_fork
from .._signals import announce, has_listeners
from ..errors import (
    ConfigurationError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
)
from ._announcements import KeyChanged, KeyServiceDegraded, KeyServiceRestored, KeyUsed
from ._clock import elapsed
from ._context import KeyContext
from ._deadline import deadline, time_left
from ._secret import HiddenBytes
from ._service import Capability, DataKey, Health, KeyInfo, KeyService, Mac, Result, WrappedKey

__all__ = ["CallBudget", "GuardedKeyService"]

T = TypeVar("T")
R = TypeVar("R")

_Again: TypeAlias = Callable[[KeyServiceError], bool]

_MANY_TENANTS = 10_000
# Told of one key by a service that answers: whoever holds that key could keep
# everybody else from the service, if it counted as a failure of the service.
_OF_ONE_KEY = "key_unavailable"


class CallBudget:
    """
    How many calls of a key service each tenant may cause: so many a second, and a burst.

    A batch counts as many calls as it has items: that is what key services bill
    and throttle by.  A tenant that has used up its budget is refused at once, so
    that what the others may call for is left to them.

        >>> budget = CallBudget(rate=10, burst=2)
        >>> [round(budget.take("acme", now=0.0), 3) for _ in range(3)]
        [0.0, 0.0, 0.1]
        >>> budget.take("globex", now=0.0)
        0.0

    Args:
        rate: Calls per second and tenant.

        burst: Calls at once, after a pause.
    """

    def __init__(self, *, rate: float = 50.0, burst: float = 500.0) -> None:
        if rate <= 0 or burst < 1:
            message = f"rate={rate!r} is above zero, and burst={burst!r} at least one call"
            raise ConfigurationError(message, code="key_budget_invalid")
        self._interval = 1 / rate
        self._tolerance = burst / rate
        self._due: dict[str, float] = {}
        self._lock = threading.Lock()
        reset_after_fork(self)

    def take(self, tenant_id: str, now: float) -> float:
        """
        Take one call.

        Returns:
            0 if it may be made, else the seconds until it may.
        """
        with self._lock:
            due = max(self._due.get(tenant_id, now), now) + self._interval
            wait = due - now - self._tolerance
            # A sum of intervals is off by its last bits.
            if wait > self._interval / 1000:
                return wait
            if len(self._due) >= _MANY_TENANTS:
                self._due = {one: at for one, at in self._due.items() if at > now}
            self._due[tenant_id] = due
            return 0.0

    def after_fork(self) -> None:
        """
        Forget a lock that a thread of the parent may have held.
        """
        self._lock = threading.Lock()


class GuardedKeyService:
    """
    A key service whose faults are borne: the same calls, with patience and its limits.

    Each call ends within its deadline.  What may help to try again is tried
    again after a pause of full jitter, at least as long as a throttling service
    asks for; of a batch, only the items that are not done.  A service that does
    not answer is left alone for a while, and callers are refused at once.

        keys = GuardedKeyService(VaultKeyService(...), budget=CallBudget(rate=20))

    Args:
        service: The key service.

        seconds: The deadline of a call with all its attempts.

        attempts: How often it is tried at the most.  `rotate` is tried again
            only if the service has said that it did nothing.

        pause: Seconds of the first pause at the most; each next is up to twice
            as long.

        longest_pause: Seconds of any pause at the most, but for what a
            throttling service asks for.

        failures: So many in a row, of calls that were not answered, open the
            breaker.

        rest: Seconds until a first probe is let through.

        longest_rest: Seconds between probes at the most.

        budget: What each tenant may call for; None sets no limit.

        clock: Seconds that never go back.

        sleep: Waits so many seconds.

        chance: A random number from 0 to 1.
    """

    def __init__(
        self,
        service: KeyService,
        *,
        seconds: float = 5.0,
        attempts: int = 4,
        pause: float = 0.05,
        longest_pause: float = 2.0,
        failures: int = 5,
        rest: float = 1.0,
        longest_rest: float = 30.0,
        budget: CallBudget | None = None,
        clock: Callable[[], float] = elapsed,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if seconds <= 0 or attempts < 1:
            message = f"seconds={seconds!r} is above zero, and attempts={attempts!r} at least 1"
            raise ConfigurationError(message, code="key_guard_invalid")
        self.name = service.name
        self._service = service
        self._seconds = seconds
        self._attempts = attempts
        self._shortest, self._longest = pause, longest_pause
        self._budget = budget
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._breaking = (failures, rest, longest_rest)
        self.after_fork()
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._service!r})"

    @property
    def capabilities(self) -> Capability:
        """
        What the service can do.
        """
        return self._service.capabilities

    @property
    def is_resting(self) -> bool:
        """
        Whether the service is left alone because it did not answer.
        """
        return self._breaker.is_open

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        See `KeyService.generate`.
        """
        return self._batch("generate", self._service.generate, contexts)

    def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.wrap`.
        """
        # Hidden, so that no traceback shows them among its locals.
        keys = [(HiddenBytes(key), context) for key, context in keys]
        return self._batch("wrap", self._service.wrap, keys)

    def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        See `KeyService.unwrap`.
        """
        return self._batch("unwrap", self._service.unwrap, keys)

    def rewrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.rewrap`.
        """
        return self._batch("rewrap", self._service.rewrap, keys)

    def mac(self, message: bytes, *, key: str) -> Mac:
        """
        See `KeyService.mac`.
        """
        return self._used("mac", lambda: self._service.mac(message, key=key))

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        See `KeyService.verify_mac`.
        """
        self._used("verify_mac", lambda: self._service.verify_mac(message, mac, key=key), mac)

    def create(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.create`.
        """
        return self._changed("created", self._service.create, tenant_id)

    def rotate(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.rotate`.
        """
        return self._changed("rotated", self._service.rotate, tenant_id)

    def disable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.disable`.
        """
        return self._changed("disabled", self._service.disable, tenant_id)

    def enable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.enable`.
        """
        return self._changed("enabled", self._service.enable, tenant_id)

    def destroy(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.destroy`.
        """
        return self._changed("destroyed", self._service.destroy, tenant_id)

    def describe(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.describe`.
        """
        self._spend(tenant_id)
        return self._one(lambda: self._service.describe(tenant_id))

    def health(self) -> Health:
        """
        See `KeyService.health`: asked once, also while the service is left alone.
        """
        with deadline(self._seconds):
            return self._service.health()

    def close(self) -> None:
        """
        See `KeyService.close`.
        """
        self._service.close()

    def after_fork(self) -> None:
        """
        Forget the lock, and a probe that only the parent waits for.
        """
        failures, rest, longest = self._breaking
        self._lock = threading.Lock()
        self._since = 0.0
        self._breaker = Breaker(failures=failures, pause=rest, longest=longest, chance=self._chance)

    def _batch(
        self, operation: str, call: Callable[[Sequence[T]], list[Result[R]]], items: Sequence[T]
    ) -> list[Result[R]]:
        began = perf_counter() if has_listeners(KeyUsed) else 0.0
        batch = _Batch(call, items, self._refusal)
        if batch.undone:
            self._repeat(lambda: batch.attempt(self._ask))
        if began:
            self._announce_batch(operation, items, batch, perf_counter() - began)
        return batch.answer()

    def _one(self, call: Callable[[], T], again: _Again | None = None) -> T:
        done: list[T] = []

        def attempt() -> KeyServiceError | None:
            try:
                done.append(self._ask(call))
            except KeyServiceError as error:
                return error
            return None

        failed = self._repeat(attempt, again or _may_help)
        if failed is not None:
            raise failed
        return done[0]

    def _repeat(
        self, attempt: Callable[[], KeyServiceError | None], again: _Again | None = None
    ) -> KeyServiceError | None:
        ends_at = self._clock() + time_left(self._seconds)
        again, number = again or _may_help, 0
        while True:
            with deadline(ends_at - self._clock()):
                error = attempt()
            number += 1
            # While it is left alone another attempt would only be refused.
            if error is None or self._breaker.is_open or not again(error):
                return error
            pause = self._pause_after(error, number)
            if number == self._attempts or pause >= ends_at - self._clock():
                return error
            self._sleep(pause)

    def _pause_after(self, error: KeyServiceError, number: int) -> float:
        jitter: float = self._chance() * min(self._longest, self._shortest * 2.0 ** (number - 1))
        if isinstance(error, KeyServiceThrottledError):
            # Only a throttling service knows how long; the others' is a default.
            jitter += error.retry_after
        return jitter

    def _ask(self, call: Callable[[], T]) -> T:
        probe = self._admitted()
        try:
            answer = call()
        except KeyServiceError as error:
            if _is_silence(error):
                self._failed(error, probe=probe)
            else:
                self._succeeded(probe=probe)
            raise
        except BaseException:
            with self._lock:
                self._breaker.gave_up(self._clock(), probe=probe)
            raise
        unanswered = _unanswered(answer)
        if unanswered is None:
            self._succeeded(probe=probe)
        else:
            self._failed(unanswered, probe=probe)
        return answer

    def _admitted(self) -> bool:
        with self._lock:
            probe = self._breaker.is_open
            if self._breaker.admits(self._clock()):
                return probe
        message = f"key service {self.name!r} did not answer, and is left alone for a while"
        raise KeyServiceUnavailableError(message, code="key_service_resting")

    def _failed(self, error: KeyServiceError, *, probe: bool) -> None:
        with self._lock:
            was_open = self._breaker.is_open
            self._breaker.failed(self._clock(), probe=probe)
            opened = self._breaker.is_open and not was_open
            if opened:
                self._since = self._clock()
        if opened:
            announce(KeyServiceDegraded(service=self.name, code=error.code))

    def _succeeded(self, *, probe: bool) -> None:
        with self._lock:
            was_open = self._breaker.is_open
            self._breaker.succeeded(probe=probe)
            closed = was_open and not self._breaker.is_open
            seconds = self._clock() - self._since
        if closed:
            announce(KeyServiceRestored(service=self.name, seconds=seconds))

    def _refusal(self, tenant_id: str) -> KeyServiceThrottledError | None:
        wait = self._budget.take(tenant_id, self._clock()) if self._budget else 0.0
        if not wait:
            return None
        message = f"tenant {tenant_id!r} has used up its calls of key service {self.name!r}"
        return KeyServiceThrottledError(message, retry_after=wait, code="key_budget_exceeded")

    def _spend(self, tenant_id: str) -> None:
        refused = self._refusal(tenant_id)
        if refused is not None:
            raise refused

    def _used(self, operation: str, call: Callable[[], T], mac: Mac | None = None) -> T:
        key_ref = mac.key_ref if mac else None
        began = perf_counter() if has_listeners(KeyUsed) else 0.0
        try:
            result = self._one(call)
        except KeyServiceError as error:
            if began:
                self._announce_use(operation, None, key_ref, error.code, perf_counter() - began)
            raise
        if isinstance(result, Mac):
            key_ref = result.key_ref
        if began:
            self._announce_use(operation, None, key_ref, None, perf_counter() - began)
        return result

    def _changed(self, action: str, call: Callable[[str], KeyInfo], tenant_id: str) -> KeyInfo:
        told = partial(KeyChanged, service=self.name, action=action, tenant_id=tenant_id)
        try:
            self._spend(tenant_id)
            # A rotation that was not answered may be done: one more is not asked for.
            again = _was_throttled if action == "rotated" else _may_help
            info = self._one(lambda: call(tenant_id), again)
        except KeyServiceError as error:
            announce(told(code=error.code))
            raise
        announce(told(key_ref=info.key_ref, key_version=info.version or None))
        return info

    def _announce_batch(
        self, operation: str, items: Sequence[Any], batch: _Batch[Any, Any], seconds: float
    ) -> None:
        uses = {
            (_tenant_of(item), *_outcome(item, result))
            for item, result in zip(items, batch.results(), strict=True)
        }
        for tenant_id, key_ref, code in sorted(uses, key=str):
            self._announce_use(operation, tenant_id, key_ref, code, seconds)

    def _announce_use(
        self,
        operation: str,
        tenant_id: str | None,
        key_ref: str | None,
        code: str | None,
        seconds: float,
    ) -> None:
        announce(
            KeyUsed(
                service=self.name,
                operation=operation,
                tenant_id=tenant_id,
                key_ref=key_ref,
                code=code,
                seconds=seconds,
            )
        )


class _Batch(Generic[T, R]):
    # What of a batch is done, what is not, and why.

    def __init__(
        self,
        call: Callable[[Sequence[T]], list[Result[R]]],
        items: Sequence[T],
        refusal: Callable[[str], KeyServiceError | None],
    ) -> None:
        self._call = call
        self._items = items
        self._whole: KeyServiceError | None = None
        refused = ((at, refusal(_tenant_of(item))) for at, item in enumerate(items))
        self._done: dict[int, Result[R]] = {at: error for at, error in refused if error}
        self.undone = [at for at in range(len(items)) if at not in self._done]

    def attempt(
        self, ask: Callable[[Callable[[], list[Result[R]]]], list[Result[R]]]
    ) -> KeyServiceError | None:
        asked = [self._items[at] for at in self.undone]
        try:
            answers = ask(lambda: self._call(asked))
        except KeyServiceError as error:
            self._whole = error
            return error
        self._whole = None
        self._done.update(zip(self.undone, answers, strict=True))
        self.undone = [at for at in self.undone if _may_help(self._done[at])]
        failed = [one for at in self.undone if isinstance(one := self._done[at], KeyServiceError)]
        return max(failed, key=_asked_to_wait, default=None)

    def results(self) -> list[Result[R]]:
        if self._whole is not None:
            self._done.update(dict.fromkeys(self.undone, self._whole))
        return [self._done[at] for at in range(len(self._items))]

    def answer(self) -> list[Result[R]]:
        # What fails as a whole is raised, as the protocol says.
        if self._whole is not None and len(self.undone) == len(self._items):
            raise self._whole
        return self.results()


def _tenant_of(item: Any) -> str:
    context: KeyContext = item if isinstance(item, KeyContext) else item[1]
    return context.tenant_id


def _may_help(result: object) -> bool:
    return isinstance(result, KeyServiceError) and result.retryable


def _was_throttled(error: KeyServiceError) -> bool:
    return isinstance(error, KeyServiceThrottledError)


def _asked_to_wait(error: KeyServiceError) -> float:
    return error.retry_after if isinstance(error, KeyServiceThrottledError) else 0.0


def _unanswered(answer: object) -> KeyServiceError | None:
    # A batch of which one item was answered is an answer.
    if not isinstance(answer, list) or not answer:
        return None
    if all(_is_silence(one) for one in answer):
        first: KeyServiceError = answer[0]
        return first
    return None


def _is_silence(result: object) -> bool:
    return isinstance(result, KeyServiceUnavailableError) and result.code != _OF_ONE_KEY


def _outcome(item: Any, result: object) -> tuple[str | None, str | None]:
    if isinstance(result, DataKey):
        return result.wrapped.key_ref, None
    if isinstance(result, WrappedKey):
        return result.key_ref, None
    given = item[0].key_ref if isinstance(item, tuple) and isinstance(item[0], WrappedKey) else None
    return given, result.code if isinstance(result, KeyServiceError) else None
