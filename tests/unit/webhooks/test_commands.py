"""
`twh-platform webhooks ...`: what it writes, how it ends, and what it never shows.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from twh_platform.cli import main
from twh_platform.webhooks import PROFILES, RawSecret, StandardSecret, verify

TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
ID, AT = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
BODY = b'{"test": 2432232314}'


class Shell:
    """Runs commands with a secret in a file and a body in another."""

    def __init__(self, folder: Path, capsys, patch) -> None:
        self.folder, self.capsys, self.patch = folder, capsys, patch
        (folder / "secret").write_text(TEXT + "\n")
        (folder / "body").write_bytes(BODY)

    def __call__(self, *words: object, stdin: bytes = b"") -> tuple[int, str, str]:
        """The status, what was written, and what was complained."""
        self.patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(["webhooks", *map(str, words)])
        written = self.capsys.readouterr()
        return status, written.out, written.err

    def sign(self, *more: object, stdin: bytes = b"", body: str = "body") -> str:
        """The headers that `sign` writes."""
        words = ["sign", *([self.folder / body] if body else ["-"]), "--id", ID, "--timestamp", AT]
        status, out, err = self(*words, "--secret-file", self.folder / "secret", *more, stdin=stdin)
        assert (status, err) == (0, "")
        return out

    def keep(self, headers: str) -> Path:
        """A file with headers as they came."""
        path = self.folder / "headers"
        path.write_text(headers)
        return path

    def judge(self, word: str, headers: str, *more: object) -> tuple[int, str, str]:
        """`verify` or `doctor` on the body."""
        where = ["--headers", self.keep(headers), "--secret-file", self.folder / "secret"]
        return self(word, self.folder / "body", *where, "--at", AT, *more)


@pytest.fixture
def shell(tmp_path, capsys, monkeypatch) -> Shell:
    """An operator with a secret, and none in the environment."""
    monkeypatch.delenv("TWH_WEBHOOK_SECRET", raising=False)
    return Shell(tmp_path, capsys, monkeypatch)


def test_sign_writes_the_published_vector(shell):
    """The headers that the specification's libraries make of it, from a file or a pipe."""
    headers = f"webhook-id: {ID}\nwebhook-timestamp: {AT}\nwebhook-signature: {VECTOR}\n"

    assert shell.sign() == headers
    assert shell.sign(body="", stdin=BODY) == headers


def test_a_secret_comes_from_the_environment(shell):
    """From a variable that is named, or from the usual one."""
    shell.patch.setenv("OTHER", TEXT)
    named = shell("sign", "--id", ID, "--timestamp", AT, "--secret-env", "OTHER", stdin=BODY)
    shell.patch.setenv("TWH_WEBHOOK_SECRET", TEXT)
    usual = shell("sign", "--id", ID, "--timestamp", AT, stdin=BODY)

    assert named == usual
    assert VECTOR in usual[1]


def test_the_curl_form_is_one_command(shell):
    """Quoted for a shell, with the file as the body."""
    url = "http://127.0.0.1:8000/hooks?a=1&b='2'"

    words = shlex.split(shell.sign("--curl", "--url", url))

    assert words[:3] == ["curl", "--request", "POST"]
    assert f"webhook-signature: {VECTOR}" in words
    assert words[-4:] == ["--data-binary", f"@{shell.folder / 'body'}", "--url", url]
    assert shell("sign", "--curl", "--secret-file", shell.folder / "secret")[0] == 2


def test_verify_says_what_holds(shell):
    """0, with the key, the id and the age; also with what a browser or curl puts around."""
    around = f"POST /hooks HTTP/1.1\r\n> Host: a\r\n{shell.sign()}\r\n"

    status, out, _ = shell.judge("verify", around)

    assert status == 0
    fingerprint = StandardSecret(TEXT).fingerprint
    assert out == f"holds: standard, scheme v1, key {fingerprint}, id {ID}, 0 s old\n"


def test_verify_says_why_it_is_refused(shell):
    """1, and the code."""
    status, out, _ = shell.judge("verify", shell.sign(), "--at", "1")

    assert status == 1
    assert out.startswith("refused: too_new: ")


def test_headers_can_be_given_one_by_one(shell):
    """With -H, as for curl."""
    given = [word for line in shell.sign().splitlines() for word in ("-H", line)]

    words = ["verify", shell.folder / "body", *given, "--at", AT]
    status, _, _ = shell(*words, "--secret-file", shell.folder / "secret")

    assert status == 0


def test_the_doctor_names_the_cause(shell):
    """1 with the cause, how it was found, and what to do; 0 if it holds."""
    headers = shell.sign()
    assert shell.judge("doctor", headers)[:2] == (0, "it holds\n")
    (shell.folder / "body").write_bytes(BODY + b"\n")

    status, out, _ = shell.judge("doctor", headers)

    assert status == 1
    assert "refused: signature_mismatch\ncause: line_break_added\n" in out
    assert "proven: yes\n" in out
    assert "remedy: verify the bytes as they came" in out


def test_the_doctor_takes_a_secret_of_another_type(shell):
    """One without its prefix is tried as what it is."""
    headers = shell.sign()
    (shell.folder / "secret").write_text(TEXT.removeprefix("whsec_"))

    status, out, _ = shell.judge("doctor", headers)

    assert status == 1
    assert "cause: secret_not_decoded\n" in out
    assert shell.judge("verify", headers)[0] == 2


