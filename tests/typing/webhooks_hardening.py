"""
Hardening endpoints, as a user writes it: checked, never run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware

from twh_platform.webhooks import (
    BodyLimitMiddleware,
    SecurityHeaders,
    SecurityHeadersMiddleware,
    parse_json,
)

pages = replace(SecurityHeaders(), content_security_policy="default-src 'self'")
assert_type(pages, SecurityHeaders)
assert_type(pages.pairs(https=True), list[tuple[bytes, bytes]])

app = Starlette(middleware=[Middleware(BodyLimitMiddleware, limit=1024, paths={"/big/*": 4096})])
app.add_middleware(SecurityHeadersMiddleware, headers=pages, https=True)
outside = SecurityHeadersMiddleware(BodyLimitMiddleware(app), paths={"/docs/*": pages})

assert_type(parse_json(b"{}"), Any)
parse_json(memoryview(b"{}"))
parse_json("{}")  # type: ignore[arg-type]
BodyLimitMiddleware(app, paths={"/big": "1"})  # type: ignore[dict-item]
SecurityHeaders("nosniff")  # type: ignore[call-arg]
