"""Ways to damage a file, each a function of its bytes and a random generator; a seed always gives
the same damage.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

Mutation = Callable[[bytes, random.Random], bytes]

ODD_NUMBERS = (0, 1, 2, 7, 255, 65_535, 65_536, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
ODD_VALUES = (
    None,
    True,
    *(-1, 0, 1e308, float("inf"), float("nan"), 10**30),
    *("", "x", "../../escaped", "\u0000", "a\nb", "-rf"),
    *([], {}, [[]], [None], {"a": {"b": []}}, "9" * 5000, ["x"] * 3, "é\u202e\U0001f4a9"),
)
ODD_CELLS = (
    *["../../escaped", "/escaped", "..", ".", "-rf", "--output"],
    *("'; touch escaped; '", '"', "a\nb", "a\tb", "\x00", "$(touch escaped)", "`touch escaped`"),
    *("é\u202e", "x" * 5000, "", " "),
    *["NaN", "1e400", "-1", "{slide}", "CON", "a/b"],
)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: rng.randrange(len(content))] if content else content


def truncate_late(content: bytes, rng: random.Random) -> bytes:
    """Cut a few bytes off the end."""
    return content[: -rng.randint(1, min(64, len(content)))]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Flip a few bits anywhere."""
    return _change(content, rng, range(len(content)), rng.choice((1, 3, 20, 200)))


def flip_head(content: bytes, rng: random.Random) -> bytes:
    """Flip bits near the beginning, where headers are."""
    return _change(content, rng, range(min(len(content), 512)), rng.choice((1, 2, 6)))


def flip_tail(content: bytes, rng: random.Random) -> bytes:
    """Flip bits near the end, where footers are."""
    return _change(
        content, rng, range(max(len(content) - 2048, 0), len(content)), rng.choice((1, 2, 6))
    )


def blank(content: bytes, rng: random.Random) -> bytes:
    """Set a range of bytes to 0x00 or 0xff, as a failed disk does."""
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((16, 512, 4096, 65_536)))
    return content[:start] + bytes([rng.choice((0, 255))]) * (stop - start) + content[stop:]


def splice(content: bytes, rng: random.Random) -> bytes:
    """Insert a copy of a range of bytes somewhere else, so that all later bytes move."""
    start, at = rng.randrange(len(content)), rng.randrange(len(content))
    return content[:at] + content[start : start + rng.choice((1, 7, 300))] + content[at:]


def noise(content: bytes, rng: random.Random) -> bytes:
    """Replace everything but the first bytes, from which the format is recognised, by noise."""
    return content[: rng.choice((4, 8, 132))] + rng.randbytes(rng.choice((0, 40, 5000)))


def _change(content: bytes, rng: random.Random, positions: range, n: int) -> bytes:
    changed = bytearray(content)
    for _ in range(n if positions else 0):
        changed[rng.choice(positions)] ^= 1 << rng.randrange(8)
    return bytes(changed)


ANY_BYTES: tuple[Mutation, ...] = (
    truncate,
    truncate_late,
    flip_bits,
    flip_head,
    flip_tail,
    blank,
    splice,
    noise,
)


def lie_in_tags(content: bytes, rng: random.Random) -> bytes:
    """Change values, offsets, types or counts of tags in TIFF directories."""
    changed = bytearray(content)
    entries = [entry for directory in tiff_directories(content) for entry in directory.entries]
    for entry in rng.sample(entries, min(len(entries), rng.choice((1, 1, 2, 5)))):
        kind = rng.choice(("value", "value", "count", "type", "array"))
        if kind == "array" and entry.array:
            offset, width = entry.array
            _put(changed, offset, width, rng.choice((*ODD_NUMBERS, len(content) - 1)))
        elif kind == "count":
            _put(changed, entry.at + 4, entry.word, rng.choice(ODD_NUMBERS))
        elif kind == "type":
            _put(changed, entry.at + 2, 2, rng.choice((0, 1, 2, 5, 11, 13, 18, 99)))
        else:
            _put(changed, entry.value_at, entry.word, rng.choice((*ODD_NUMBERS, len(content) - 1)))
    return bytes(changed)


