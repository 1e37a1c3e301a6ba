"""
How a process proves to Vault who it is, each way with the same one method.

What is read from a file is read again at each login: a platform replaces it
there (Kubernetes does so every hour).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, Self

from ..._forks import reset_after_fork
from ...errors import ConfigurationError, KeyAccessDeniedError, KeyServiceError
from ._status import VaultRequestRefusedError
from ._transport import Answer, Hidden, VaultTransport, valid_path

__all__ = [
    "AppRoleAuth",
    "AwsCredentials",
    "AwsIamAuth",
    "JwtAuth",
    "KubernetesAuth",
    "TokenAuth",
    "VaultAuth",
    "VaultLogin",
]

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_LARGEST_FILE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLogin:
    """
    A token and how long it lives.  It cannot be pickled, and does not show it.

    Attributes:
        token: The token.

        ttl: Seconds that it lives from now on; 0 for one without an end.

        renewable: Whether it can be renewed.  A batch token cannot.
    """

    token: str = field(repr=False)
    ttl: float
    renewable: bool

    def __reduce__(self) -> NoReturn:
        message = "a token is not pickled"
        raise TypeError(message)

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """
        Read what a login or a renewal answered.

        Raises:
            twh_platform.errors.KeyServiceError: With code
                ``vault_answer_invalid``, if there is no token in it.
        """
        given = answer.part("auth")
        token = given.get("client_token")
        if not isinstance(token, str) or not token:
            message = "Vault answered a login without a token"
            raise KeyServiceError(message, code="vault_answer_invalid")
        ttl = float(given.get("lease_duration") or 0)
        return cls(token=token, ttl=ttl, renewable=bool(given.get("renewable")))


class VaultAuth(Protocol):
    """
    A way to log in, of which there may be more than are here.
    """

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Get a token and how long it lives, or raise `KeyAccessDeniedError`.
        """
        ...


