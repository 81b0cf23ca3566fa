"""Columns of numbers and UUIDs as ASCII text, vectorised."""

from __future__ import annotations

import uuid

import numpy as np

BLANK = 0


def render_decimals(values: np.ndarray, decimals: int) -> np.ndarray:
    """Finite values (N,) with ``decimals`` >= 1 digits after the point, as (N, W) uint8."""
    scaled = np.rint(np.abs(values) * 10.0**decimals).astype(np.int64)
    digits = render_integers(scaled, max(decimals + 1, len(str(scaled.max(initial=0)))))
    shown = np.logical_or.accumulate(digits != ord("0"), axis=1)
    shown[:, -decimals - 1 :] = True
    sign = np.where((values < 0) & (scaled > 0), ord("-"), BLANK).astype(np.uint8)[:, None]
    point = np.full((len(values), 1), ord("."), np.uint8)
    digits = np.where(shown, digits, BLANK).astype(np.uint8)
    return np.concatenate([sign, digits[:, :-decimals], point, digits[:, -decimals:]], axis=1)


def render_integers(values: np.ndarray, width: int) -> np.ndarray:
    """Values (N,) from 0 to 10^width - 1 with leading zeros, as (N, width) uint8."""
    digits = np.empty((len(values), width), np.uint8)
    for column in range(width - 1, -1, -1):
        values, digits[:, column] = np.divmod(values, 10)
    return digits + np.uint8(ord("0"))


def render_coordinates(xy: np.ndarray, is_last: np.ndarray) -> np.ndarray:
    """Positions of rings as the inside of a GeoJSON polygon, to one decimal.

    Args:
        xy: (M, 2) positions, absolute value below 1e7, which is metres of glass.
        is_last: (M,) bool, True for positions that end their ring.

    Returns:
        (M, 32) uint8: ``x,y],[`` for each position, and ``x,y]]]`` at the end of a ring.
    """
    tenths = np.rint(xy * 10).astype(np.int32)
    high, low = np.divmod(np.abs(tenths), _HALF)
    words = np.empty((len(xy), 4), _HIGH.dtype)
    end = np.stack([np.zeros_like(low[:, 0]), np.where(is_last, 2, 1)], axis=-1)
    words[:, 0::2] = _HIGH[high + _HALF * (tenths < 0)]
    words[:, 1::2] = _LOW[low + _HALF * ((high == 0) + 2 * end)]
    return words.view(np.uint8)


# A number in tenths is looked up in two halves of up to four digits, each a word of eight bytes.
_HALF = 10_000


def _high_words() -> np.ndarray:
    """(2 * _HALF,) words of the upper halves, positive and then negative: the sign and the digits."""
    text = np.zeros((2, _HALF, 8), np.uint8)
    text[1, :, 0] = ord("-")
    text[:, :, 1:5] = _without_zeros(render_integers(np.arange(_HALF), 4))
    return text.view(np.uint64).ravel()


def _low_words() -> np.ndarray:
    """(6 * _HALF,) words of the lower halves, by end and by whether an upper half precedes them."""
    text = np.zeros((3, 2, _HALF, 8), np.uint8)
    digits = render_integers(np.arange(_HALF), 4)
    text[:, 0, :, :3] = digits[:, :3]
    text[:, 1, :, :2], text[:, 1, :, 2] = _without_zeros(digits[:, :2]), digits[:, 2]
    has_tenth = digits[:, 3] != ord("0")
    text[:, :, has_tenth, 3], text[:, :, has_tenth, 4] = ord("."), digits[has_tenth, 3]
    for words, end in zip(text, (b",", b"],[", b"]]]"), strict=True):
        words[..., 5 : 5 + len(end)] = np.frombuffer(end, np.uint8)
    return text.view(np.uint64).ravel()


def _without_zeros(digits: np.ndarray) -> np.ndarray:
    """Digits (N, W), with blanks for leading zeros."""
    return np.where(np.logical_or.accumulate(digits != ord("0"), axis=1), digits, BLANK)


_HIGH, _LOW = _high_words(), _low_words()


LONGEST_NAME = 39  # with the namespace, the end mark and the length it fills one block of 64 bytes
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ROUND_CONSTANTS = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)
_BLOCKS_AT_ONCE = 4096  # 16 words of as many blocks stay in the cache
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_TEXT_COLUMNS = np.delete(np.arange(36), (8, 13, 18, 23))


def uuid5(namespace: uuid.UUID, names: np.ndarray) -> np.ndarray:
    """The value of ``uuid.uuid5(namespace, name)`` for each name, as text.

    Args:
        namespace: namespace of all names.
        names: (N, L) uint8, UTF-8 names of equal length L <= ``LONGEST_NAME``.

    Returns:
        (N, 36) uint8 ASCII.
    """
    digests = np.empty((len(names), 16), np.uint8)
    for first in range(0, len(names), _BLOCKS_AT_ONCE):
        chunk = slice(first, first + _BLOCKS_AT_ONCE)
        digests[chunk] = _sha1(_to_blocks(namespace, names[chunk]))[:, :16]
    digests[:, 6] = digests[:, 6] & 0x0F | 0x50  # version
    digests[:, 8] = digests[:, 8] & 0x3F | 0x80  # variant
    text = np.full((len(names), 36), ord("-"), np.uint8)
    text[:, _TEXT_COLUMNS] = _HEX[np.stack([digests >> 4, digests & 15], axis=-1)].reshape(len(names), 32)
    return text


def _to_blocks(namespace: uuid.UUID, names: np.ndarray) -> np.ndarray:
    """The padded messages (16, N), as 32-bit words."""
    n, length = names.shape
    if length > LONGEST_NAME:
        raise ValueError(f"names of {length} bytes; at most {LONGEST_NAME} fit into one block")
    blocks = np.zeros((n, 64), np.uint8)
    blocks[:, :16] = np.frombuffer(namespace.bytes, np.uint8)
    blocks[:, 16 : 16 + length] = names
    blocks[:, 16 + length] = 0x80
    blocks[:, 62:] = divmod(8 * (16 + length), 256)
    return np.ascontiguousarray(blocks.view(">u4").astype(np.uint32).T)


def _sha1(blocks: np.ndarray) -> np.ndarray:
    """Digests (N, 20) uint8 of one-block messages (16, N), by FIPS 180-4, section 6.1."""
    schedule = list(blocks)
    for t in range(16, 80):
        schedule.append(_rotate(schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16], 1))
    a, b, c, d, e = (np.full(blocks.shape[1], word, np.uint32) for word in _START)
    for t, word in enumerate(schedule):
        turn = t // 20
        mixed = d ^ (b & (c ^ d)) if turn == 0 else (b & c) | (d & (b | c)) if turn == 2 else b ^ c ^ d
        a, b, c, d, e = _rotate(a, 5) + mixed + e + np.uint32(_ROUND_CONSTANTS[turn]) + word, a, _rotate(b, 30), c, d
    state = [word + np.uint32(start) for word, start in zip((a, b, c, d, e), _START, strict=True)]
    return np.stack(state, axis=-1).astype(">u4").view(np.uint8)


def _rotate(words: np.ndarray, by: int) -> np.ndarray:
    return (words << np.uint32(by)) | (words >> np.uint32(32 - by))
