"""Numbers, coordinates and UUIDs as ASCII text, rendered for whole arrays at once."""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
from numpy import ndarray

BLANK = 0  # byte that pads texts to equal length, and is removed before they are written


def render_decimals(values: ndarray, decimals: int) -> ndarray:
    """Render finite values (N,) with ``decimals`` >= 1 digits after the point, as (N, W) uint8."""
    scaled = np.rint(np.abs(values) * 10.0**decimals).astype(np.int64)
    digits = render_integers(scaled, max(decimals + 1, len(str(scaled.max(initial=0)))))
    shown = np.logical_or.accumulate(digits != ord("0"), axis=1)
    shown[:, -decimals - 1 :] = True
    sign = np.where((values < 0) & (scaled > 0), ord("-"), BLANK).astype(np.uint8)[:, None]
    point = np.full((len(values), 1), ord("."), np.uint8)
    digits = np.where(shown, digits, BLANK).astype(np.uint8)
    return np.concatenate([sign, digits[:, :-decimals], point, digits[:, -decimals:]], axis=1)


def render_integers(values: ndarray, width: int) -> ndarray:
    """Render values (N,) from 0 to 10^width - 1 with leading zeros, as (N, width) uint8."""
    digits = np.empty((len(values), width), np.uint8)
    for column in range(width - 1, -1, -1):
        tens = values // 10  # vectorised, unlike divmod
        values, digits[:, column] = tens, values - tens * 10
    return digits + np.uint8(ord("0"))


def render_coordinates(rings: ndarray) -> ndarray:
    """Render rings (N, V, 2) as coordinates of GeoJSON polygons, to one decimal, as (N, 24 V)
    uint8.

    Values must lie between -999,999.9 and 9,999,999.9, a range larger than any slide.
    """
    tenths = np.rint(rings * 10).astype(np.int32)
    size = np.abs(tenths)
    high, half = size // _HALF, np.int32(_HALF)
    # selects the text after each number, as in "x,y],[x,y]]]"
    end = np.zeros(rings.shape[1:], np.int32)
    end[:, 1], end[-1, 1] = 2 * _HALF, 4 * _HALF
    words = np.empty(rings.shape, [("high", _HIGH.dtype), ("low", _LOW.dtype)])
    words["high"] = _HIGH.take(high + half * (tenths < 0))
    words["low"] = _LOW.take(size - half * high + half * (high == 0) + end)
    return words.reshape(len(rings), -1).view(np.uint8)


# A number in tenths is rendered from two tables, for its upper and lower four digits, as 4 and 8
# bytes.
_HALF = 10_000


def _high_words() -> ndarray:
    """(2 * _HALF,) words for the upper digits: in the first half four digits, in the second a minus
    sign and three.
    """
    text = np.full((2, _HALF, 4), ord("-"), np.uint8)
    text[0] = _without_zeros(render_integers(np.arange(_HALF), 4))
    text[1, :, 1:] = text[0, :, 1:]
    return text.view(np.uint32).ravel()


def _low_words() -> ndarray:
    """(6 * _HALF,) words for the lower digits: for each of three ends, first with leading zeros,
    then without.
    """
    text = np.zeros((3, 2, _HALF, 8), np.uint8)
    digits = render_integers(np.arange(_HALF), 4)
    text[:, 0, :, :3] = digits[:, :3]
    text[:, 1, :, :2], text[:, 1, :, 2] = _without_zeros(digits[:, :2]), digits[:, 2]
    has_tenth = digits[:, 3] != ord("0")
    text[:, :, has_tenth, 3], text[:, :, has_tenth, 4] = ord("."), digits[has_tenth, 3]
    for words, end in zip(text, (b",", b"],[", b"]]]"), strict=True):
        words[..., 5 : 5 + len(end)] = np.frombuffer(end, np.uint8)
    return text.view(np.uint64).ravel()


def _without_zeros(digits: ndarray) -> ndarray:
    """Replace the leading zeros of digits (N, W) with blanks."""
    return np.where(np.logical_or.accumulate(digits != ord("0"), axis=1), digits, BLANK)


_HIGH, _LOW = _high_words(), _low_words()
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_TEXT_COLUMNS = np.delete(np.arange(36), (8, 13, 18, 23))


def uuid5(namespace: uuid.UUID, names: ndarray) -> ndarray:
    """The value of ``uuid.uuid5(namespace, name)`` for names (N, L) uint8 of equal length, as (N,
    36) uint8 ASCII.
    """
    head = namespace.bytes
    text = names.tobytes()
    length = names.shape[1]
    hashes = [
        hashlib.sha1(head + text[start : start + length], usedforsecurity=False).digest()[:16]
        for start in range(0, len(text), length)
    ]
    digests = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16).copy()
    digests[:, 6] = digests[:, 6] & 0x0F | 0x50  # version
    digests[:, 8] = digests[:, 8] & 0x3F | 0x80  # variant
    ids = np.full((len(names), 36), ord("-"), np.uint8)
    ids[:, _TEXT_COLUMNS] = _HEX[np.stack([digests >> 4, digests & 15], axis=-1)].reshape(
        len(names), 32
    )
    return ids
