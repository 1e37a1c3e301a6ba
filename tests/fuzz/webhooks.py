"""
Look for input that breaks the reader of webhooks: `python -m tests.fuzz.webhooks`.

What breaks it is an error that is no `WebhookError`, two ways of verifying that
differ, a forgery that is verified, and a key that anybody can sign with.

Coverage-guided, with atheris (dependency group `fuzz`), and the extra `webhooks` for
Ed25519.  Each profile is an endpoint, some of them once more with a key pair; the last
is the text of keys.  What is found is written to ``build/fuzz`` and shown; to see it
again, give the file: ``--again FILE``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

FOUND = Path("build/fuzz")
LONGEST = 4_096


def main() -> None:
    """
    Read the command line, and fuzz until the time or the runs are over.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.webhooks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="60 if nothing is said; 0: no end")
    parser.add_argument("--runs", type=int, default=-1, help="at most so many executions")
    parser.add_argument("--only", default="", metavar="NAME", help="one endpoint, not all of them")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only this input")
    options = parser.parse_args()
    if options.again:
        from tests.support.hostile_webhooks import judge

        sys.stdout.write(f"{judge(options.again.read_bytes())}\n")
        return
    _fuzz(options.seconds, options.runs, options.only)


def _fuzz(seconds: int, runs: int, only: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["twh_platform.webhooks"]):
        from tests.support.hostile_webhooks import EXTRA, NAMES, judge, seeds

    if only not in {"", *NAMES}:
        raise SystemExit(f"no endpoint {only!r}: {', '.join(NAMES)}")
    if not EXTRA:
        sys.stderr.write("without the extra webhooks: no Ed25519\n")
    FOUND.mkdir(parents=True, exist_ok=True)
    # Not a context manager: libFuzzer ends the process itself.
    corpus = Path(tempfile.mkdtemp(prefix="twh-fuzz-"))
    for number, seed in enumerate(seeds(only)):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={FOUND}{os.sep}",
        "-timeout=10",
        "-print_final_stats=1",
        os.fspath(corpus),
    ]

    chosen = bytes([NAMES.index(only)]) if only else b""

    def once(data: bytes) -> None:
        judge(chosen + data[len(chosen) :])

    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
