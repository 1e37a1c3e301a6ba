"""
A session with Vault: requests in the name of a token that is kept alive.

A token is renewed at two thirds of its life, less some jitter; where that gives
no more time (its max TTL is near, or it is a batch token) there is a new login.
A refused request gets one more login, since a token can be revoked or end early:
at most one in `RELOGIN_SECONDS`, so that a denial by policy makes no storm.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..._forks import reset_after_fork
from ...errors import KeyAccessDeniedError, KeyServiceError
from .._clock import elapsed
from ._auth import VaultAuth, VaultLogin
from ._status import VaultRequestRefusedError
from ._transport import Answer, Hidden, VaultTransport

__all__ = ["RELOGIN_SECONDS", "VaultSession"]

RELOGIN_SECONDS = 30.0

_RENEW_AT = 2 / 3
_JITTER = 0.1
# A renewal that gives less than this part of what the login gave is at the max TTL.
_WORTH_KEEPING = 1 / 3
_RETRY_SECONDS = 10.0
# A login that was refused is not tried by every request.
_REST_SECONDS = 5.0
_LONGEST_SLEEP = 3600.0


class VaultSession:
    """
    Requests with a token that is got, kept and got again.

    Args:
        transport: How requests are made.

        auth: How to log in.

        clock: Seconds of a clock that never goes back.

        chance: A number from 0 up to 1, for the jitter.

        keeper: Renew in a thread of its own as well, so that a token lives on
            while nothing is asked.
    """

    def __init__(
        self,
        transport: VaultTransport,
        auth: VaultAuth,
        *,
        clock: Callable[[], float] = elapsed,
        chance: Callable[[], float] = random.random,
        keeper: bool = True,
    ) -> None:
        self.transport = transport
        self._auth = auth
        self._clock = clock
        self._chance = chance
        self._keeper = keeper
        self._kept = False
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._login: VaultLogin | None = None
        self._first_ttl = 0.0
        self._renew_at = self._ends_at = float("inf")
        self._again_at = self._rest_until = float("-inf")
        self._rest_code = KeyAccessDeniedError.code
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"VaultSession({self.transport.address!r}, {self._auth!r})"

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | Hidden | None = None,
        *,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """
        Ask with a live token; a 403 is met with one new login and one more try.

        What was asked before the refused request is not asked again.
        """
        hidden = body if body is None or isinstance(body, Hidden) else Hidden(body)
        token = self.token()
        try:
            return self.transport.exchange(method, path, token=token, body=hidden, accept=accept)
        except KeyAccessDeniedError:
            fresh = self._after_refusal(token)
            if fresh is None:
                raise
        return self.transport.exchange(method, path, token=fresh, body=hidden, accept=accept)

    def token(self) -> Hidden:
        """
        The token to ask with now: kept, renewed or new.
        """
        now = self._clock()
        login = self._login
        if login is not None and now < self._renew_at:
            return Hidden(login.token)
        # While one thread renews, the others go on with what is still good.
        usable = login is not None and now < self._ends_at
        if not self._lock.acquire(blocking=not usable):
            return Hidden(login.token if login else "")
        try:
            self._keep(self._clock())
            login = self._login
            self._start_keeper()
        finally:
            self._lock.release()
        return Hidden(login.token if login else "")

    def close(self) -> None:
        """
        Forget the token and let go of the connections.
        """
        self._stop.set()
        self._login = None
        self.transport.close()

    def after_fork(self) -> None:
        """
        Begin anew in a child: without the parent's thread, and whatever it holds.
        """
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._kept = False

    def _keep(self, now: float) -> None:
        login = self._login
        if login is None or now >= self._ends_at:
            self._log_in(now, refused=login)
        elif now >= self._renew_at:
            try:
                self._renew(login, now)
            except KeyServiceError:
                # The token is still good: whoever asks next tries again.
                self._renew_at = min(self._ends_at, now + _RETRY_SECONDS)

    def _renew(self, login: VaultLogin, now: float) -> None:
        renewed = self._renewed(login) if login.renewable else None
        if renewed is not None:
            self._take(renewed, now)
        if renewed is None or renewed.ttl < self._first_ttl * _WORTH_KEEPING:
            self._log_in(now, refused=None)

    def _renewed(self, login: VaultLogin) -> VaultLogin | None:
        token = Hidden(login.token)
        try:
            answer = self.transport.exchange(
                "POST", "auth/token/renew-self", token=token, body=Hidden({})
            )
        except (KeyAccessDeniedError, VaultRequestRefusedError):
            return None
        return VaultLogin.of(answer)

    def _log_in(self, now: float, *, refused: VaultLogin | None) -> None:
        if now < self._rest_until:
            message = "Vault has just refused our login"
            raise KeyAccessDeniedError(message, code=self._rest_code)
        try:
            login = _another(self._auth.login(self.transport), refused)
        except KeyAccessDeniedError as error:
            self._rest_until, self._rest_code = now + _REST_SECONDS, error.code
            raise
        self._first_ttl = login.ttl
        self._take(login, now)

    def _take(self, login: VaultLogin, now: float) -> None:
        endless = login.ttl <= 0
        part = _RENEW_AT - _JITTER * self._chance()
        self._ends_at = float("inf") if endless else now + login.ttl
        self._renew_at = float("inf") if endless else now + login.ttl * part
        self._login = login

    def _after_refusal(self, refused: Hidden) -> Hidden | None:
        with self._lock:
            login = self._login
            if login is not None and login.token != refused.value:
                return Hidden(login.token)  # another thread has logged in meanwhile
            now = self._clock()
            if now < self._again_at:
                return None
            try:
                self._log_in(now, refused=login)
            except KeyAccessDeniedError as error:
                self._again_at = now + RELOGIN_SECONDS
                if error.code == "vault_token_ended":
                    return None
                raise
            # Not after a login that Vault was not there for: that is no denial yet.
            self._again_at = now + RELOGIN_SECONDS
            return Hidden(self._login.token) if self._login else None

    def _start_keeper(self) -> None:
        if not self._keeper or self._kept or self._ends_at == float("inf"):
            return
        self._kept = True
        threading.Thread(
            target=_keep_alive,
            args=(weakref.ref(self), self._stop),
            daemon=True,
            name="twh-vault-token",
        ).start()

    def _pause(self) -> float:
        return min(max(self._renew_at - self._clock(), 0.1), _LONGEST_SLEEP)


def _another(login: VaultLogin, refused: VaultLogin | None) -> VaultLogin:
    if refused is not None and refused.token == login.token:
        message = "the token of Vault has ended or is refused, and there is no other"
        raise KeyAccessDeniedError(message, code="vault_token_ended")
    return login


def _keep_alive(session: weakref.ref[VaultSession], stop: threading.Event) -> None:
    # It holds no strong reference while it waits: a session that nobody uses ends.
    while (held := session()) is not None:
        pause = held._pause()  # noqa: SLF001  it is a part of the class
        del held
        if stop.wait(pause) or (held := session()) is None:
            return
        try:
            held.token()
        except KeyServiceError:
            # Whoever asks next meets it, and is told.
            stop.wait(_RETRY_SECONDS)
        finally:
            del held
