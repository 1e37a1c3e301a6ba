"""
AWS for tests: moto, and in front of it what moto does not do and AWS does.

moto answers AWS's protocols from memory.  It lets disabled keys decrypt, takes
{"a": "bc"} for {"ab": "c"} and more; each such fault is put right in `_Strict`,
and shown on plain moto by a test.  It can also be told to fail.  Whatever is
tested with it is not tested with AWS: test ids contain the word ``moto``.

Not put right, for nothing asks for it: DryRun, imported key material, policies
and grants, and that a rotation makes new material.

It runs in a process of its own, on loopback::

    python -m tests.support.strict_moto

prints the ports of the strict and of the plain server, and ends with its
standard input.
"""

from __future__ import annotations

import atexit
import base64
import functools
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["MARKER", "StrictMoto", "shared_moto"]

MARKER = "words-of-the-server"
"""Stands in the message of every error: nobody should repeat it."""

REGION = "eu-central-1"
ACCOUNT = "123456789012"
_CONTROL = "/strict-moto"
_SECRET_FIELDS = ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId", "SecretId")


class StrictMoto:
    """
    A server process; `url` is strict, `plain_url` is moto alone.

    Attributes:
        region: Where tests have their keys.

        allowed: The pattern of all its key ARNs.
    """

    region = REGION
    allowed = f"arn:aws:kms:*:{ACCOUNT}:key/*"

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.strict_moto"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # moto's own faults, each of which a test knows.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        strict, plain = self._process.stdout.readline().split()
        self.url = f"http://127.0.0.1:{strict}"
        self.plain_url = f"http://127.0.0.1:{plain}"
        self._session: Any = None
        self._shared: Any = None
        self._clients: dict[tuple[str, str, str], Any] = {}

    def fail(self, operation: str, **fault: Any) -> None:
        """
        Have calls of an operation (``*``: all) fail until `heal`.

        Args:
            operation: As AWS spells it.

            fault: ``about``: only calls whose key or secret contains this text;
                ``after``: so many calls go well first; ``times``: so many fail
                (default all); and what happens: ``code``, ``status`` and
                ``headers`` of an error; ``seconds`` of silence before the
                answer; ``change``: fields of the answer; ``body``: other text.
        """
        self._control("fail", {"operation": operation, **fault})

    def heal(self) -> None:
        """
        Let all faults end.
        """
        self._control("heal", {})

    def calls(self, about: str = "") -> dict[str, int]:
        """
        How often each operation was asked, of keys or secrets whose name contains *about*.
        """
        answer = self._control("calls", {"about": about})
        assert isinstance(answer, dict)
        return answer

    def session(self) -> Any:
        """
        A boto3 session with credentials that moto takes.
        """
        import boto3

        # One for all: each reads AWS's descriptions of its services anew.
        self._session = self._session or boto3.Session(
            aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
            aws_secret_access_key="a-secret-key-of-the-tests",
            region_name=REGION,
        )
        return self._session

    def shared_session(self) -> Any:
        """
        The same, whose clients are made once: to make one takes a tenth of a second.
        """
        self._shared = self._shared or _SharedSession(self.session())
        return self._shared

    def client(self, service: str, *, plain: bool = False, region: str = REGION) -> Any:
        """
        A plain boto3 client, to prepare and to look at what is there.
        """
        which = (service, self.plain_url if plain else self.url, region)
        if which not in self._clients:
            self._clients[which] = self.session().client(
                service, endpoint_url=which[1], region_name=region
            )
        return self._clients[which]

    def close(self) -> None:
        """
        End the process.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _control(self, what: str, body: Any) -> Any:
        url = f"{self.url}{_CONTROL}/{what}"
        request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class _SharedSession:
    """
    As much of a boto3 session as our services use.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._clients: dict[Any, Any] = {}
        self.region_name = session.region_name

    def client(self, service: str, *, config: Any, **options: Any) -> Any:
        which = (service, config.read_timeout, *sorted(options.items()))
        if which not in self._clients:
            self._clients[which] = self._session.client(service, config=config, **options)
        return self._clients[which]


@functools.cache
def shared_moto() -> StrictMoto:
    """
    The one server of this test process; who has it fail, heals it.
    """
    server = StrictMoto()
    atexit.register(server.close)
    return server


# From here on: the server's process.