def loop_directories(content: bytes, rng: random.Random) -> bytes:
    """Make the chain of TIFF directories return to an earlier one, or lead into the pixels."""
    changed = bytearray(content)
    directories = tiff_directories(content)
    targets = [directory.at for directory in directories]
    targets += [8, 16, len(content) // 2, len(content) + 100]
    if directories:
        last = rng.choice(directories)
        _put(changed, last.next_at, last.word, rng.choice(targets))
    return bytes(changed)


def swell_picture(content: bytes, rng: random.Random) -> bytes:
    """Change the size that the header of a PNG or JPEG states."""
    changed = bytearray(content)
    if content.startswith(b"\x89PNG"):
        for at in rng.sample((16, 20), rng.choice((1, 2))):
            changed[at : at + 4] = struct.pack(
                ">I", rng.choice((0, 30_000, 65_535, 1 << 20, (1 << 31) - 1))
            )
        return bytes(changed)
    for match in re.finditer(rb"\xff[\xc0-\xc2]", content):
        changed[match.start() + 5 : match.start() + 9] = struct.pack(
            ">HH", *rng.choices((0, 1, 30_000, 65_535), k=2)
        )
    return bytes(changed)


class _Entry(NamedTuple):
    """Positions of the parts of a tag."""

    at: int
    word: int
    array: tuple[int, int] | None

    @property
    def value_at(self) -> int:
        return self.at + 4 + self.word


class _Directory(NamedTuple):
    at: int
    word: int
    entries: list[_Entry]
    next_at: int


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def tiff_directories(content: bytes) -> list[_Directory]:
    """Every directory of a little-endian TIFF or BigTIFF, including those of sub-images."""
    big = content[2:4] == b"+\0"
    word, head = (8, 8) if big else (4, 2)
    waiting, found = [int.from_bytes(content[8:16] if big else content[4:8], "little")], []
    while waiting and len(found) < 50:
        at = waiting.pop(0)
        if not 0 < at < len(content) - head:
            continue
        n = int.from_bytes(content[at : at + head], "little")
        entries = []
        for index in range(min(n, 100)):
            here = at + head + index * (4 + 2 * word)
            tag, kind = struct.unpack_from("<HH", content, here)
            count = int.from_bytes(content[here + 4 : here + 4 + word], "little")
            value = int.from_bytes(content[here + 4 + word : here + 4 + 2 * word], "little")
            outside = SIZES.get(kind, 1) * count > word
            entries.append(_Entry(here, word, (value, SIZES.get(kind, 1)) if outside else None))
            if tag == 330:  # the tag of sub-directories
                starts = [value + i * word for i in range(min(count, 8))] if outside else []
                waiting += [int.from_bytes(content[at:][:word], "little") for at in starts]
                waiting += [] if outside else [value]
        next_at = at + head + n * (4 + 2 * word)
        found.append(_Directory(at, word, entries, next_at))
        waiting.append(int.from_bytes(content[next_at : next_at + word], "little"))
    return found


def _put(content: bytearray, at: int, width: int, value: int) -> None:
    if 0 <= at <= len(content) - width:
        content[at : at + width] = (value % (1 << (8 * width))).to_bytes(width, "little")


TIFF: tuple[Mutation, ...] = (lie_in_tags, lie_in_tags, lie_in_tags, loop_directories, *ANY_BYTES)
PICTURE: tuple[Mutation, ...] = (swell_picture, *ANY_BYTES)


def bomb_in_xml(content: bytes, rng: random.Random) -> bytes:
    """Replace an OME-TIFF's description by hostile XML of the same length, such as entities that
    grow exponentially.
    """
    start = content.find(b"<?xml")
    stop = content.find(b"</OME>", start) + 6
    if start < 0 or stop < 6:
        return lie_in_tags(content, rng)
    names = "abcdefghij"
    rows = [f'<!ENTITY {b} "{f"&{a};" * 9}">' for a, b in pairwise(names)]
    bombs = (
        f'<?xml version="1.0"?><!DOCTYPE O [<!ENTITY a "ha">{"".join(rows)}]><OME>&j;</OME>',
        '<?xml version="1.0"?><!DOCTYPE O [<!ENTITY x SYSTEM "file:///etc/passwd">]><OME>&x;</OME>',
        "<OME>" + "<Pixels>" * 80,
        '<OME><Image><Pixels SizeX="99999999999" SizeY="-1" PhysicalSizeX="1e999"/></Image></OME>',
    )
    bomb = rng.choice(bombs).encode()[: stop - start]
    return content[:start] + bomb.ljust(stop - start) + content[stop:]


def odd_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, drop or wrap values somewhere in a JSON document."""
    values = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        values = _odd_within(values, rng)
    return json.dumps(values).encode()


def _odd_within(value: object, rng: random.Random) -> object:
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = list(range(len(value)))
    if not keys or rng.random() < 0.15:
        return rng.choice(ODD_VALUES)
    key = rng.choice(keys)
    if rng.random() < 0.2:
        del value[key]
    elif rng.random() < 0.1 and isinstance(value, dict):
        value[rng.choice(ODD_CELLS)] = value.pop(key)
    else:
        value[key] = _odd_within(value[key], rng)
    return value


def deep_json(content: bytes, rng: random.Random) -> bytes:
    """Return JSON that is nested more deeply than any parser's stack."""
    return rng.choice((b"[", b'{"a":', b'{"type":"Feature","geometry":')) * rng.choice(
        (1000, 200_000)
    )


JSON: tuple[Mutation, ...] = (odd_json, odd_json, odd_json, deep_json, *ANY_BYTES)


def odd_cells(content: bytes, rng: random.Random) -> bytes:
    """Put unexpected values into cells of a table, or add cells to a row."""
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 2, 5))):
        row = rng.randrange(len(lines))
        cells = lines[row].split("\t")
        cells[rng.randrange(len(cells))] = rng.choice(ODD_CELLS)
        lines[row] = "\t".join(cells * rng.choice((1, 1, 1, 2)))
    return ("\n".join(lines) + "\n").encode(errors="replace")


