"""
What signing, verifying and receiving webhooks cost, against raw HMAC and other libraries.

Every figure is time per call.  A round takes the fastest of a few short blocks of
each contender, in an order that is drawn anew: what other processes take is not
the call's.  Ratios are those of one round.  The reference is `hmac.digest` of a
message that has been put together before.
"""

from __future__ import annotations

import hmac
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence

from twh_platform.errors import WebhookError
from twh_platform.webhooks import STRIPE, RawSecret, Signer, StandardSecret, Verifier

from ._database import machine, versions
from ._rows import Row, as_table, paired_row
from ._webhook_peers import EVENT, Peer, peers, refusing
from ._webhook_receivers import large_rows, usual_rows

__all__ = ["rows"]

_ROUNDS = 31
_BLOCKS = 9
_SIZES = {"1 KiB": 1024, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
_CHUNK = 64 * 1024

# Verifying reaches at least this share of raw HMAC.
_SHARES = {"1 KiB": 0.75, "64 KiB": 0.95, "1 MiB": 0.95}
_AGAINST_PEERS = {"1 KiB": 0.5, "64 KiB": None, "1 MiB": 0.5}
_EXTRA_BYTES = 64 * 1024
_PEERS = ("standardwebhooks", "svix", "stripe")
_SERVING = ("uvicorn", "h11", "httptools", "psycopg", "psycopg-binary")
# What a server passes on besides, in the form that ASGI has.
_OTHERS = {
    "host": "receiver.example",
    "user-agent": "sender/1.0",
    "content-type": "application/json",
    "content-length": "1024",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
}

Call = Callable[[], object]


def rows(*, quick: bool = False, parts: Sequence[str] | None = None) -> list[Row]:
    """
    Measure and print.

    Args:
        quick: Shorter, and so less certain.

        parts: Of ``speed``, ``memory``, ``large`` and ``usual``; all if None.
    """
    known = {
        "speed": lambda: _speed(0.0001 if quick else 0.0003),
        "memory": _memory,
        "large": lambda: large_rows(rounds=11 if quick else 31),
        "usual": lambda: usual_rows(seconds=5.0 if quick else 20.0),
    }
    for part in parts or ():
        if part not in known:
            raise SystemExit(f"the parts are {', '.join(known)}, there is no {part}")
    lines = [*machine(), versions(_PEERS), versions(_SERVING)]
    lines += ["quick, and so less certain"] if quick else []
    sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
    found: list[Row] = []
    for part, measure in known.items():
        if not parts or part in parts:
            found += measure()
    sys.stdout.write(as_table(found) + "\n")
    return found


def _ours(body: bytes, secret: StandardSecret) -> dict[str, Call]:
    verifier, signer = Verifier(secret), Signer(secret)
    request = signer.sign(body, event_id=EVENT)
    good = dict(request.headers)
    bad = {**good, "webhook-signature": "v1," + "A" * 43 + "="}
    pairs = [(name.encode(), value.encode()) for name, value in {**_OTHERS, **good}.items()]
    text = RawSecret("whsec_of_an_endpoint")
    stripe = Verifier(text, profile=STRIPE)
    stripes = dict(Signer(text, profile=STRIPE).sign(body).headers)
    chunks = [body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK)]

    def in_chunks() -> None:
        verification = verifier.begin(pairs)
        for chunk in chunks:
            verification.update(chunk)
        verification.finish()

    return {
        "verify": lambda: verifier.verify(body, good),
        "verify, nine ASGI headers": lambda: verifier.verify(body, pairs),
        "verify, in chunks of 64 KiB": in_chunks,
        "verify, Stripe's format": lambda: stripe.verify(body, stripes),
        "reject": refusing(lambda: verifier.verify(body, bad), WebhookError),
        "sign": lambda: signer.sign(body, event_id=EVENT),
    }


def _speed(block: float) -> list[Row]:
    found: list[Row] = []
    for size, length in _SIZES.items():
        found += _of_size(size, b'{"data":"' + b"x" * (length - 11) + b'"}', block)
    return found


def _of_size(size: str, body: bytes, block: float) -> list[Row]:
    secret = StandardSecret.generate()
    key, message = bytes(secret._hidden), f"{EVENT}.{int(time.time())}.".encode() + body
    others = peers(body, secret)
    calls: dict[tuple[str, str], Call] = {("raw", ""): lambda: hmac.digest(key, message, "sha256")}
    calls |= {("ours", what): call for what, call in _ours(body, secret).items()}
    for name, peer in others.items():
        calls |= {(name, what): call for what, call in peer._asdict().items()}
    taken = _interleaved(calls, block)
    found = [
        paired_row(
            f"{name}, {what}",
            size,
            unit="us",
            ours=series,
            reference=taken["raw", ""],
            target=1 / _SHARES[size] if (name, what) == ("ours", "verify") else None,
        )
        for (name, what), series in taken.items()
        if name != "raw"
    ]
    found.append(_against("reject against accept", size, taken, ("reject", "ours", "verify"), 1.0))
    for name in others:
        for what in Peer._fields:
            target = None if what == "sign" else _AGAINST_PEERS[size]
            found.append(
                _against(f"{what} against {name}", size, taken, (what, name, what), target)
            )
    return found


def _against(
    name: str,
    size: str,
    taken: Mapping[tuple[str, str], list[float]],
    pair: tuple[str, str, str],
    target: float | None,
) -> Row:
    what, *other = pair
    series = taken[other[0], other[1]]
    return paired_row(
        name, size, unit="us", ours=taken["ours", what], reference=series, target=target
    )


def _interleaved(
    calls: Mapping[tuple[str, str], Call], block: float
) -> dict[tuple[str, str], list[float]]:
    runs = {name: _runs(call, block) for name, call in calls.items()}
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for _ in range(_ROUNDS):
        for name in draw.sample(list(calls), len(calls)):
            taken[name].append(min(_timed(calls[name], runs[name]) for _ in range(_BLOCKS)))
    return taken


def _timed(call: Call, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e6


def _runs(call: Call, block: float) -> int:
    samples = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        samples.append(time.perf_counter() - began)
    return max(1, round(block / min(samples)))


def _memory() -> list[Row]:
    body = b"x" * _SIZES["1 MiB"]
    secret = StandardSecret.generate()
    calls = {("ours", what): call for what, call in _ours(body, secret).items() if what != "sign"}
    calls |= {(name, "verify"): peer.verify for name, peer in peers(body, secret).items()}
    return [
        paired_row(
            f"{name}, {what}, memory",
            "1 MiB, allocated at the most",
            unit="bytes",
            ours=[_peak(call)],
            reference=[_EXTRA_BYTES],
            target=1.0 if name == "ours" else None,
        )
        for (name, what), call in calls.items()
    ]


def _peak(call: Call) -> int:
    call()
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
