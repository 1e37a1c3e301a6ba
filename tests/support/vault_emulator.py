"""
An emulator of Vault and OpenBao on loopback, written from their public HTTP API.

It has what the platform uses: Transit, KV v2, logins, wrapping, health, and
namespaces; and switches for what a test cannot ask of a real server.  It is no
proof of what a server does: results that rest on it carry the word "emulated".
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["Elsewhere", "Fault", "Seen", "VaultEmulator"]

_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_ERROR = "marked-server-text: the emulator quotes what it was sent"


class RefusalError(Exception):
    """
    An answer that is no success.
    """

    def __init__(self, status: int, *errors: str, body: dict[str, Any] | None = None) -> None:
        self.status = status
        self.body = {"errors": list(errors)} if body is None else body


@dataclass(kw_only=True)
class Fault:
    """
    What to do instead of answering.

    Args:
        path: A pattern that is searched for in ``METHOD path``.

        status: The status to answer; 0 to answer as usual, after the delay.

        times: How often; None for until it is taken back.

        after: How many requests that fit go through before.
    """

    path: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    after: int = 0
    delay: float = 0.0
    dribble: bool = False
    hang_up: bool = False
    body: bytes = json.dumps({"errors": [_ERROR]}).encode()
    done: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """
    One request that reached the server.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(kw_only=True)
class _Token:
    ends_at: float | None
    max_ends_at: float | None = None
    ttl: float = 0.0
    renewable: bool = False
    denied: str | None = None


@dataclass(kw_only=True)
class _Key:
    derived: bool
    exportable: bool
    backup: bool
    materials: dict[int, bytes]
    made: dict[int, int]
    minimum: int = 1
    deletion_allowed: bool = False
    soft_deleted: bool = False

    @property
    def latest(self) -> int:
        return max(self.materials)


@dataclass(kw_only=True)
class _Versions:
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    latest: int = 0


