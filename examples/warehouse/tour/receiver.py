"""
A receiver of webhooks for the tour: `examples.webhooks.starlette_receiver`, as a process.

It is started as its page says, with a secret in the environment, and knows
nothing of the warehouse.  Its port is taken once, so that the subscription can
name it before there is a secret.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx

__all__ = ["Receiver"]

Deed = Callable[[Mapping[str, str]], Any]
"""What an `Aside` does, given the variables."""

_APP = "examples.webhooks.starlette_receiver:app"
_PATH = "/webhooks"
_ROOT = Path(__file__).parents[3]
_SECONDS = 30.0  # on a busy machine it takes some to start


class Receiver:
    """
    One port, and at most one process that listens there.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def reserve(self, _variables: Mapping[str, str]) -> dict[str, str]:
        """
        Take the port; the address of the receiver that will be there.
        """
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        atexit.register(self.close)
        return {"url": self._url}

    def start(self, secret: str) -> Deed:
        """
        Start it with the secret that this variable has, in the place of the one before.
        """

        def start(variables: Mapping[str, str]) -> int:
            self._stop()
            descriptor = self._listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", _APP, "--fd", str(descriptor)],
                cwd=_ROOT,
                env={**os.environ, "WEBHOOK_SECRET": variables[secret]},
                pass_fds=(descriptor,),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # Whoever connects waits until it accepts.  This is not signed.
            return httpx.get(self._url, timeout=_SECONDS, trust_env=False).status_code

        return start

    def copy(self, sent: str, *, tampered: bool = False) -> Deed:
        """
        Send what the warehouse has sent once more; its answer's status.

        Args:
            sent: The variable that has it, as `/webhooks/{id}/test` answered.

            tampered: Whether the body is changed by one letter.
        """
        return partial(self._copy, sent, tampered)

    def close(self, _variables: Mapping[str, str] | None = None) -> bool:
        """
        End it, and let the port go.
        """
        self._stop()
        self._listener.close()
        atexit.unregister(self.close)
        return True

    def _copy(self, sent: str, tampered: bool, variables: Mapping[str, str]) -> int:  # noqa: FBT001 -- for partial
        request = json.loads(variables[sent])
        body = request["body"].replace("test", "tess", 1) if tampered else request["body"]
        answer = httpx.post(
            request["url"],
            headers=[(one["name"], one["value"]) for one in request["headers"]],
            content=body,
            timeout=_SECONDS,
            trust_env=False,
        )
        return answer.status_code

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def _listener(self) -> socket.socket:
        assert self._socket is not None  # noqa: S101 -- `reserve` comes first
        return self._socket

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}{_PATH}"