class TokenAuth:
    """
    A token that somebody else got: for a terminal, or kept fresh in a file by an agent.

    A token by value cannot be got again: at its end calls are denied.  From a
    file it is read anew.

    Args:
        token: The token itself.

        file: Or the file that holds it.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_auth_invalid``, for both, neither, or what cannot be a token.
    """

    def __init__(
        self, token: str | None = None, *, file: str | os.PathLike[str] | None = None
    ) -> None:
        if (token is None) == (file is None):
            message = "TokenAuth takes a token or a file of one"
            raise ConfigurationError(message, code="vault_auth_invalid")
        self._token = None if token is None else _header_value(Hidden(token), "the token")
        self._file = file

    def __repr__(self) -> str:
        return "TokenAuth(<hidden>)"

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Look the token up, to know how long it lives.
        """
        token = self._token or _read(self._file, "the token")
        answer = transport.exchange("GET", "auth/token/lookup-self", token=token, accept=(403,))
        if answer.status == 403:  # noqa: PLR2004  it may use keys, and not look itself up
            return VaultLogin(token=token.value, ttl=0, renewable=False)
        ttl = float(answer.data.get("ttl") or 0)
        renewable = bool(answer.data.get("renewable"))
        return VaultLogin(token=token.value, ttl=ttl, renewable=renewable)


class AppRoleAuth:
    """
    AppRole: a role id, and a secret id that is best given wrapped.

    A wrapped one can be unwrapped once.  If somebody else did so, the login
    fails with code ``vault_wrapping_token_used``: then somebody else may have it.

    Args:
        role_id: The role's id.

        secret_id: The secret id, if the role asks for one.

        wrapped_secret_id: Or the token that it is wrapped in.

        secret_id_file: Or a file that holds it, read at each login.

        wrapped_file: Or a file that holds the wrapping token.

        role_name: The role that the wrapped id must be of.

        mount: Where the method is mounted.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_auth_invalid`` for several secret ids, or
            ``vault_name_invalid``.
    """

    def __init__(
        self,
        role_id: str,
        *,
        secret_id: str | None = None,
        wrapped_secret_id: str | None = None,
        secret_id_file: str | os.PathLike[str] | None = None,
        wrapped_file: str | os.PathLike[str] | None = None,
        role_name: str | None = None,
        mount: str = "approle",
    ) -> None:
        given = [secret_id, wrapped_secret_id, secret_id_file, wrapped_file]
        if sum(one is not None for one in given) > 1:
            message = "AppRoleAuth takes one secret id: as it is, wrapped, or in a file"
            raise ConfigurationError(message, code="vault_auth_invalid")
        self._role_id = Hidden(role_id)
        self._secret_id = None if secret_id is None else Hidden(secret_id)
        self._wrapped = (
            None
            if wrapped_secret_id is None
            else _header_value(Hidden(wrapped_secret_id), "the wrapping token")
        )
        self._secret_id_file = secret_id_file
        self._wrapped_file = wrapped_file
        self._role_name = role_name
        self._mount = valid_path(mount, "mount")
        self._lock = threading.Lock()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Begin anew in a child: the lock may be another thread's of the parent.
        """
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"AppRoleAuth(<hidden>, mount={self._mount!r})"

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Log in, after the secret id was unwrapped.
        """
        body = Hidden({"role_id": self._role_id.value})
        secret_id = self._current_secret_id(transport)
        if secret_id is not None:
            body.value["secret_id"] = secret_id.value
        return _logged_in(transport, f"auth/{self._mount}/login", body)

    def _current_secret_id(self, transport: VaultTransport) -> Hidden | None:
        if self._secret_id_file is not None:
            return _read(self._secret_id_file, "the secret id")
        with self._lock:
            if self._secret_id is None and (self._wrapped or self._wrapped_file):
                token = self._wrapped or _read(self._wrapped_file, "the wrapping token")
                self._secret_id = self._unwrapped(transport, token)
            return self._secret_id

    def _unwrapped(self, transport: VaultTransport, token: Hidden) -> Hidden:
        try:
            found = transport.exchange(
                "POST", "sys/wrapping/lookup", body=Hidden({"token": token.value})
            ).data
            self._check_origin(str(found.get("creation_path", "")))
            answer = transport.exchange("POST", "sys/wrapping/unwrap", token=token)
        except (VaultRequestRefusedError, KeyAccessDeniedError):
            message = "the wrapped secret id was unwrapped already, or has ended: who has it?"
            raise KeyAccessDeniedError(message, code="vault_wrapping_token_used") from None
        secret_id = answer.data.get("secret_id")
        if not isinstance(secret_id, str):
            message = "what was wrapped is no secret id"
            raise KeyAccessDeniedError(message, code="vault_wrapping_token_foreign")
        return Hidden(secret_id)

    def _check_origin(self, path: str) -> None:
        role, _, end = path.removeprefix(f"auth/{self._mount}/role/").rpartition("/")
        right = path.startswith(f"auth/{self._mount}/role/") and end == "secret-id"
        if not right or self._role_name not in {None, role}:
            message = "the wrapping token does not hold a secret id of this role"
            raise KeyServiceError(message, code="vault_wrapping_token_foreign")


class KubernetesAuth:
    """
    The service account of a pod; its projected token is read at each login.

    Args:
        role: Vault's role.

        file: Where the token is.

        mount: Where the method is mounted.
    """

    def __init__(
        self,
        role: str,
        *,
        file: str | os.PathLike[str] = _SERVICE_ACCOUNT,
        mount: str = "kubernetes",
    ) -> None:
        self._role = role
        self._file = file
        self._mount = valid_path(mount, "mount")

    def __repr__(self) -> str:
        return f"KubernetesAuth({self._role!r}, mount={self._mount!r})"

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Log in with the token as it is now.
        """
        token = _read(self._file, "the service account's token")
        body = Hidden({"role": self._role, "jwt": token.value})
        return _logged_in(transport, f"auth/{self._mount}/login", body)