def test_a_profile_says_how(shell):
    """GitHub's published example, and a name that is none."""
    (shell.folder / "secret").write_text("It's a Secret to Everybody")
    (shell.folder / "body").write_bytes(b"Hello, World!")
    signed = shell.sign("--profile", "github")

    assert signed == (
        "x-hub-signature-256: "
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\n"
    )
    assert shell.judge("verify", signed, "--profile", "github")[0] == 0
    assert "a profile is one of standard, svix" in shell.judge("verify", "", "--profile", "x")[2]


def test_the_help_names_every_profile(capsys):
    """It has a list of its own, as showing help imports no webhooks."""
    with pytest.raises(SystemExit):
        main(["webhooks", "verify", "--help"])

    assert ", ".join(PROFILES) in " ".join(capsys.readouterr().out.split())


def test_an_address_is_signed_by_the_profile_that_signs_it(shell):
    """RFC 9421, with --url on both sides; another URL is told by the doctor."""
    url = ("--profile", "message", "--url", "https://shop.example/hooks")
    signed = shell.sign(*url)

    assert shell.judge("verify", signed, *url)[0] == 0
    status, out, _ = shell.judge("doctor", signed, *url[:3], "http://shop.example/hooks")
    assert status == 1
    assert "cause: url_changed\n" in out


def test_a_key_that_is_made_signs(shell):
    """It goes into a file of mode 600, and its fingerprint is told; through a pipe as it is."""
    made = shell.folder / "made"

    status, out, _ = shell("keys", "generate", "standard", "--output", made)
    piped = shell("keys", "generate", "standard", "--bytes", "24")[1]

    assert status == 0
    assert out == f"fingerprint: {StandardSecret(made.read_text()).fingerprint}\n"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert len(piped) == len("whsec_") + 32 + 1


def test_a_key_pair_is_made(shell):
    """The private one in its file, the public one told, now and later."""
    pytest.importorskip("cryptography")
    made = shell.folder / "secret"

    _, out, _ = shell("keys", "generate", "ed25519", "--output", made)
    public = shell("keys", "public", "--secret-file", made)[1]
    fingerprint = shell("keys", "fingerprint", "--secret-file", made)[1]

    assert out == f"fingerprint: {fingerprint.split()[0]}\npublic: {public}"
    signed = shell.sign()
    made.write_text(public)
    assert shell.judge("verify", signed)[0] == 0


def test_a_fingerprint_tells_which_it_is(shell):
    """By the type that the profile takes."""
    where = ("keys", "fingerprint", "--secret-file", shell.folder / "secret")

    assert shell(*where)[1] == f"{StandardSecret(TEXT).fingerprint} standard\n"
    assert shell(*where, "--profile", "stripe")[1] == f"{RawSecret(TEXT).fingerprint} raw\n"
    assert shell("keys", "public", *where[2:])[0] == 2


def test_a_terminal_is_shown_no_secret(shell):
    """Unless that is said."""
    shell.patch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    assert shell("keys", "generate", "standard")[0] == 2
    assert shell("keys", "generate", "standard", "--reveal")[1].startswith("whsec_")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sign"], "give --secret-file or --secret-env, or set TWH_WEBHOOK_SECRET"),
        (["sign", "--secret-env", "NOT_SET"], "'NOT_SET' is not set"),
        (["sign", "--secret-file", "/no/such/file"], "No such file"),
        (["sign", "--secret-file", "{}/body"], "a secret of this kind"),
        (["sign", "/no/such/body", "--secret-file", "{}/secret"], "No such file"),
        (["sign", "--id", "a.b", "--secret-file", "{}/secret"], "an id is"),
        (["verify", "-H", "no header", "--secret-file", "{}/secret"], "a header is a line"),
        (["keys", "generate", "standard", "--bytes", "8"], "24 to 64 bytes"),
        (["keys", "generate", "standard", "--output", "/no/such/folder/file"], "No such file"),
    ],
)
def test_what_cannot_be_carried_out_is_said(shell, words, complaint):
    """2, in one line, and nothing of a secret or of what was taken for one."""
    status, out, err = shell(*[word.format(shell.folder) for word in words])

    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert "2432232314" not in err
    assert TEXT not in err


def test_nothing_shows_the_secret(shell):
    """Neither what is written when it holds nor when it does not."""
    headers = shell.sign()
    written = [headers, *shell.judge("verify", headers)[1:]]
    (shell.folder / "body").write_bytes(b"other")
    for word in ("verify", "doctor"):
        written += shell.judge(word, headers)[1:]

    assert not [text for text in written if TEXT[6:] in text]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\0", b"a\r\nb\n"])
def test_a_body_is_signed_byte_for_byte(tmp_path, body):
    """In a process of its own, through a pipe: no character set, no line ends."""
    run = subprocess.run(
        [sys.executable, "-m", "twh_platform.cli", "webhooks", "sign"],
        input=body,
        capture_output=True,
        check=True,
        env={**os.environ, "TWH_WEBHOOK_SECRET": TEXT},
    )
    headers = dict(line.split(": ") for line in run.stdout.decode().splitlines())

    assert verify(body, headers, StandardSecret(TEXT)).id
