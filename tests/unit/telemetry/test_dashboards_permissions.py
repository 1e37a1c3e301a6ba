"""
Rights of folders in Grafana, set over HTTP.

Against a stand-in for Grafana's HTTP API, written from its documentation: no
Grafana was asked.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from twh_platform._hidden import HiddenBytes
from twh_platform.cli import main
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.telemetry.dashboards._folder_access import parse_grant
from twh_platform.telemetry.dashboards._grafana_api import GrafanaApi

TOKEN = "glsa_keepthistoyourself"
VIEWERS = {"role": "Viewer", "permission": 1}
OF_ADMINISTRATORS = {"role": "Admin", "permission": 4}


class StandIn(ThreadingHTTPServer):
    """What Grafana is told, and what it answers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folders = {"twh-platform": [], "twh-business": [VIEWERS]}
        self.teams = {"Support": 7}
        self.written = []
        self.deaf = self.redirect = self.drips = False
        self.says = None
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    """Grafana's paths, as far as they are used."""

    def do_GET(self):
        """Folders, their rights, teams and users."""
        self.handled(self.read)

    def do_POST(self):
        """New folders, and rights."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.handled(lambda path, _: self.write(path, body))

    def handled(self, answer):
        """Answer whoever has the token."""
        server, url = self.server, urllib.parse.urlsplit(self.path)
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"message": "Invalid API key"})
        elif server.redirect:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{server.server_port}/")
            self.end_headers()
        elif server.drips:
            self.drip()
        elif server.status != 200:
            self.answer(server.status, {"message": TOKEN})
        elif server.says is not None:
            self.answer(200, server.says)
        else:
            found = answer(url.path, dict(urllib.parse.parse_qsl(url.query)))
            self.answer(404 if found is None else 200, found)

    def read(self, path, query):
        """What is there."""
        match path.split("/")[2:]:
            case ["teams", "search"]:
                teams = self.server.teams.items()
                return {"teams": [{"id": one, "name": name} for name, one in teams]}
            case ["users", "lookup"]:
                return {"id": 3} if query["loginOrEmail"] == "ada@example.com" else None
            case ["folders", uid]:
                return {"uid": uid} if uid in self.server.folders else None
            case ["folders", uid, "permissions"]:
                items = self.server.folders[uid]
                return [OF_ADMINISTRATORS, *(one | {"permissionName": "x"} for one in items)]

    def write(self, path, body):
        """Change it."""
        self.server.written.append((path, body))
        if path == "/api/folders":
            self.server.folders[body["uid"]] = [VIEWERS, {"role": "Editor", "permission": 2}]
        elif not self.server.deaf:
            self.server.folders[path.split("/")[3]] = body["items"]
        return {"message": "done"}

    def answer(self, status, value):
        """Send JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self):
        """A byte at a time, each sooner than a socket's timeout, until nobody reads."""
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            try:
                self.wfile.write(b" ")
            except OSError:
                return
            time.sleep(0.1)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def grafana():
    """The stand-in, while a test runs."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(grafana, tmp_path, capsys):
    """The command, with its status and what it says; the token is never among that."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def call(*arguments, url=None):
        where = ["--url", url or grafana.url, "--token-file", str(tmp_path / "token")]
        status = main(["dashboards", "permissions", *where, *arguments])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return status, out + err

    return call


def test_folders_get_the_usual_rights(run, grafana):
    """Viewers see two folders; the one that names tenants is made, for administrators only."""
    status, said = run()

    assert status == 0
    assert grafana.folders == {
        "twh-platform": [VIEWERS],
        "twh-business": [VIEWERS],
        "twh-tenants": [],
    }
    assert said.splitlines() == [
        "twh-platform: has other rights; set",
        "twh-tenants: is not there; set",
    ]


def test_a_second_time_changes_nothing(run, grafana):
    """What is as it should be is left alone."""
    run()
    before = len(grafana.written)

    assert run() == (0, "all folders have these rights\n")
    assert len(grafana.written) == before


def test_teams_and_users_are_allowed_by_name(run, grafana):
    """A team and a user are looked up, and see what they may."""
    allow = ["twh-tenants=team:Support:view", "twh-tenants=user:ada@example.com:edit"]

    assert run(*(word for one in allow for word in ("--allow", one)))[0] == 0

    assert grafana.folders["twh-tenants"] == [
        {"teamId": 7, "permission": 1},
        {"userId": 3, "permission": 2},
    ]


def test_only_means_only(run, grafana):
    """Without the usual rights there are those that were asked for."""
    run("--only", "--allow", "twh-business=role:editor:view")

    assert grafana.folders["twh-platform"] == []
    assert grafana.folders["twh-business"] == [{"role": "Editor", "permission": 1}]