class JwtAuth:
    """
    A JWT of an issuer that Vault trusts: of a CI system, a workload identity.

    Args:
        role: Vault's role.

        jwt: The JWT, or what gives a fresh one.

        file: Or the file that holds it, read at each login.

        mount: Where the method is mounted.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_auth_invalid`` for both or neither, or
            ``vault_name_invalid``.
    """

    def __init__(
        self,
        role: str,
        *,
        jwt: str | Callable[[], str] | None = None,
        file: str | os.PathLike[str] | None = None,
        mount: str = "jwt",
    ) -> None:
        if (jwt is None) == (file is None):
            message = "JwtAuth takes a JWT or a file of one"
            raise ConfigurationError(message, code="vault_auth_invalid")
        self._role = role
        self._jwt = Hidden(jwt)
        self._file = file
        self._mount = valid_path(mount, "mount")

    def __repr__(self) -> str:
        return f"JwtAuth({self._role!r}, mount={self._mount!r})"

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Log in with the JWT as it is now.
        """
        token = _read(self._file, "the JWT") if self._file is not None else self._current()
        body = Hidden({"role": self._role, "jwt": token.value})
        return _logged_in(transport, f"auth/{self._mount}/login", body)

    def _current(self) -> Hidden:
        given = self._jwt
        return _header_value(Hidden(given.value() if callable(given.value) else given.value), "JWT")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsCredentials:
    """
    Keys of an AWS identity; they are not shown.

    Args:
        access_key: The access key's id.

        secret_key: The secret access key.

        session_token: The session's token, for temporary ones.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class AwsIamAuth:
    """
    An IAM identity: Vault is given a signed question to AWS, "who am I", and asks it.

    The secret key stays here.

    Args:
        role: Vault's role.

        credentials: What gives current credentials; otherwise boto3's default
            chain does, which needs the extra ``aws``.

        server_id: The value of ``X-Vault-AWS-IAM-Server-ID`` that the method is
            set up to ask for, so that a request signed for one Vault cannot be
            replayed to another.

        region: The region of the signature.

        mount: Where the method is mounted.
    """

    def __init__(
        self,
        role: str,
        *,
        credentials: Callable[[], AwsCredentials] | None = None,
        server_id: str | None = None,
        region: str = "us-east-1",
        mount: str = "aws",
    ) -> None:
        self._role = role
        self._credentials = credentials or _default_credentials
        self._server_id = server_id
        self._region = region
        self._mount = valid_path(mount, "mount")

    def __repr__(self) -> str:
        return f"AwsIamAuth({self._role!r}, mount={self._mount!r})"

    def login(self, transport: VaultTransport, /) -> VaultLogin:
        """
        Sign the question anew and log in with it.
        """
        body = self._signed()
        body.value["role"] = self._role
        return _logged_in(transport, f"auth/{self._mount}/login", body)

    def _signed(self) -> Hidden:
        from ._aws_signature import signed_identity_question

        return signed_identity_question(
            self._credentials(), region=self._region, server_id=self._server_id
        )


def _default_credentials() -> AwsCredentials:
    from ..._extras import missing_extra

    try:
        import botocore.session
    except ImportError as error:
        raise missing_extra("aws", error) from error
    found = botocore.session.get_session().get_credentials()
    if found is None:
        message = "the default chain of AWS has no credentials"
        raise KeyAccessDeniedError(message, code="vault_login_refused")
    frozen = found.get_frozen_credentials()
    return AwsCredentials(
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        session_token=frozen.token,
    )


def _logged_in(transport: VaultTransport, path: str, body: Hidden) -> VaultLogin:
    try:
        return VaultLogin.of(transport.exchange("POST", path, body=body))
    except (VaultRequestRefusedError, KeyAccessDeniedError):
        message = f"Vault refuses the login at {path}"
        raise KeyAccessDeniedError(message, code="vault_login_refused") from None


def _read(file: str | os.PathLike[str] | None, what: str) -> Hidden:
    if file is None:
        message = f"{what} was not given"
        raise ConfigurationError(message, code="vault_auth_invalid")
    fault, content = "", Hidden(b"")
    try:
        with Path(file).open("rb") as opened:
            content = Hidden(opened.read(_LARGEST_FILE))
        content = Hidden(content.value.decode("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        fault = type(error).__name__
    if fault:
        # Outside of `except`: the error of a decoder holds what it was to decode.
        message = f"{what} cannot be read from {os.fspath(file)!r} ({fault})"
        raise KeyAccessDeniedError(message, code="vault_login_refused")
    return _header_value(content, what)


def _header_value(given: Hidden, what: str) -> Hidden:
    text = Hidden(str(given.value).strip())
    if not re.fullmatch(r"[!-~]{1,65536}", text.value):
        message = f"{what} is empty or is no token"
        raise KeyAccessDeniedError(message, code="vault_login_refused")
    return text