class VaultEmulator:
    """
    A server in a thread, on a free port of loopback.

        with VaultEmulator() as vault:
            service = VaultKeyService(vault.address, TokenAuth(vault.root_token))

    Args:
        flavour: ``openbao`` knows soft deletion of keys, ``vault`` does not.

        clock: What tokens age by.
    """

    def __init__(
        self, *, flavour: str = "openbao", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.flavour = flavour
        self.clock = clock
        self.root_token = f"hvs.root-{secrets.token_hex(12)}"
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.upsert = True
        self.lock = threading.RLock()
        self.mounts: dict[tuple[str, str], dict[str, Any]] = {}
        self.kinds: dict[tuple[str, str], str] = {}
        self.tokens = {self.root_token: _Token(ends_at=None)}
        self.roles: dict[str, dict[str, Any]] = {}
        self.secret_ids: set[str] = set()
        self.wrapped: dict[str, tuple[str, dict[str, Any]]] = {}
        self.workloads: dict[str, str] = {}
        self.login_ttl, self.login_max, self.login_renewable = 3600.0, 7200.0, True
        self.logins = 0
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.mount("transit", "transit")
        self.mount("secret", "kv")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """
        Where it listens.
        """
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def mount(self, path: str, kind: str, namespace: str = "") -> None:
        """
        Put an engine, ``transit`` or ``kv``, at a path.
        """
        self.mounts[namespace, path] = {}
        self.kinds[namespace, path] = kind

    def fault(self, **options: Any) -> Fault:
        """
        Add a fault; the first that fits a request is met.
        """
        fault = Fault(**options)
        self.faults.append(fault)
        return fault

    def token(
        self, ttl: float | None = None, *, max_ttl: float | None = None, renewable: bool = False
    ) -> str:
        """
        Give out a token.
        """
        text = f"hvs.{secrets.token_urlsafe(24)}"
        now = self.clock()
        self.tokens[text] = _Token(
            ends_at=None if ttl is None else now + ttl,
            max_ends_at=None if max_ttl is None else now + max_ttl,
            ttl=ttl or 0,
            renewable=renewable,
        )
        return text

    def revoke_all(self) -> None:
        """
        End every token but the root's.
        """
        self.tokens = {self.root_token: self.tokens[self.root_token]}

    def counted(self, pattern: str) -> int:
        """
        How many requests fit a pattern.
        """
        return sum(bool(re.search(pattern, f"{one.method} {one.path}")) for one in self.seen)

    # --- answering

    def answer(self, seen: Seen, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """
        Answer one request.
        """
        namespace = seen.headers.get("x-vault-namespace", "").strip("/")
        token = seen.headers.get("x-vault-token", "")
        with self.lock:
            open_answer = self._without_token(seen, token)
            if open_answer is not None:
                return 200, open_answer
            holder = self._admitted(seen, token)
            if seen.path.startswith("auth/token/"):
                return 200, self._token_call(seen, token, holder)
            answer = self._system(seen, namespace) or self._engine(seen, namespace, query)
        ttl = seen.headers.get("x-vault-wrap-ttl")
        return 200, self._wrap(seen.path, answer) if ttl else answer

    def _without_token(self, seen: Seen, token: str) -> dict[str, Any] | None:
        if seen.path == "sys/health":
            version = "2.6.2" if self.flavour == "openbao" else "1.20.0"
            return {"initialized": True, "sealed": False, "standby": False, "version": version}
        if seen.path == "sys/wrapping/lookup":
            found = self.wrapped.get(seen.body.get("token", token))
            if found is None:
                raise RefusalError(400, "wrapping token is not valid or does not exist")
            return {"data": {"creation_path": found[0], "creation_ttl": 60}}
        if seen.path == "sys/wrapping/unwrap":
            found = self.wrapped.pop(seen.body.get("token", token), None)
            if found is None:
                raise RefusalError(400, "wrapping token is not valid or does not exist")
            return found[1]
        if login := re.fullmatch(r"auth/([\w-]+)/login", seen.path):
            return self._login(login[1], seen.body)
        return None

    def _admitted(self, seen: Seen, token: str) -> _Token:
        holder = self.tokens.get(token)
        if holder is None or (holder.ends_at is not None and self.clock() >= holder.ends_at):
            raise RefusalError(403, "permission denied", _ERROR)
        if holder.denied and re.search(holder.denied, f"{seen.method} {seen.path}"):
            raise RefusalError(403, "1 error occurred: permission denied", _ERROR)
        return holder

    def _wrap(self, path: str, answer: dict[str, Any]) -> dict[str, Any]:
        token = f"hvs.wrap-{secrets.token_hex(12)}"
        self.wrapped[token] = (path, answer)
        return {"wrap_info": {"token": token, "ttl": 60, "creation_path": path}}

    def _token_call(self, seen: Seen, text: str, token: _Token) -> dict[str, Any]:
        now = self.clock()
        if seen.path == "auth/token/lookup-self":
            left = 0 if token.ends_at is None else int(token.ends_at - now)
            return {"data": {"ttl": left, "renewable": token.renewable, "type": "service"}}
        if seen.path == "auth/token/renew-self":
            if not token.renewable or token.ends_at is None:
                raise RefusalError(400, "lease is not renewable")
            ends_at = now + token.ttl
            token.ends_at = min(ends_at, token.max_ends_at or ends_at)
            return self._auth(text, token.ends_at - now, renewable=True)
        raise RefusalError(404)

    def _auth(self, token: str, ttl: float, *, renewable: bool) -> dict[str, Any]:
        return {"auth": {"client_token": token, "lease_duration": int(ttl), "renewable": renewable}}

    def _login(self, mount: str, body: dict[str, Any]) -> dict[str, Any]:
        check = {"approle": self._approle, "aws": self._aws}.get(mount, self._workload)
        if not check(body):
            raise RefusalError(400, "invalid role or credentials", _ERROR)
        self.logins += 1
        token = self.token(self.login_ttl, max_ttl=self.login_max, renewable=self.login_renewable)
        return self._auth(token, self.login_ttl, renewable=self.login_renewable)

    def _approle(self, body: dict[str, Any]) -> bool:
        known = any(role["role_id"] == body.get("role_id") for role in self.roles.values())
        return known and body.get("secret_id") in self.secret_ids

    def _workload(self, body: dict[str, Any]) -> bool:
        return self.workloads.get(body.get("role", "")) == body.get("jwt", 0)

    def _aws(self, body: dict[str, Any]) -> bool:
        given = {name: base64.b64decode(body[f"iam_request_{name}"]) for name in _AWS_FIELDS}
        headers = json.loads(given["headers"])
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/[\w-]+/sts/aws4_request,"
            r" SignedHeaders=([\w;-]+), Signature=[0-9a-f]{64}",
            headers.get("Authorization", ""),
        )
        return bool(
            signed
            and body["iam_http_request_method"] == "POST"
            and re.fullmatch(rb"https://sts\.([\w-]+\.)?amazonaws\.com/", given["url"])
            and given["body"] == b"Action=GetCallerIdentity&Version=2011-06-15"
            and headers.get("X-Vault-AWS-IAM-Server-ID") == "vault.example"
            and "x-vault-aws-iam-server-id" in signed[2]
            and body["role"] in self.workloads
        )

    def _system(self, seen: Seen, namespace: str) -> dict[str, Any] | None:
        if mounting := re.fullmatch(r"sys/mounts/(.+)", seen.path):
            if seen.method == "DELETE":
                self.mounts.pop((namespace, mounting[1]), None)
                self.kinds.pop((namespace, mounting[1]), None)
            else:
                self.mount(mounting[1], seen.body["type"], namespace)
            return {"data": None}
        if making := re.fullmatch(r"auth/approle/role/([\w-]+)(/role-id|/secret-id)?", seen.path):
            role = self.roles.setdefault(making[1], {"role_id": secrets.token_hex(8)})
            if making[2] == "/secret-id":
                secret_id = secrets.token_hex(12)
                self.secret_ids.add(secret_id)
                return {"data": {"secret_id": secret_id}}
            return {"data": dict(role)}
        return None

    def _engine(self, seen: Seen, namespace: str, query: dict[str, list[str]]) -> dict[str, Any]:
        for (space, path), held in self.mounts.items():
            if space == namespace and seen.path.startswith(f"{path}/"):
                rest = seen.path.removeprefix(f"{path}/")
                if self.kinds[space, path] == "transit":
                    return _Transit(self, held).answer(seen.method, rest, seen.body)
                return _Kv(held).answer(seen.method, rest, seen.body, query)
        raise RefusalError(404, f"no handler for route {seen.path!r}")


_AWS_FIELDS = ("url", "body", "headers")


class _Transit:
    """
    https://openbao.org/api-docs/secret/transit/
    """

    def __init__(self, vault: VaultEmulator, keys: dict[str, Any]) -> None:
        self.vault = vault
        self.keys: dict[str, _Key] = keys

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        verb, _, rest = path.partition("/")
        if verb == "keys":
            name, _, action = rest.partition("/")
            return self._on_key(method, name, action, body)
        if verb == "datakey":
            kind, _, name = rest.partition("/")
            return {"data": self._datakey(self._usable(name), kind, body)}
        if verb == "encrypt" and rest not in self.keys and self.vault.upsert:
            self._make(rest, {"derived": bool(_items(body)[0].get("context"))})
        key = self._usable(rest)
        if verb in {"encrypt", "decrypt", "rewrap"}:
            return self._batch(key, verb, body)
        if verb == "hmac":
            return {"data": {"hmac": _hmac(key, key.latest, body["input"])}}
        if verb == "verify":
            return {"data": {"valid": self._verified(key, body)}}
        raise RefusalError(404, f"unsupported path {path!r}")

    def _on_key(self, method: str, name: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        if not _NAME.fullmatch(name):
            raise RefusalError(404, "unsupported path")
        known = {"", "rotate", "config", "trim"}
        if self.vault.flavour == "openbao":
            known |= {"soft-delete", "soft-delete-restore"}
        if action not in known:
            raise RefusalError(404, "unsupported path")
        if method in {"POST", "PUT"} and not action:
            self._make(name, body)
        key = self.keys.get(name)
        if key is None:
            raise RefusalError(404) if method == "GET" else RefusalError(400, "key not found")
        if method == "DELETE":
            self._delete(name, key, action)
        elif method != "GET":
            self._act(key, action, body)
        return {"data": self._described(name, key)}

    def _act(self, key: _Key, action: str, body: dict[str, Any]) -> None:
        if action == "rotate":
            self._refuse_deleted(key)
            _add_version(key)
        elif action == "config":
            key.deletion_allowed = body.get("deletion_allowed", key.deletion_allowed)
            key.minimum = body.get("min_decryption_version", key.minimum)
        elif action == "trim":
            for version in [one for one in key.materials if one < body["min_available_version"]]:
                del key.materials[version]
        elif action == "soft-delete-restore":
            key.soft_deleted = False

    def _delete(self, name: str, key: _Key, action: str) -> None:
        if action == "soft-delete":
            key.soft_deleted = True
        elif not key.deletion_allowed:
            raise RefusalError(500, "deletion is not allowed for this key")
        else:
            del self.keys[name]

    def _make(self, name: str, body: dict[str, Any]) -> None:
        if not _NAME.fullmatch(name):
            raise RefusalError(404, "unsupported path")
        if name not in self.keys:
            self.keys[name] = key = _Key(
                derived=bool(body.get("derived")),
                exportable=bool(body.get("exportable")),
                backup=bool(body.get("allow_plaintext_backup")),
                materials={},
                made={},
            )
            _add_version(key)

    def _usable(self, name: str) -> _Key:
        key = self.keys.get(name)
        if key is None:
            raise RefusalError(400, "encryption key not found", _ERROR)
        self._refuse_deleted(key)
        return key

    def _refuse_deleted(self, key: _Key) -> None:
        if key.soft_deleted:
            raise RefusalError(400, "key is soft deleted")

    def _described(self, name: str, key: _Key) -> dict[str, Any]:
        described = {
            "name": name,
            "type": "aes256-gcm96",
            "derived": key.derived,
            "exportable": key.exportable,
            "allow_plaintext_backup": key.backup,
            "deletion_allowed": key.deletion_allowed,
            "latest_version": key.latest,
            "min_decryption_version": key.minimum,
            "min_available_version": 0,
            "keys": {str(version): key.made[version] for version in key.materials},
        }
        if self.vault.flavour == "openbao":
            described["soft_deleted"] = key.soft_deleted
        return described

    def _datakey(self, key: _Key, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind not in {"plaintext", "wrapped"}:
            raise RefusalError(400, "Invalid path, must be 'plaintext' or 'wrapped'")
        plain = base64.b64encode(os.urandom(body.get("bits", 256) // 8)).decode()
        sealed = _encrypt(key, {"plaintext": plain, "context": body.get("context", "")})
        return {**sealed, "plaintext": plain} if kind == "plaintext" else sealed

    def _batch(self, key: _Key, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        items = _items(body)
        if len({bool(item.get("context")) for item in items}) > 1:
            raise RefusalError(
                400, "context should be set either in all the request blocks or in none"
            )
        work = {"encrypt": _encrypt, "decrypt": _decrypt, "rewrap": _rewrap}[verb]
        results = [_attempt(work, key, item) for item in items]
        if "batch_input" not in body:
            if "error" in results[0]:
                raise RefusalError(400, results[0]["error"])
            return {"data": results[0]}
        data = {"data": {"batch_results": results}}
        failed = sum("error" in one for one in results)
        if verb != "rewrap" and failed == len(results):
            raise RefusalError(400, body=data)
        if verb != "rewrap" and failed and body.get("partial_failure_response_code") != 200:
            raise RefusalError(400, body=data)
        return data

    def _verified(self, key: _Key, body: dict[str, Any]) -> bool:
        given = body["hmac"]
        version = re.fullmatch(r"vault:v(\d+):(.+)", given)
        if version is None or int(version[1]) not in key.materials:
            raise RefusalError(400, "invalid HMAC", _ERROR)
        with contextlib.suppress(ValueError):
            base64.b64decode(version[2], validate=True)
            expected = _hmac(key, int(version[1]), body.get("input", ""))
            return hmac.compare_digest(expected, given)
        raise RefusalError(400, "unable to decode verification HMAC as base64")


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    items = body.get("batch_input", [body])
    if not items:
        raise RefusalError(400, "missing batch input to process")
    return list(items)


def _add_version(key: _Key) -> None:
    version = max(key.made, default=0) + 1
    key.materials[version] = os.urandom(32)
    key.made[version] = int(time.time())


def _attempt(
    work: Callable[[_Key, dict[str, Any]], dict[str, Any]], key: _Key, item: dict[str, Any]
) -> dict[str, Any]:
    try:
        return work(key, item)
    except RefusalError as refusal:
        return {"error": refusal.body["errors"][0]}


def _cipher(key: _Key, version: int, context: str) -> AESGCM:
    material = key.materials.get(version)
    if material is None or version < key.minimum:
        raise RefusalError(400, "ciphertext or signature version is disallowed by policy (too old)")
    if not key.derived:
        return AESGCM(material)  # a context is ignored, as a server does
    if not context:
        raise RefusalError(400, "missing 'context' for key derivation")
    info = base64.b64decode(context, validate=True)
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(material))


def _encrypt(key: _Key, item: dict[str, Any]) -> dict[str, Any]:
    nonce = os.urandom(12)
    plain = base64.b64decode(item["plaintext"], validate=True)
    sealed = nonce + _cipher(key, key.latest, item.get("context", "")).encrypt(nonce, plain, None)
    text = f"vault:v{key.latest}:{base64.b64encode(sealed).decode()}"
    return {"ciphertext": text, "key_version": key.latest}


def _decrypt(key: _Key, item: dict[str, Any]) -> dict[str, Any]:
    parts = re.fullmatch(r"vault:v(\d+):(.+)", item.get("ciphertext", ""))
    if parts is None:
        raise RefusalError(400, f"invalid ciphertext: {_ERROR}")
    try:
        sealed = base64.b64decode(parts[2])
        cipher = _cipher(key, int(parts[1]), item.get("context", ""))
        plain = cipher.decrypt(sealed[:12], sealed[12:], None)
    except (InvalidTag, ValueError):
        raise RefusalError(400, "cipher: message authentication failed") from None
    return {"plaintext": base64.b64encode(plain).decode()}


def _rewrap(key: _Key, item: dict[str, Any]) -> dict[str, Any]:
    return _encrypt(key, {**_decrypt(key, item), "context": item.get("context", "")})


def _hmac(key: _Key, version: int, text: str) -> str:
    key_bytes = hashlib.sha256(b"hmac" + key.materials[version]).digest()
    tag = hmac.digest(key_bytes, base64.b64decode(text, validate=True), "sha256")
    return f"vault:v{version}:{base64.b64encode(tag).decode()}"


class _Kv:
    """
    https://openbao.org/api-docs/secret/kv/kv-v2/
    """

    def __init__(self, held: dict[str, _Versions]) -> None:
        self.held = held

    def answer(
        self, method: str, path: str, body: dict[str, Any], query: dict[str, list[str]]
    ) -> dict[str, Any]:
        verb, _, name = path.partition("/")
        if method == "LIST" or query.get("list") == ["true"]:
            return {"data": {"keys": self._listed(name)}}
        if verb == "data":
            return self._data(method, name, body, query)
        if verb == "metadata":
            return self._metadata(method, name, body)
        if verb in {"delete", "undelete", "destroy"}:
            self._marked(verb, name, body.get("versions", []))
            return {"data": None}
        raise RefusalError(404, "unsupported path")

    def _data(
        self, method: str, name: str, body: dict[str, Any], query: dict[str, list[str]]
    ) -> dict[str, Any]:
        if method in {"POST", "PUT"}:
            return {"data": self._written(name, body)}
        found = self.held.get(name)
        if found is None:
            raise RefusalError(404)
        version = int(query.get("version", ["0"])[0]) or found.latest
        if method == "DELETE":
            self._marked("delete", name, [found.latest])
            return {"data": None}
        value = found.values.get(version)
        if value is None:
            raise RefusalError(404)
        metadata = _kv_metadata(version, value)
        if value["deleted"] or value["destroyed"]:
            raise RefusalError(404, body={"data": {"data": None, "metadata": metadata}})
        return {"data": {"data": value["data"], "metadata": metadata}}

    def _written(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        found = self.held.get(name) or _Versions()
        expected = body.get("options", {}).get("cas")
        if expected is None and found.settings.get("cas_required"):
            raise RefusalError(400, "check-and-set parameter required for this call")
        if expected is not None and expected != found.latest:
            raise RefusalError(
                400, "check-and-set parameter did not match the current version", _ERROR
            )
        self.held[name] = found
        found.latest += 1
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        value = {"data": body["data"], "made": made, "deleted": "", "destroyed": False}
        found.values[found.latest] = value
        for old in sorted(found.values)[: -(found.settings.get("max_versions") or 10)]:
            del found.values[old]
        return _kv_metadata(found.latest, value)

    def _metadata(self, method: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "DELETE":
            self.held.pop(name, None)
            return {"data": None}
        if method in {"POST", "PUT"}:
            self.held.setdefault(name, _Versions()).settings.update(body)
            return {"data": None}
        if name not in self.held:
            raise RefusalError(404)
        found = self.held[name]
        versions = {str(at): _kv_metadata(at, one) for at, one in found.values.items()}
        return {"data": {"current_version": found.latest, "versions": versions, **found.settings}}

    def _marked(self, verb: str, name: str, versions: list[int]) -> None:
        for version in versions:
            value = self.held[name].values.get(version) if name in self.held else None
            if value is not None and verb == "destroy":
                value.update(destroyed=True, data=None)
            elif value is not None:
                value["deleted"] = "2026-01-01T00:00:00Z" if verb == "delete" else ""

    def _listed(self, folder: str) -> list[str]:
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        inside = [name.removeprefix(prefix) for name in self.held if name.startswith(prefix)]
        if not inside:
            raise RefusalError(404)
        return sorted({head + slash for head, slash, _ in (one.partition("/") for one in inside)})


def _kv_metadata(version: int, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": version,
        "created_time": value["made"],
        "deletion_time": value["deleted"],
        "destroyed": value["destroyed"],
    }


# --- the server


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Clients that hang up are what the tests are about.
        """


class _Server(_Quiet):
    def __init__(self, vault: VaultEmulator) -> None:
        self.vault = vault
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = parts.path.removeprefix("/v1/")
        body = json.loads(raw) if raw else {}
        seen = Seen(method=self.command, path=path, headers=headers, body=body)
        self.server.vault.seen.append(seen)
        if not self._faulted(_fault(self.server.vault, f"{self.command} {path}")):
            self._answer(seen, parse_qs(parts.query))

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = do  # noqa: N815

    def _faulted(self, fault: Fault | None) -> bool:
        if fault is None:
            return False
        time.sleep(fault.delay)
        if fault.done is not None:
            fault.done()
        if fault.hang_up:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return True
        if fault.status:
            self._send(fault.status, fault.body, fault.headers, dribble=fault.dribble)
        return bool(fault.status)

    def _answer(self, seen: Seen, query: dict[str, list[str]]) -> None:
        try:
            status, answer = self.server.vault.answer(seen, query)
        except RefusalError as refusal:
            status, answer = refusal.status, refusal.body
        except (KeyError, ValueError, TypeError) as error:
            status, answer = 400, {"errors": [repr(error)]}
        self._send(status, json.dumps(answer).encode(), {})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, dribble: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        # Go's server sends what is long in chunks.
        chunked = len(body) > 2048
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if dribble:
                self._dribble(body)
            elif chunked:
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            else:
                self.wfile.write(body)

    def _dribble(self, body: bytes) -> None:
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, *_: Any) -> None:
        """
        Say nothing.
        """


def _fault(vault: VaultEmulator, line: str) -> Fault | None:
    with vault.lock:
        for fault in vault.faults:
            if not re.search(fault.path, line) or fault.times == 0:
                continue
            if fault.after:
                fault.after -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
    return None


class Elsewhere:
    """
    Another origin, which notes what it is sent and answers like a Vault would.
    """

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """
        Its address, while it listens.
        """
        self._thread.start()
        try:
            yield f"http://localhost:{self._server.server_address[1]}"
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def tokens(self) -> list[str]:
        """
        The tokens that it was shown.
        """
        return [one["x-vault-token"] for one in self.headers if "x-vault-token" in one]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        noted = self.headers

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                noted.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b'{"data": {}}')

            do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """
                Say nothing.
                """

        return Handler
