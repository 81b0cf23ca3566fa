"""What this process does with memory that it no longer needs."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE = 4 << 20  # bytes: the masks of a large slide, not the blocks that its pixels are read in
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>


def return_large_arrays() -> None:
    """Let large arrays go back to the system when they are freed, for the rest of this process.

    Left alone, glibc learns to keep arrays of up to 32 MB for the next ones; a step that frees a few masks of a slide
    then holds them all until it ends. Does nothing where the C library is another.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)
