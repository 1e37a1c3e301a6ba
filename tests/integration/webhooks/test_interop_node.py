"""
A receiver in Node with the `standardwebhooks` package of npm, over HTTP, both ways (gate G1).
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twh_platform.errors import WebhookError
from twh_platform.testing import require_part
from twh_platform.webhooks import Key, Keyring, KeyState, StandardSecret, sign, verify

FOLDER = Path(__file__).with_name("node")
VECTORS = Path(__file__).parents[2] / "vectors" / "webhooks.json"
# The package reads a body as text, so here it is UTF-8, without the mark that Node drops.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=300)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)

random_inputs = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def installed(folder):
    """The folder with the package in it; None if npm cannot bring it."""
    shutil.copy(FOLDER / "package.json", folder)
    options = ("no-package-lock", "no-audit", "no-fund", "ignore-scripts", "fetch-retries=0")
    command = ["npm", "install", *(f"--{one}" for one in options)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return folder if done.returncode == 0 else None


class Node:
    """The receiver, which is told the secret with each request."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path, body, headers):
        """Its status and its text."""
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read().decode()

    def verify(self, request, secret):
        """The status for a webhook that is sent as it is."""
        headers = {**request.headers, "x-secret": secret.reveal()}
        return self.post("/verify", request.body, headers)[0]

    def sign(self, body, event, seconds, secret):
        """Its signature."""
        headers = {"x-id": event, "x-timestamp": str(seconds), "x-secret": secret.reveal()}
        status, text = self.post("/sign", body, headers)
        assert status == 200, text
        return text

    def close(self):
        """Close the connection."""
        self._connection.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """The receiver, on a port of its own."""
    programs = shutil.which("node") and shutil.which("npm")
    require_part("node", programs, hint="install Node.js 20 with npm")
    folder = installed(tmp_path_factory.mktemp("node"))
    require_part(
        "node", folder, hint="npm could not install standardwebhooks: is there a registry?"
    )
    command = ["node", str(FOLDER / "receiver.js"), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        port = int(process.stdout.readline())
        receiver = Node(port)
        yield receiver
        receiver.close()
        process.stdin.close()
        process.wait(30)


@random_inputs
@given(text=TEXTS, event=IDS)
def test_node_verifies_ours(node, text, event):
    """What we sign it verifies; another body it refuses."""
    secret = StandardSecret.generate()

    request = sign(text.encode(), secret, event_id=event)
    other = replace(request, body=request.body + b" ")

    assert node.verify(request, secret) == 204
    assert node.verify(other, secret) == 401


@random_inputs
@given(text=TEXTS, event=IDS)
def test_we_verify_node(node, text, event):
    """What it signs we verify; another body we refuse."""
    secret, now = StandardSecret.generate(), int(time.time())

    signature = node.sign(text.encode(), event, now, secret)

    headers = {"webhook-id": event, "webhook-timestamp": str(now), "webhook-signature": signature}
    assert verify(text.encode(), headers, secret)[:2] == (event, now)
    with pytest.raises(WebhookError) as refused:
        verify(text.encode() + b" ", headers, secret)
    assert refused.value.code == "signature_mismatch"


def test_node_with_either_key_of_two(node):
    """While we sign with two, who knows one of them verifies."""
    old, new = StandardSecret.generate(), StandardSecret.generate()
    keys = Keyring([Key(secret=new), Key(secret=old, state=KeyState.RETIRING)])

    request = sign(b"{}", keys)

    assert [node.verify(request, one) for one in (old, new)] == [204, 204]


def test_node_refuses_what_is_old(node):
    """The control: it looks at the time, and at it only when it is to be signed."""
    secret = StandardSecret.generate()

    assert node.verify(sign(b"{}", secret, timestamp=int(time.time()) - 600), secret) == 401


def test_bytes_that_are_no_text(node):
    """The control for what is left out above: the package refuses them, and we do not."""
    secret = StandardSecret.generate()

    request = sign(b"\xff\xfe", secret)

    assert verify(request.body, request.headers, secret)
    assert node.verify(request, secret) == 401


def run_in_node(file):
    """What the verifier that is written in JavaScript says about a file of vectors."""
    program = require_part("node", shutil.which("node"), hint="install Node.js 20")
    command = [program, str(FOLDER / "vectors.js"), str(file)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_another_language_runs_the_vectors():
    """A verifier that was written from the reference page alone agrees with every vector."""
    vectors = json.loads(VECTORS.read_text())["vectors"]

    assert run_in_node(VECTORS) == {"run": len(vectors), "failed": []}


def test_a_wrong_vector_is_found(tmp_path):
    """The control: another body, another fact or another outcome shows."""
    vectors = json.loads(VECTORS.read_text())["vectors"]
    valid = [one for one in vectors if one["result"] == "valid"][:2]
    refused = next(one for one in vectors if one["result"] == "invalid")
    valid[0]["body"] = "e30="
    valid[1]["verified"]["key_id"] = "another"
    refused |= {"result": "valid", "verified": {}}
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({"vectors": [*valid, refused]}))

    assert run_in_node(file)["failed"] == [one["id"] for one in (*valid, refused)]