def test_check_changes_nothing(run, grafana):
    """A difference is a status of 1, and nothing is written."""
    status, said = run("--check")

    assert status == 1
    assert said.splitlines()[0] == "twh-platform: has other rights"
    assert grafana.written == []


def test_whom_nobody_knows_changes_nothing(run, grafana):
    """A name that is not there is found before anything is written."""
    for whom in ("team:Supports", "user:eve@example.com"):
        status, said = run("--allow", f"twh-tenants={whom}:view")

        assert (status, grafana.written) == (2, [])
        assert "Grafana knows no" in said


def test_rights_that_are_not_kept_are_told(run, grafana):
    """What was set is read again."""
    grafana.deaf = True

    assert run()[0] == 2


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_tells_its_status(run, grafana, status):
    """And not what Grafana wrote, for anything may be in that."""
    grafana.status = status

    code, said = run()

    assert code == 2
    assert said.endswith(f": GET /api/folders/twh-platform: Grafana answered {status}\n")


def test_a_redirect_is_not_followed(run, grafana):
    """The token goes to the address that was given, and to no other."""
    grafana.redirect = True

    status, said = run()

    assert status == 2
    assert "Grafana answered 302" in said


def test_nobody_answers(grafana):
    """A closed port is an error with a code of its own."""
    api = GrafanaApi("http://127.0.0.1:9", HiddenBytes(TOKEN.encode()), seconds=2)

    with pytest.raises(BackendUnavailableError) as refused:
        api.get("/api/folders/x")

    assert refused.value.code == "grafana_unavailable"
    assert TOKEN not in repr(vars(api))


def test_who_drips_is_not_waited_for(grafana):
    """The time is for the whole answer; a socket's would begin anew with each byte."""
    grafana.drips = True
    api = GrafanaApi(grafana.url, HiddenBytes(TOKEN.encode()), seconds=0.5)
    began = time.monotonic()

    with pytest.raises(BackendUnavailableError) as refused:
        api.get("/api/folders/x")

    assert refused.value.code == "grafana_unavailable"
    assert time.monotonic() - began < 5  # of ten seconds


@pytest.mark.parametrize("said", ["x", 5, [5], {"teams": 5}, {"teams": [5]}, [{"role": "Viewer"}]])
def test_json_that_is_not_grafanas_is_no_answer(run, grafana, said):
    """Whatever else answers at that address."""
    grafana.says = said

    status, told = run("--allow", "twh-tenants=team:Support:view")

    assert status == 2
    assert "not of its API" in told
    assert grafana.written == []


@pytest.mark.parametrize("token", [b"", b"two words", b"a\r\nx: y", "é".encode(), b"a\x00b"])
def test_a_token_is_a_word(token):
    """What is none could be a second header."""
    with pytest.raises(ConfigurationError) as refused:
        GrafanaApi("https://grafana.example", HiddenBytes(token))

    assert refused.value.code == "grafana_token_missing"


@pytest.mark.parametrize(
    "url",
    [
        "http://grafana.example",
        "grafana.example",
        "https://user:secret@grafana.example",
        "https://",
        "ftp://127.0.0.1",
        "https://grafana.example/?a=b",
        "https://grafana.example:port",
        "https://:secret@grafana.example",
        "https://grafana.example\n/x",
        "https://grafana.example\\@other.example",
        "https://grafana.example?",
    ],
)
def test_a_token_is_not_sent_anywhere(run, url):
    """In the clear it leaves this machine for nobody, and a login in an address is not repeated."""
    status, said = run(url=url)

    assert status == 2
    assert "the address is" in said or "no address" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "right",
    [
        "twh-tenants",
        "other=role:viewer:view",
        "twh-tenants=role:admin:view",
        "twh-tenants=role:viewer:own",
        "twh-tenants=group:x:view",
    ],
)
def test_a_right_that_is_none_is_refused(right):
    """It is told how one looks."""
    with pytest.raises(ConfigurationError) as refused:
        parse_grant(right)

    assert refused.value.code == "dashboard_grant_invalid"


def test_a_token_from_the_environment(grafana, monkeypatch, capsys):
    """Without a file it is a variable; without either it is asked for."""
    command = ["dashboards", "permissions", "--url", grafana.url]
    monkeypatch.setenv("TWH_GRAFANA_TOKEN", TOKEN)

    assert main(command) == 0
    monkeypatch.delenv("TWH_GRAFANA_TOKEN")
    assert main(command) == 2
    monkeypatch.setenv("OTHER", "two words")
    assert main([*command, "--token-env", "OTHER"]) == 2

    assert "give --token-file, or set TWH_GRAFANA_TOKEN" in capsys.readouterr().err