TABLE: tuple[Mutation, ...] = (odd_cells, odd_cells, odd_cells, odd_cells, *ANY_BYTES)


def odd_yaml(content: bytes, rng: random.Random) -> bytes:
    """Change a setting's value, name or indentation, or add aliases that grow exponentially."""
    lines = content.decode().splitlines()
    row = rng.randrange(len(lines))
    name, colon, _ = lines[row].partition(":")
    attack = "!!python/object/apply:os.system ['touch escaped']"
    odd = rng.choice(("", "[", "{}", "-1", "1e999", attack, "*a", "null", "é"))
    laughs = "\n".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    line = lines[row]
    lines[row] = rng.choice(
        (f"{name}{colon} {odd}", "  " + line, "\t" + line, f"{name}x{colon} 1", line * 2)
    )
    if rng.random() < 0.2:
        lines.append(f"a: &a [x, x]\n{laughs}")
    return ("\n".join(lines) + "\n").encode()


YAML: tuple[Mutation, ...] = (odd_yaml, odd_yaml, odd_yaml, *ANY_BYTES)


def odd_archive(content: bytes, rng: random.Random) -> bytes:
    """Remove an array of an .npz, or replace it by garbage or by a header that declares a terabyte
    or more.
    """
    kind = rng.choice(("|b1", "<f8", "|O", "<U9"))
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (1048576, 1048576)}}"
    promise = b"\x93NUMPY\x01\x00v\x00" + header.encode().ljust(117) + b"\n"
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        victim = rng.choice(old.namelist())
        for name in old.namelist():
            if name != victim:
                new.writestr(name, old.read(name))
            elif rng.random() < 0.7:
                new.writestr(
                    name,
                    rng.choice(
                        (promise, old.read(name)[:60], bytes(1 << 24), b"", promise + bytes(99))
                    ),
                )
        if rng.random() < 0.2:
            new.writestr("../../escaped.npy", b"x")
    return result.getvalue()


ARCHIVE: tuple[Mutation, ...] = (odd_archive, odd_archive, odd_archive, *ANY_BYTES)


def odd_text_inside(content: bytes, rng: random.Random) -> bytes:
    """Change values in JSON inside a binary file, such as a model card, without changing the
    length.
    """
    positions = [
        match.span() for match in re.finditer(rb'"[a-z_]+": (?:[0-9.]+|"[^"]*"|\[|\{)', content)
    ]
    changed = bytearray(content)
    for start, stop in rng.sample(positions, min(len(positions), rng.choice((1, 2)))):
        colon = content.index(b":", start)
        width = stop - colon - 2
        odd = rng.choice((b"-1", b"0", b"9" * width, b'""', b"null", b"1e9", b"[]"))[:width]
        changed[colon + 2 : stop] = odd.ljust(width)
    return bytes(changed)


BINARY: tuple[Mutation, ...] = (odd_text_inside, odd_text_inside, odd_text_inside, *ANY_BYTES)
