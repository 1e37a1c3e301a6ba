"""
How long a body may be and says that it is, and what is answered if it is not.
"""

from __future__ import annotations

from typing import Final

from .._asgi import Problem, Scope
from ..errors import PlatformError, WebhookError

__all__ = [
    "LENGTH_CODES",
    "announced",
    "length_invalid",
    "length_problem",
    "too_large",
]

LENGTH_CODES: Final = frozenset({"body_too_large", "content_length_invalid"})
"""The codes of the errors that `length_problem` answers."""

_MOST_DIGITS: Final = 18


def announced(scope: Scope) -> tuple[int | None, bool]:
    """
    What the headers of a request say about its body.

    Returns:
        Its `Content-Length`, None if there is none (RFC 9110, section 8.6), and
        whether the client waits for leave to send it (section 10.1.1).

    Raises:
        twh_platform.errors.WebhookError: With code ``content_length_invalid``,
            if the length is no number, if there are several, or if it stands beside
            a `Transfer-Encoding`, which is what tells two requests from one to some
            and not to others (RFC 9112, section 6.1).
    """
    lengths, encoded, waits = [], False, False
    # Flat, and once over all of them: what is cold costs several times what it does in a loop.
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            encoded = True
        elif lower == b"expect":
            waits = True
    if not lengths:
        return None, waits
    if encoded:
        raise length_invalid("Content-Length stands beside Transfer-Encoding")
    # isdigit of bytes knows ASCII only; more digits than these are beyond any limit.
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise length_invalid("Content-Length is no number")
    return int(lengths[0].lstrip(b"0")[: _MOST_DIGITS + 1] or b"0"), waits


def too_large(limit: int) -> WebhookError:
    """
    The error of a body of more than *limit* bytes.
    """
    return WebhookError(f"the body has more than {limit} bytes", code="body_too_large")


def length_invalid(
    what: str = "the body has another length than Content-Length says",
) -> WebhookError:
    """
    The error of a `Content-Length` that is none, or is not the body's.
    """
    return WebhookError(what, code="content_length_invalid")


def length_problem(error: PlatformError, scope: Scope, limit: int) -> Problem:
    """
    The answer to one of these errors: 413 or 400, and over HTTP/1 the connection's end.
    """
    if error.code == "body_too_large":
        return Problem(
            status=413,
            code="body_too_large",
            title="The body is too large",
            headers=_closing(scope),
            extensions={"limit_bytes": limit},
        )
    return Problem(
        status=400,
        code="content_length_invalid",
        title="The length of the body is not what was said",
        headers=_closing(scope),
    )


def _closing(scope: Scope) -> dict[str, str]:
    # What is left of the body is not read (RFC 9110, section 15.5.14).  In HTTP/2 the
    # stream ends alone, and this field is not allowed (RFC 9113, section 8.2.2).
    return {"connection": "close"} if scope.get("http_version", "").startswith("1") else {}
