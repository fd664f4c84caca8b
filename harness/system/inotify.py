"""Notices when somebody closes a file, without polling. By libc, as Python has no inotify."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import AsyncIterator
from pathlib import Path

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_CLOSED = 0x08 | 0x10  # IN_CLOSE_WRITE, IN_CLOSE_NOWRITE


async def closings(file: Path) -> AsyncIterator[None]:
    """Yields whenever `file`, which must exist, was closed by somebody; several at once may be told as one. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(_NONBLOCK_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def drain() -> None:
        """At once, however long the consumer takes, or the loop would call this again and again."""
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, 65536)
        woken.set()

    try:
        if library.inotify_add_watch(descriptor, os.fsencode(file), _CLOSED) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(file))
        loop.add_reader(descriptor, drain)
        while True:
            await woken.wait()
            woken.clear()
            yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
