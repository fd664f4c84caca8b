"""One change of the redirect at a time on a machine: the daemon's and the command line's."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path

from harness.errors import TemporaryError, UnwritableError
from harness.system import files

_RETRY_SECONDS = 0.05


@contextlib.asynccontextmanager
async def exclusive(file: Path, seconds: float) -> AsyncIterator[None]:
    """Holds `file` (only root can open it). A file system that takes no lock file has no second harness either, and is let pass.

    Raises TemporaryError when another change has not ended after `seconds`, and UnwritableError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = files.open_lock(file)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise UnwritableError(file, error) from None
        yield
        return
    with held:
        await _acquire(held.fileno(), seconds)
        yield


async def _acquire(descriptor: int, seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            files.take(descriptor)
            return
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise TemporaryError("another change of the redirect is under way", "try again in a few seconds") from None
            await asyncio.sleep(_RETRY_SECONDS)
