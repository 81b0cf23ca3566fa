"""JSON as QuPath reads it: by Gson's lenient parser, which takes much that no other parser does.

Comments (``//``, ``#``, ``/* */``), single quotes, unquoted names and words, ``;`` for ``,``, ``=`` and ``=>`` for
``:``, and a comma before ``]``, after which Gson reads a null. It reads a word that is no JSON, as NaN, as a string.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"[^ \t\f\r\n/\\;#=\[\]{}:,]+")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_QUOTED = {quote: re.compile(rf"{quote}([^{quote}\\]*(?:\\.[^{quote}\\]*)*){quote}", re.DOTALL) for quote in "\"'"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", **{same: same for same in "\"'\\/\n"}}
_KEYWORDS = {"null": None, "true": True, "false": False}


def loads_lenient(text: bytes) -> Any:
    """Parse a document; an empty one is None.

    Raises:
        ValueError: Gson refuses it.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        characters = text.decode("utf-8", errors="replace").removeprefix("\ufeff")
    try:
        return json.loads(characters, parse_constant=str)  # fast, for what only lacks quotes around NaN
    except ValueError:
        return _Reader(characters).read_document()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class _Reader:
    def __init__(self, text: str):
        self._text, self._place = text, 0

    def read_document(self) -> Any:
        if not self._peek():
            return None
        try:
            document = self._read_value()
        except RecursionError as error:
            raise self._error("nested too deeply") from error
        if self._peek():
            raise self._error("text after the end of the document")
        return document

    def _read_value(self) -> Any:
        first = self._peek()
        if first == "{":
            return self._read_object()
        if first == "[":
            return self._read_array()
        if first and first in _QUOTED:
            return self._read_quoted(first)
        word = self._read_word()
        if word.lower() in _KEYWORDS:
            return _KEYWORDS[word.lower()]
        return orjson.loads(word) if _NUMBER.fullmatch(word) else word

    def _read_object(self) -> dict[str, Any]:
        self._place += 1
        values: dict[str, Any] = {}
        while self._peek() != "}" or values:
            first = self._peek()
            name = self._read_quoted(first) if first and first in _QUOTED else self._read_word()
            self._skip(":=", "expected ':'")
            if self._text[self._place - 1 : self._place + 1] == "=>":
                self._place += 1
            values[name] = self._read_value()
            if self._peek() == "}":
                break
            self._skip(",;", "an object does not end")
        self._place += 1
        return values

    def _read_array(self) -> list[Any]:
        self._place += 1
        values: list[Any] = []
        while self._peek() != "]" or values:
            values.append(None if self._peek() in {"]", ",", ";"} else self._read_value())
            if self._peek() == "]":
                break
            self._skip(",;", "a list does not end")
        self._place += 1
        return values

    def _read_word(self) -> str:
        word = _WORD.match(self._text, self._place)
        if not word:
            raise self._error("expected a value")
        self._place = word.end()
        return word[0]

    def _read_quoted(self, quote: str) -> str:
        quoted = _QUOTED[quote].match(self._text, self._place)
        if not quoted:
            raise self._error("a string does not end")
        self._place = quoted.end()
        return _ESCAPE.sub(self._unescape, quoted[1])

    def _unescape(self, escape: re.Match[str]) -> str:
        if escape[1]:
            return chr(int(escape[1], 16))
        if escape[2] not in _ESCAPED:
            raise self._error(f"unknown escape sequence '{escape[0]}'")
        return _ESCAPED[escape[2]]

    def _skip(self, expected: str, otherwise: str) -> None:
        if not (found := self._peek()) or found not in expected:
            raise self._error(otherwise)
        self._place += 1

    def _peek(self) -> str:
        """The next character after blanks and comments, "" at the end."""
        self._place = _BLANK.match(self._text, self._place).end()
        return self._text[self._place : self._place + 1]

    def _error(self, what: str) -> ValueError:
        line = self._text.count("\n", 0, self._place) + 1
        return ValueError(f"{what}: line {line} column {self._place - self._text.rfind(chr(10), 0, self._place)}")