class _RefusalError(Exception):
    """
    An error of AWS's JSON protocol.
    """

    def __init__(self, code: str, status: int = 400, headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.headers = headers or {}
        self.body = json.dumps({"__type": code, "message": MARKER}).encode()


class _Faults:
    """
    What is to fail, and how often what was asked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._calls: Counter[tuple[str, str]] = Counter()

    def control(self, what: str, body: dict[str, Any]) -> Any:
        with self._lock:
            if what == "fail":
                self._faults.append(body)
            elif what == "heal":
                self._faults.clear()
            else:
                seen: Counter[str] = Counter()
                for (operation, about), times in self._calls.items():
                    if body["about"] in about:
                        seen[operation] += times
                return seen
        return {}

    def met(self, operation: str, about: str) -> dict[str, Any]:
        with self._lock:
            self._calls[operation, about] += 1
            for fault in self._faults:
                if fault["operation"] not in {operation, "*"}:
                    continue
                if fault.get("about", "") not in about or fault.get("times") == 0:
                    continue
                if fault.get("after", 0) > 0:
                    fault["after"] -= 1
                    continue
                if "times" in fault:
                    fault["times"] -= 1
                return fault
        return {}


class _Strict:
    """
    The WSGI application in front of moto's.
    """

    _USES = frozenset(
        {
            "Decrypt",
            "EnableKeyRotation",
            "Encrypt",
            "GenerateDataKey",
            "GenerateDataKeyWithoutPlaintext",
            "GenerateMac",
            "ReEncrypt",
            "RotateKeyOnDemand",
            "VerifyMac",
        }
    )
    _CHANGES = frozenset({"CreateAlias", "DisableKey", "EnableKey", "ScheduleKeyDeletion"})
    _FIELDS = ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId")
    _CONTEXTS = ("EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext")
    _LONGEST_CONTEXT = 8192
    _HEADER_ID = 36

    def __init__(self, app: Any) -> None:
        self._app = app
        self._faults = _Faults()
        # AWS makes one of two racing aliases; moto's threads would make both.
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = json.loads(environ["wsgi.input"].read(size) or b"{}")
        path = environ["PATH_INFO"]
        if path.startswith(_CONTROL):
            answer = self._faults.control(path.rpartition("/")[2], body)
            return _answer(start_response, 200, {}, json.dumps(answer).encode())
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")
        try:
            status, raw = self._serve(environ, service, operation, body)
        except _RefusalError as refusal:
            return _answer(start_response, refusal.status, refusal.headers, refusal.body)
        return _answer(start_response, status, {}, raw)

    def _serve(
        self, environ: dict[str, Any], service: str, operation: str, body: dict[str, Any]
    ) -> tuple[int, bytes]:
        about = " ".join(str(body[name]) for name in _SECRET_FIELDS if name in body)
        fault = self._faults.met(operation, about)
        time.sleep(fault.get("seconds", 0))
        if "code" in fault:
            raise _RefusalError(fault["code"], fault.get("status", 400), fault.get("headers"))
        if "body" in fault:
            return fault.get("status", 200), fault["body"].encode()
        with self._lock:
            region = _region(environ)
            if service == "TrentService":
                status, raw = self._kms(environ, region, operation, body)
            else:
                self._secrets(region, operation, body)
                status, raw = self._moto(environ, body)
        if status == 200 and "change" in fault:
            raw = json.dumps({**json.loads(raw), **fault["change"]}).encode()
        if status >= 400:
            raw = json.dumps({**json.loads(raw or b"{}"), "message": MARKER}).encode()
        return status, raw

    def _kms(
        self, environ: dict[str, Any], region: str, operation: str, body: dict[str, Any]
    ) -> tuple[int, bytes]:
        from moto.kms.models import kms_backends

        backend = kms_backends[ACCOUNT][region]
        for name in self._FIELDS:
            if body.get(name, "").startswith("mrk-"):
                # moto knows the form of its own ids only, unless they are in an ARN.
                body[name] = f"arn:aws:kms:{region}:{ACCOUNT}:key/{body[name]}"
        keys = {name: self._key(backend, body[name]) for name in self._FIELDS if name in body}
        self._check_states(operation, [key for key in keys.values() if key])
        self._check_contexts(body)
        self._check_usage(operation, keys)
        self._check_ciphertext(backend, operation, body, keys)
        if operation in {"DisableKey", "EnableKey", "ScheduleKeyDeletion"} and keys["KeyId"]:
            return 200, json.dumps(self._change(backend, operation, keys["KeyId"], body)).encode()
        if operation == "ReplicateKey" and keys["KeyId"]:
            return 200, json.dumps(self._replicate(backend, keys["KeyId"], body)).encode()
        if operation == "CreateKey":
            # moto leaves the usage empty where none is asked for.
            body.setdefault("KeyUsage", "ENCRYPT_DECRYPT")
        status, raw = self._moto(environ, body)
        if status == 200 and operation in {"GenerateMac", "VerifyMac"}:
            raw = json.dumps({**json.loads(raw), "KeyId": keys["KeyId"].arn}).encode()
        return status, raw

    def _key(self, backend: Any, name: str) -> Any:
        key_id = backend.any_id_to_key_id(name) if self._is_known(backend, name) else None
        return backend.keys.get(key_id)

    def _is_known(self, backend: Any, name: str) -> bool:
        if "alias/" not in name:
            # An ARN of another region or account is not ours, whatever its last part.
            here = f"arn:aws:kms:{backend.region_name}:{ACCOUNT}:key/"
            return not name.startswith("arn:") or name.startswith(here)
        return bool(backend.get_key_id_from_alias(backend.get_alias_name(name)))

    def _check_states(self, operation: str, keys: list[Any]) -> None:
        if operation not in self._USES | self._CHANGES:
            return
        for key in keys:
            if key.key_state in {"PendingDeletion", "PendingReplicaDeletion"}:
                raise _RefusalError("KMSInvalidStateException")
            if key.key_state == "Disabled" and operation in self._USES:
                raise _RefusalError("DisabledException")

    def _check_contexts(self, body: dict[str, Any]) -> None:
        for name in self._CONTEXTS:
            if name not in body:
                continue
            text = json.dumps(body[name], sort_keys=True)
            if len(text) > self._LONGEST_CONTEXT:
                raise _RefusalError("ValidationException")
            # moto joins keys and values without a separator: one pair cannot be misread.
            body[name] = {"strict": text}

    def _check_usage(self, operation: str, keys: dict[str, Any]) -> None:
        encrypting = {"Decrypt", "Encrypt", "GenerateDataKey", "ReEncrypt"}
        for key in keys.values():
            if key and operation in encrypting and key.key_usage != "ENCRYPT_DECRYPT":
                raise _RefusalError("InvalidKeyUsageException")

    def _check_ciphertext(
        self, backend: Any, operation: str, body: dict[str, Any], keys: dict[str, Any]
    ) -> None:
        if operation not in {"Decrypt", "ReEncrypt"}:
            return
        for name, key in keys.items():
            if key is None:
                raise _RefusalError("NotFoundException")
            if name == "DestinationKeyId":
                continue
            blob = base64.b64decode(body["CiphertextBlob"])
            made_by = blob[: self._HEADER_ID].decode("ascii", "replace")
            if made_by not in backend.keys:
                raise _RefusalError("InvalidCiphertextException")
            if made_by != key.id:
                raise _RefusalError("IncorrectKeyException")

    def _change(self, backend: Any, operation: str, key: Any, body: dict[str, Any]) -> Any:
        if operation == "DisableKey":
            return backend.disable_key(key.id)
        if operation == "EnableKey":
            return backend.enable_key(key.id)
        days = body.get("PendingWindowInDays", 30)
        if not 7 <= days <= 30:
            raise _RefusalError("ValidationException")
        date = backend.schedule_key_deletion(key.id, days)
        state = {"KeyState": key.key_state, "PendingWindowInDays": days}
        return {"KeyId": key.arn, "DeletionDate": date, **state}

    def _replicate(self, backend: Any, key: Any, body: dict[str, Any]) -> Any:
        # moto takes no ARN here, and its replica shares the aliases of its primary.
        replica = backend.replicate_key(key.id, body["ReplicaRegion"])
        replica.aliases = {}
        return {"ReplicaKeyMetadata": replica.to_dict()["KeyMetadata"]}

    def _secrets(self, region: str, operation: str, body: dict[str, Any]) -> None:
        """
        Nothing to put right so far.
        """

    def _moto(self, environ: dict[str, Any], body: dict[str, Any]) -> tuple[int, bytes]:
        import io

        raw = json.dumps(body).encode()
        inner = {**environ, "wsgi.input": io.BytesIO(raw), "CONTENT_LENGTH": str(len(raw))}
        seen: list[int] = []

        def start(status: str, _headers: Any, _info: Any = None) -> Callable[[bytes], None]:
            seen.append(int(status.split(maxsplit=1)[0]))
            return lambda _: None

        answer = b"".join(self._app(inner, start))
        return seen[0], answer


def _region(environ: dict[str, Any]) -> str:
    found = re.search(r"Credential=[^/]+/\d+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    return found[1] if found else REGION


def _answer(
    start_response: Any, status: int, headers: dict[str, str], body: bytes
) -> Iterable[bytes]:
    kind = {"Content-Type": "application/x-amz-json-1.1", "Content-Length": str(len(body))}
    start_response(f"{status} X", list({**kind, **headers}.items()))
    return [body]


def _key_id(multi_region: bool = False) -> str:  # noqa: FBT001, FBT002 -- moto's signature
    # AWS's form has 36 characters either way; moto cuts its own, of 40, when it decrypts.
    return f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())


def _main() -> None:
    import moto.kms.models
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Nothing is written: the output is for the ports."""

    strict_ids, plain_ids = _key_id, moto.kms.models.generate_key_id
    is_strict = threading.local()

    def ids(multi_region: bool = False) -> str:  # noqa: FBT001, FBT002
        return (strict_ids if getattr(is_strict, "now", False) else plain_ids)(multi_region)

    moto.kms.models.generate_key_id = ids
    app = DomainDispatcherApplication(create_backend_app)
    strict = _Strict(app)

    def marked(environ: Any, start_response: Any) -> Any:
        is_strict.now = True
        try:
            return strict(environ, start_response)
        finally:
            is_strict.now = False

    servers = [
        make_server("127.0.0.1", 0, one, threaded=True, request_handler=Quiet)
        for one in (marked, app)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(*(server.port for server in servers), flush=True)  # noqa: T201 -- the caller reads it
    sys.stdin.read()


if __name__ == "__main__":
    _main()
