"""
Attacks 15, 16 and 30: what has to be counted, beyond its end, in two processes, in threads.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from tests.attacks.kms._house import ACME, GLOBEX, House, opened_by
from twh_platform.kms import KeyContext, Keyset, LocalKeyService, SealLimits, Suite, parse

LAST = 2**32


class Naive:
    """Nonces by a counter of 32 bits, and no other key."""

    def __init__(self, start=0):
        self.next = start

    def nonce(self, pause=None):
        """The next nonce; *pause* stands between reading the counter and writing it."""
        number = self.next
        if pause is not None:
            time.sleep(pause)
        self.next = number + 1
        return (number % LAST).to_bytes(12, "big")


def test_15_goes_on_beyond_the_last_nonce(twh_attack):
    """A data key of suite 1 ends at 2**32 values, also while no other is to be had."""
    attack = twh_attack(number=15, title="has values sealed beyond the last nonce of a key")
    used = {Naive().nonce(), *[Naive(start).nonce() for start in range(20)]}
    naive = Naive(LAST - 5)
    attack.control(sum(naive.nonce() in used for _ in range(20)))

    house, sealed = House(limits=SealLimits(field_messages=LAST)), []
    first = parse(house.seal(suite=Suite.FIELD)).data_key_id
    house.key_of(suite=Suite.FIELD).take = count(LAST - 5).__next__
    house.service.down = True
    for _ in range(20):
        sealed += opened_by(lambda: house.seal(suite=Suite.FIELD))
    attack.ours(max(0, len(sealed) - 5))
    house.service.down = False
    assert parse(house.seal(suite=Suite.FIELD)).data_key_id != first


_FORK = """
import os, random
from tests.attacks.kms._house import House
from twh_platform.kms import Suite

naive, house = random.Random(), House()
def used():
    ours = house.seal(suite=Suite.FIELD)[3:19] + house.seal(suite=Suite.STREAM)[19:43]
    return naive.randbytes(12).hex(), ours.hex()

used()
child = os.fork()
os.write(1, " ".join(used()).encode() + b"\\n")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""

_STREAM = """
import os
from cryptography.cobblestone import Cobblestone256Encryptor
from tests.attacks.kms._house import ACME, House
from twh_platform import bind_tenant
from twh_platform.errors import ConfigurationError

naive, house = Cobblestone256Encryptor(bytes(32), b""), House()
parent = os.getpid()
def pieces():
    yield b"what both begin with"
    yield b"pay 100" if os.getpid() == parent else b"pay 999"

with bind_tenant(ACME):
    begun = naive.update(b"what both begin with")
    ours = house.cipher.seal_stream(pieces())
    start = next(ours)
    child = os.fork()
    begun += naive.update(next(iter([*pieces()][1:]))) + naive.finalize()
    try:
        start += b"".join(ours)
    except ConfigurationError:
        start = b"refused"
os.write(1, f"{begun.hex()} {start.hex()}\\n".encode())
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def on_both_sides(script, root):
    """The two words that each side of a fork prints, by what they are."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    naive, ours = zip(*map(str.split, done.stdout.splitlines()), strict=True)
    return naive, ours


def test_16_uses_a_key_after_a_fork(project_root, twh_attack):
    """A child has data keys of its own for suite 1, and for suite 2 salts of its own."""
    attack = twh_attack(number=16, title="has two processes seal with one key and its nonces")
    naive, ours = on_both_sides(_FORK, project_root)

    attack.control(naive[0] == naive[1])
    (one, salt), (other, another) = [(both[:32], both[32:]) for both in ours]
    attack.ours((one == other) + (salt == another))


def test_16_goes_on_with_a_stream_after_a_fork(project_root, twh_attack):
    """A stream is sealed by the process that began it: the child is refused."""
    attack = twh_attack(number=16, title="has two processes go on with one sealing stream")
    naive, ours = on_both_sides(_STREAM, project_root)
    different = bytes(a ^ b for a, b in zip(b"pay 100", b"pay 999", strict=True))

    # Two plaintexts under one key and nonce: their difference is that of the ciphertexts.
    attack.control(difference(naive, 20) == different)
    attack.ours(difference(ours, 20 + 19) == different or b"refused".hex() not in ours)


def difference(sealed, at):
    """Where two streams differ, and how, in 7 bytes behind a salt, a commitment and *at* more."""
    one, other = (bytes.fromhex(given)[24 + 32 + at :][:7] for given in sealed)
    return bytes(a ^ b for a, b in zip(one, other, strict=False))


def at_once(act):
    """What 8 threads get, which begin together."""
    start = threading.Barrier(8)

    def run(number):
        start.wait()
        return act(number)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, range(8)))


def test_30_uses_a_cipher_in_many_threads(twh_attack):
    """No use of a data key is lost, however many threads seal with it."""
    attack = twh_attack(number=30, title="races threads for the counter of a key")
    naive = Naive()
    drawn = at_once(lambda _: [naive.nonce(0.001) for _ in range(10)])
    attack.control(80 - len(set().union(*drawn)))

    house = House(limits=SealLimits(field_messages=100))
    made = at_once(lambda _: [house.seal(suite=Suite.FIELD) for _ in range(200)])
    uses = Counter(parse(one).data_key_id for some in made for one in some)
    attack.ours(sum(max(0, used - 100) for used in uses.values()))
    assert sum(uses.values()) == 1600


class NaiveService:
    """A provider that keeps in itself what it works on."""

    def wrap(self, key, context):
        """Not what it was asked for, if somebody else asks meanwhile."""
        self.key, self.context = key, context
        time.sleep(0.001)
        return self.key, self.context


def test_30_uses_a_key_service_in_many_threads(twh_attack):
    """One key service serves any number of threads: each gets what it asked for."""
    attack = twh_attack(number=30, title="gets what another thread had wrapped")
    naive, ours = NaiveService(), LocalKeyService(Keyset.new())
    crossed = at_once(lambda number: naive.wrap(number, number) != (number, number))
    attack.control(sum(crossed))

    def wrong(number):
        tenant = (ACME, GLOBEX)[number % 2].id
        ids = [bytes([number, at]) * 8 for at in range(25)]
        asked = [KeyContext(tenant_id=tenant, purpose="data", data_key_id=one) for one in ids]
        made = ours.generate(asked)
        pairs = [(one.wrapped, context) for one, context in zip(made, asked, strict=True)]
        return sum(a != b.plaintext for a, b in zip(ours.unwrap(pairs), made, strict=True))

    attack.ours(sum(at_once(wrong)))
