"""
One AES-GCM ciphertext and tag that two keys open, each to another plaintext.

The tag is a polynomial in H = AES(key, 0) over GF(2^128), linear in each block
of the ciphertext: with one free block, the tags of two keys can be made equal.
It is linear in the additional data too: whoever knows H finds two texts there
that have one tag.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

__all__ = ["colliding_ciphertext", "texts_of_one_tag"]

_POLYNOMIAL = 0xE1 << 120
_ONE = 1 << 127
# The highest bit of each byte, which ASCII leaves alone.
_HIGH_BITS = int.from_bytes(b"\x80" * 16, "big")


def _multiply(left: int, right: int) -> int:
    # GCM's bit order: the highest bit of the integer is the lowest power.
    product = 0
    for bit in range(127, -1, -1):
        if right >> bit & 1:
            product ^= left
        left = (left >> 1) ^ (_POLYNOMIAL if left & 1 else 0)
    return product


def _inverse(value: int) -> int:
    # By Fermat: the power 2**128 - 2.
    result = _ONE
    for _ in range(127):
        value = _multiply(value, value)
        result = _multiply(result, value)
    return result


def _block_cipher(key: bytes, block: bytes) -> int:
    encryptor = Cipher(AES(key), ECB()).encryptor()
    return int.from_bytes(encryptor.update(block) + encryptor.finalize(), "big")


def _tag(key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> int:
    secret, tag = _block_cipher(key, bytes(16)), 0
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    padded = aad + bytes(-len(aad) % 16) + ciphertext + lengths
    for at in range(0, len(padded), 16):
        tag = _multiply(tag ^ int.from_bytes(padded[at : at + 16], "big"), secret)
    return tag ^ _block_cipher(key, nonce + b"\x00\x00\x00\x01")


def colliding_ciphertext(first: bytes, second: bytes, nonce: bytes, aad: bytes = b"") -> bytes:
    """Two blocks and a tag that AES-GCM opens under both keys with this nonce and AAD."""
    start = b"one free block ."
    tags = [_tag(key, nonce, aad, start + bytes(16)) for key in (first, second)]
    squares = [_multiply(h, h) for h in (_block_cipher(key, bytes(16)) for key in (first, second))]
    solved = _multiply(tags[0] ^ tags[1], _inverse(squares[0] ^ squares[1]))
    ciphertext = start + solved.to_bytes(16, "big")
    return ciphertext + _tag(first, nonce, aad, ciphertext).to_bytes(16, "big")


def texts_of_one_tag(key: bytes, encode: Callable[[str], bytes]) -> tuple[str, str]:
    """Two ASCII texts: AES-GCM under this key has one tag for both, encoded as AAD."""
    text = b"a" * 64
    at = -encode(text.decode()).index(text) % 16
    first, second = _differences(_block_cipher(key, bytes(16)))
    change = bytes(at) + first.to_bytes(16, "big") + second.to_bytes(16, "big")
    other = bytes(a ^ b for a, b in zip(text, change.ljust(len(text), b"\0"), strict=True))
    return text.decode(), other.decode()


def _differences(secret: int) -> tuple[int, int]:
    # Of two blocks that follow one another: the first times H is the second, and
    # both leave the high bits as they are.  By elimination, bit by bit.
    known: dict[int, tuple[int, int]] = {}
    for bit in range(128):
        first = 1 << bit & ~_HIGH_BITS
        second = _multiply(first, secret)
        while first and (high := (second & _HIGH_BITS).bit_length()) in known:
            first, second = first ^ known[high][0], second ^ known[high][1]
        if first and not high:
            return first, second
        if first:
            known[high] = first, second
    raise AssertionError
