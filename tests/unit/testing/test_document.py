"""
Steps that are made from what an app says of itself.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.boxes import OPERATIONS, Boxes, authorize
from twh_platform.errors import ConfigurationError
from twh_platform.testing import WalkStep, tenant_pair, walk
from twh_platform.testing._document import documented_steps, routed_operations


def document(schema: dict[str, Any], *, method: str = "post", **operation: Any) -> dict[str, Any]:
    """
    An OpenAPI document with one operation.
    """
    content = {"application/json": {"schema": schema, **operation.pop("media", {})}}
    described = {"requestBody": {"content": content}, **operation}
    return {"paths": {"/things": {method: described}}, "components": {"schemas": SCHEMAS}}


SCHEMAS = {
    "Part": {
        "type": "object",
        "required": ["item_id", "quantity"],
        "properties": {
            "item_id": {"type": "string", "format": "uuid"},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 9},
        },
    },
    "Kind": {"enum": ["small", "large"]},
    "Endless": {
        "properties": {"next": {"$ref": "#/components/schemas/Endless"}},
        "required": ["next"],
    },
}

PART = {"$ref": "#/components/schemas/Part"}


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        (PART, {"item_id": "{item_id}", "quantity": 1}),
        ({"type": "array", "items": PART, "minItems": 1},
         [{"item_id": "{item_id}", "quantity": 1}]),
        ({"allOf": [PART, {"properties": {"a": {"const": 3}}, "required": ["a"]}]},
         {"item_id": "{item_id}", "quantity": 1, "a": 3}),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/components/schemas/Kind"}]}, "small"),
        ({"type": ["string", "null"]}, "{mark}"),
        ({"type": "string", "minLength": 12}, "{mark}xx"),
        ({"type": "string", "maxLength": 3}, "x"),
        ({"type": "string", "maxLength": 3, "example": "EUR"}, "EUR"),
        ({"type": "string", "pattern": "^[^@]+@[^@]+$"}, "{mark}@twh.example"),
        ({"type": "string", "pattern": "(?<broken", "examples": ["as shown"]}, "as shown"),
        ({"type": "string", "format": "date"}, "2030-01-01"),
        ({"type": "number", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": 0}, 0),
        ({"type": "boolean"}, False),
    ],
)  # fmt: skip
def test_a_body_is_made_from_its_schema(schema, made):
    """Ids and texts become places, numbers keep within their bounds, examples count."""
    [step] = documented_steps(document(schema))["POST /things"]

    assert step.json == made


def test_a_schema_that_contains_itself_ends():
    """A circle of references is left after some rounds."""
    [step] = documented_steps(document({"$ref": "#/components/schemas/Endless"}))["POST /things"]

    assert "next" in step.json["next"]


def test_a_reference_out_of_the_document_is_refused():
    """Nothing is fetched."""
    with pytest.raises(ConfigurationError, match="leads out"):
        documented_steps(document({"$ref": "https://example/schema.json"}))


def test_an_example_is_tried_as_it_stands():
    """Beside the body with marks comes the one that the author wrote, without its ids."""
    media = {"example": {"item_id": "0190c1de", "quantity": 5, "name": "Bolt"}}
    steps = documented_steps(document(PART, media=media))["POST /things"]

    assert [step.json for step in steps] == [
        {"item_id": "{item_id}", "quantity": 5},
        {"item_id": "{item_id}", "quantity": 5, "name": "Bolt"},
    ]


def test_what_may_be_left_out_is_tried_alone():
    """Each optional id, in the body and in the query, has a step of its own."""
    parameters = [
        {"in": "query", "name": "itemId", "schema": {"type": "string"}},
        {"in": "query", "name": "view", "required": True, "schema": {"enum": ["all"]}},
        {"in": "header", "name": "If-Match", "required": True, "schema": {}},
        {"in": "header", "name": "Idempotency-Key", "schema": {}},
        {"in": "header", "name": "X-Optional", "schema": {}},
    ]
    optional = {"properties": {"parent_id": {"type": "integer"}, "note": {"type": "string"}}}
    steps = documented_steps(document(optional, parameters=parameters))["POST /things"]

    assert [(step.json, step.query) for step in steps] == [
        ({}, {"view": "all"}),
        ({"parent_id": "{parent_id}"}, {"view": "all"}),
        ({}, {"view": "all", "itemId": "{item_id}"}),
        ({"parent_id": "{parent_id}"}, {"view": "all", "itemId": "{item_id}"}),
    ]
    assert steps[0].headers == {"if-match": "*", "idempotency-key": "{mark}"}


def test_a_change_gives_every_member():
    """All members of a PATCH are optional, and an empty one changes nothing."""
    schema = {"properties": {"name": {"type": "string"}, "id": {"readOnly": True}}}
    [step] = documented_steps(document(schema, method="patch"))["PATCH /things"]

    assert step.json == {"name": "{mark}"}


def test_a_form_is_sent_as_one():
    """Forms are filled like JSON; a body of another kind has no step."""
    schema = {"properties": {"name": {"type": "string"}}, "required": ["name"]}
    kinds = {"/f": "application/x-www-form-urlencoded", "/g": "image/png"}
    paths = {
        path: {"post": {"requestBody": {"content": {kind: {"schema": schema}}}}}
        for path, kind in kinds.items()
    }
    steps = documented_steps({"paths": paths})

    request = steps["POST /f"][0].fill(lambda _slot: "a b")
    assert request.body == b"name=a+b"
    assert steps["POST /g"] == []


def test_a_route_table_is_read():
    """Mounted tables are followed, converters left out, and nothing is dropped in silence."""
    item = SimpleNamespace(path="/items/{id:uuid}", methods={"GET", "HEAD", "PATCH"})
    table = [
        SimpleNamespace(path="/v1", routes=[item]),
        SimpleNamespace(path="/ws"),
        "DELETE /items/{id:int}",
    ]

    assert list(routed_operations(table)) == [
        "GET /v1/items/{id}",
        "PATCH /v1/items/{id}",
        "SIMPLENAMESPACE /ws",
        "DELETE /items/{id}",
    ]


def described() -> dict[str, Any]:
    """
    The OpenAPI document of the boxes.
    """
    named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    note = {"properties": {"box_id": {"type": "string"}, "text": {"type": "string"}}}
    bodies = {
        "POST /boxes": named,
        "PATCH /boxes/{id}": named,
        "POST /notes": {**note, "required": ["box_id", "text"]},
    }
    paths: dict[str, Any] = {}
    for name in OPERATIONS:
        method, _, path = name.partition(" ")
        body = {"content": {"application/json": {"schema": bodies.get(name)}}}
        paths.setdefault(path, {})[method.lower()] = {"requestBody": body} if name in bodies else {}
    return {"openapi": "3.1.0", "paths": paths}


@pytest.mark.parametrize("fault", ["", "list with rows of all tenants", "403 in place of 404"])
async def test_a_document_is_enough_to_walk(fault):
    """Without any step the walk makes its requests from the document."""
    report = await walk(
        Boxes([fault] if fault else []),
        tenants=tenant_pair(),
        authorize=authorize,
        document=described(),
        exceptions={"GET /health": "the same for everyone"},
    )

    assert report.gaps == []
    assert bool(report.findings) is bool(fault)


def test_a_step_names_an_operation():
    """A step that is no method and path is a mistake."""
    with pytest.raises(ConfigurationError, match="GET /items"):
        WalkStep("/items")
