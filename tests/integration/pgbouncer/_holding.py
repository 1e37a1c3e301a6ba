"""
Moving a client to another server session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.integration.pgbouncer.conftest import House


@contextmanager
def holding(house: House, process: int) -> Iterator[None]:
    """
    Keep a server session busy, so that whoever had it has to go to another.
    """
    held: dict[int, psycopg.Connection] = {}
    while process not in held:
        client = psycopg.connect(house.dsn, prepare_threshold=None)
        held[client.execute("SELECT pg_backend_pid()").fetchall()[0][0]] = client
    holder = held.pop(process)
    for client in held.values():
        client.close()
    with holder:
        yield
