"""
Run the examples of the documents and of the docstrings.

A document's Python blocks share one namespace, top to bottom.  One that reads
`DATABASE_URL` from the environment gets an empty PostgreSQL database of its own,
and one that reads `REDIS_URL` a Redis.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from doctest import ELLIPSIS

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.myst import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

from twh_platform.testing import PostgresServer

pytest_plugins = [
    "tests.support.attacks",
    "tests.support.bare_session",
    "tests.support.otlp",
    "tests.support.redis",
]

_markdown = [PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)]

_readme = Sybil(parsers=_markdown, filenames=["README.md"], fixtures=["document_database"])

_documents = Sybil(
    path="docs",
    parsers=_markdown,
    patterns=["*.md"],
    fixtures=["document_database", "document_redis"],
)

_docstrings = Sybil(
    path="src",
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["*.py"],
    document_types={".py": PythonDocStringDocument},
    fixtures=["docstring_redis"],
)

pytest_collect_file = SybilCollection([_readme, _documents, _docstrings]).pytest()


@pytest.fixture(scope="module")
def document_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Put the addresses of a fresh database into the environment of one document.

    `DATABASE_URL` is the application's role, `OWNER_DATABASE_URL` the role that
    owns the database, `ADMIN_DATABASE_URL` the superuser.
    """
    if "DATABASE_URL" not in request.path.read_text():
        yield
        return
    server: PostgresServer = request.getfixturevalue("twh_postgres")
    owner = server.create_role("twh_docs_owner")
    app = server.create_role("twh_docs_app")
    database = server.create_database(f"docs_{secrets.token_hex(6)}", owner=owner)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", database.dsn(user=app))
        environment.setenv("OWNER_DATABASE_URL", database.dsn(user=owner))
        environment.setenv("ADMIN_DATABASE_URL", database.dsn())
        environment.setenv("SIGNING_KEY", "a key of the documents, thirty-two bytes or more")
        yield
    database.drop()
