"""Name-based UUIDs (RFC 9562, version 5) of many names at once: SHA-1 over columns instead of one name at a time."""

from __future__ import annotations

import uuid

import numpy as np

LONGEST_NAME = 39  # with the namespace, the end mark and the length it fills one block of 64 bytes
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ROUND_CONSTANTS = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)
_BLOCKS_AT_ONCE = 4096  # 16 words of as many blocks stay in the cache
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_TEXT_COLUMNS = np.delete(np.arange(36), (8, 13, 18, 23))


def uuid5(namespace: uuid.UUID, names: np.ndarray) -> np.ndarray:
    """What ``uuid.uuid5(namespace, name)`` gives for each name, as text.

    Args:
        namespace: common to all.
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
