"""
A small service in one file that can be told to leak, for the tests of the walk.

A tenant keeps boxes and puts notes on them.  Nothing beyond the standard library.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from twh_platform.testing import AppRequest

FAULTS = (
    "id in a body",
    "id in a header",
    "redirect to another tenant's file",
    "name in an error message",
    "403 in place of 404",
    "another tenant's write succeeds",
    "list with rows of all tenants",
    "cursor of another tenant's row",
    "cache without the tenant",
    "names unique across tenants",
    "note on another tenant's box",
    "answer by key without the tenant",
    "more work for another tenant's box",
    "total with rows of all tenants",
)

OPERATIONS = {
    "GET /boxes": "list_boxes",
    "POST /boxes": "create_box",
    "GET /boxes/{id}": "get_box",
    "PATCH /boxes/{id}": "change_box",
    "DELETE /boxes/{id}": "delete_box",
    "GET /boxes/{id}/file": "get_file",
    "GET /notes": "list_notes",
    "POST /notes": "create_note",
    "GET /health": "health",
}


class Refused(Exception):  # noqa: N818 -- it is an answer
    """
    Ends a request with a status and a word.
    """


@dataclass
class Boxes:
    """
    The service; `authorize` says how a tenant is put into a request.

    Args:
        faults: Those of `FAULTS` that it has.
    """

    faults: Collection[str] = ()
    new_id: Callable[[], Any] = lambda: str(uuid.uuid4())
    boxes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)
    work: int = 0

    async def __call__(self, scope, receive, send) -> None:
        """
        Serve one request.
        """
        headers = dict(scope["headers"])
        body = (await receive())["body"]
        self.tenant = headers.get(b"x-tenant", b"").decode()
        self.key = headers.get(b"idempotency-key", b"").decode()
        self.query = dict(re.findall(r"(\w+)=([^&]*)", scope["query_string"].decode()))
        try:
            status, answer, more = self.answer(scope, json.loads(body or b"null"))
        except Refused as refused:
            status, answer, more = refused.args[0], {"error": refused.args[1]}, {}
        content = [(b"content-type", b"application/json"), *more.items()]
        await send({"type": "http.response.start", "status": status, "headers": content})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def answer(self, scope: dict[str, Any], body: Any) -> tuple[int, Any, dict[bytes, bytes]]:
        """
        Find the operation and carry it out.
        """
        for name, handler in OPERATIONS.items():
            method, _, path = name.partition(" ")
            match = re.fullmatch(path.replace("{id}", "([^/]+)"), scope["path"])
            if match and scope["method"] == method:
                if not self.tenant and handler != "health":
                    raise Refused(401, "who are you")
                answer = getattr(self, handler)(*match.groups(), *([] if body is None else [body]))
                return answer if len(answer) == 3 else (*answer, {})
        raise Refused(404, "nothing here")

    def has(self, fault: str) -> bool:
        """
        Whether it was told to have this fault.
        """
        assert fault in FAULTS
        return fault in self.faults

    def of_tenant(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        The rows that the tenant may see.
        """
        return [row for row in rows if row["tenant"] == self.tenant]

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """
        A row as clients see it.
        """
        return {name: value for name, value in row.items() if name != "tenant"}

    def find(self, identity: str, *, writing: bool = False) -> dict[str, Any]:
        """
        The box with this id, or a refusal.
        """
        self.work += 1
        found = next((row for row in self.boxes if str(row["id"]) == str(identity)), None)
        if found is None or found["tenant"] == self.tenant:
            if found is None:
                raise Refused(404, "nothing here")
            return found
        if writing and self.has("another tenant's write succeeds"):
            return found
        if self.has("403 in place of 404"):
            raise Refused(403, "not yours")
        if self.has("name in an error message"):
            raise Refused(404, f"nothing here called {found['name']}")
        self.work += self.has("more work for another tenant's box")
        raise Refused(404, "nothing here")

    def list_boxes(self):
        """
        The boxes, one page of them.
        """
        all_rows = self.has("list with rows of all tenants")
        rows = self.boxes if all_rows else self.of_tenant(self.boxes)
        others = [row for row in self.boxes if row["tenant"] != self.tenant]
        after = others[-1] if others and self.has("cursor of another tenant's row") else rows[-1]
        cursor = base64.urlsafe_b64encode(json.dumps([after["id"]]).encode()).decode()
        answer = {"data": [self.shown(row) for row in rows], "next_cursor": cursor}
        if self.has("id in a body") and others:
            answer["newest"] = others[-1]["id"]
        if self.has("cache without the tenant"):
            answer = self.cache.setdefault("/boxes", answer)
        last = {b"x-last": str(others[-1]["id"]).encode()} if others else {}
        return 200, answer, last if self.has("id in a header") else {}

    def create_box(self, body):
        """
        Add a box; its name is unique.
        """
        if self.has("answer by key without the tenant") and self.key and self.key in self.cache:
            return self.cache[self.key]
        every = self.has("names unique across tenants")
        rows = self.boxes if every else self.of_tenant(self.boxes)
        if any(row["name"] == body["name"] for row in rows):
            raise Refused(409, "there is one already")
        row = {"id": self.new_id(), "tenant": self.tenant, "name": body["name"]}
        self.boxes.append(row)
        self.cache[self.key] = (201, self.shown(row))
        return 201, self.shown(row)

    def get_box(self, identity):
        """
        Show a box.
        """
        return 200, self.shown(self.find(identity))

    def change_box(self, identity, body):
        """
        Give a box another name.
        """
        row = self.find(identity, writing=True)
        row.update(body)
        return 200, self.shown(row)

    def delete_box(self, identity):
        """
        Throw a box away.
        """
        row = self.find(identity, writing=True)
        self.boxes.remove(row)
        return 200, {}

    def get_file(self, identity):
        """
        Redirect to a file that is named after the box.
        """
        open_ = self.has("redirect to another tenant's file")
        rows = self.boxes if open_ else self.of_tenant(self.boxes)
        row = next((row for row in rows if str(row["id"]) == identity), None)
        if row is None:
            raise Refused(404, "nothing here")
        return 302, {}, {b"location": f"https://files.example/{row['name']}".encode()}

    def list_notes(self):
        """
        The notes, with the names of their boxes.
        """
        every = self.has("total with rows of all tenants")
        chosen = self.query.get("box_id", "")
        counted = [
            row
            for row in (self.notes if every else self.of_tenant(self.notes))
            if chosen in {"", str(row["box_id"])}
        ]
        names = {row["id"]: row["name"] for row in self.boxes}
        notes = [
            {**self.shown(row), "box": names.get(row["box_id"])}
            for row in self.of_tenant(self.notes)
            if row in counted
        ]
        return 200, {"data": notes, "total": len(counted)}

    def create_note(self, body):
        """
        Put a note on a box.
        """
        boxes = (
            self.boxes if self.has("note on another tenant's box") else self.of_tenant(self.boxes)
        )
        if body["box_id"] not in [row["id"] for row in boxes]:
            raise Refused(422, "no such box")
        self.notes.append({"id": self.new_id(), "tenant": self.tenant, **body})
        return 201, self.shown(self.notes[-1])

    def health(self):
        """
        Say that all is well.
        """
        return 200, {"status": "ok"}


def authorize(request: AppRequest, tenant: Any) -> AppRequest:
    """
    Put the tenant into the request, as this service takes it.
    """
    return request.with_header("x-tenant", tenant.id)
