"""
The boto3 clients behind a service: made when needed, each call bounded in time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ..._forks import reset_after_fork
from ...errors import (
    ConfigurationError,
    KeyServiceUnavailableError,
    PlatformError,
)
from .._deadline import time_left
from ._faults import Table, fault_of
from ._quiet import quiet

__all__ = ["Clients"]

# A client's timeouts are fixed when it is made.  What a deadline leaves is met by
# the client of the next shorter step.
_STEPS = (1.0, 0.5, 0.25, 0.125)
_CONNECTING = 0.4
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Clients:
    """
    Clients of one AWS service.  A process that is forked off makes its own.

    Args:
        service: As boto3 calls it.

        table: What the service's errors mean.

        session: The credentials; None for the default chain.

        region: Where the keys are; None for what the session says.

        endpoint_url: Another address than AWS's own.

        timeout: Seconds that one attempt may take, connecting included.

    Attributes:
        region: Where calls go that name no region.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``aws_region_missing``, ``aws_endpoint_insecure`` or
            ``aws_timeout_invalid``.
    """

    def __init__(
        self,
        service: str,
        table: Table,
        *,
        session: boto3.Session | None,
        region: str | None,
        endpoint_url: str | None,
        timeout: float,
    ) -> None:
        if not 0 < timeout < float("inf"):
            message = f"AWS {service}: timeout={timeout!r} is no time"
            raise ConfigurationError(message, code="aws_timeout_invalid")
        self._service = service
        self._table = table
        self._endpoint_url = endpoint_url
        self._timeout = timeout
        self._session = session or _own_session(timeout)
        self.region: str = region or self._session.region_name or ""
        if not self.region:
            message = f"AWS {service}: neither region= nor the session says which region"
            raise ConfigurationError(message, code="aws_region_missing")
        if endpoint_url is not None:
            _require_secure(endpoint_url)
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Forget the clients: two processes on one TLS connection would read each other's keys.
        """
        self._clients: dict[tuple[str, float], Any] = {}

    def call(self, operation: str, parameters: Mapping[str, Any], region: str = "") -> Any:
        """
        Make one attempt, and answer what boto3 answers.

        Args:
            operation: The method of the boto3 client.

            parameters: Its arguments.

            region: Where, if not in `region`.

        Raises:
            twh_platform.errors.PlatformError: What `table` says, for whatever went wrong.
        """
        left = time_left(self._timeout)
        step = next((part for part in _STEPS if part * self._timeout <= left), None)
        if step is None:
            message = f"AWS {operation}: no time is left for an attempt"
            raise KeyServiceUnavailableError(message, code="key_service_unreachable")
        with quiet():
            answer, fault = self._attempt(operation, parameters, (region or self.region, step))
        if fault is not None:
            raise fault
        return answer

    def close(self) -> None:
        """
        Close all connections; a later call opens new ones.
        """
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _attempt(
        self, operation: str, parameters: Mapping[str, Any], which: tuple[str, float]
    ) -> tuple[Any, PlatformError | None]:
        # The fault is raised elsewhere: raised here it would carry the original along.
        try:
            return getattr(self._client(which), operation)(**parameters), None
        except PlatformError:
            raise
        except (BotoCoreError, ClientError) as error:
            return None, fault_of(error, operation, self._table)
        except Exception as error:  # noqa: BLE001  # botocore trips over replies of another form
            what = f"AWS {operation}: {type(error).__name__}"
            return None, KeyServiceUnavailableError(what)

    def _client(self, which: tuple[str, float]) -> Any:
        client = self._clients.get(which)
        if client is None:
            # Threads may share clients, but not the session that makes them: and
            # one session may be given to several of us.
            with _making.lock:
                client = self._clients.get(which) or self._made(*which)
                self._clients[which] = client
        return client

    def _made(self, region: str, step: float) -> Any:
        seconds = self._timeout * step
        config = Config(
            connect_timeout=seconds * _CONNECTING,
            read_timeout=seconds * (1 - _CONNECTING),
            # Whoever calls us tries again: only he knows his deadline.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=16,
            user_agent_extra="twh-platform",
        )
        client = self._session.client(
            self._service, region_name=region, endpoint_url=self._endpoint_url, config=config
        )
        # It may come from the environment too.
        _require_secure(client.meta.endpoint_url)
        return client


class _Making:
    # Who makes a client, of all services of the process.
    def __init__(self) -> None:
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()


_making = _Making()


def _own_session(timeout: float) -> boto3.Session:
    core = botocore.session.get_session()
    # It holds for what the credential chain asks on its own, such as STS.
    core.set_default_client_config(Config(connect_timeout=timeout, read_timeout=timeout))
    return boto3.Session(botocore_session=core)


def _require_secure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    message = f"endpoint {parts.scheme}://{parts.hostname} is not https: data keys pass through it"
    raise ConfigurationError(message, code="aws_endpoint_insecure")
