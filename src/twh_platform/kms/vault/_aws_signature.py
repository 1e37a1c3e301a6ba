"""
The signed question "who am I" that Vault puts to AWS in our place.

AWS Signature Version 4 over one fixed request to STS, as the documentation of
Vault's AWS auth method asks for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Protocol

from ._transport import Hidden

__all__ = ["signed_identity_question"]

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"
_URL = "https://sts.amazonaws.com/"
_HOST = "sts.amazonaws.com"
_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVER_ID = "X-Vault-AWS-IAM-Server-ID"


class _Credentials(Protocol):
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def session_token(self) -> str | None: ...


def signed_identity_question(
    credentials: _Credentials,
    *,
    region: str,
    server_id: str | None = None,
    now: datetime | None = None,
) -> Hidden:
    """
    The four fields of a login: method, URL, body and headers of the request to STS.

    hvac signs too, with a call that newer Python versions warn of, and always
    for the endpoint without a region; so does this, with a region of choice.
    """
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    host = _HOST if region == "us-east-1" else f"sts.{region}.amazonaws.com"
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        "Host": host,
        "X-Amz-Date": moment,
    }
    if credentials.session_token:
        headers["X-Amz-Security-Token"] = credentials.session_token
    if server_id:
        headers[_SERVER_ID] = server_id
    headers["Authorization"] = _authorization(credentials, headers, region, moment)
    return Hidden(
        {
            "iam_http_request_method": "POST",
            "iam_request_url": _base64(_URL.replace(_HOST, host)),
            "iam_request_body": _base64(_BODY),
            "iam_request_headers": _base64(json.dumps(headers)),
        }
    )


def _authorization(
    credentials: _Credentials, headers: dict[str, str], region: str, moment: str
) -> str:
    names = sorted(headers, key=str.lower)
    signed = ";".join(name.lower() for name in names)
    lines = "".join(f"{name.lower()}:{headers[name].strip()}\n" for name in names)
    request = "\n".join(["POST", "/", "", lines, signed, _digest(_BODY)])
    scope = f"{moment[:8]}/{region}/sts/aws4_request"
    to_sign = "\n".join([_ALGORITHM, moment, scope, _digest(request)])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, to_sign).hex()
    return (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope},"
        f" SignedHeaders={signed}, Signature={signature}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
