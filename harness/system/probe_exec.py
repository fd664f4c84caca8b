"""A command as a probe: under a user of its own, without privileges, and gone with all that it started when its time is up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from harness import phrases
from harness.specs import User

_LAST_BYTES = 200  # of the output, as the reason


async def check(argv: tuple[str, ...], user: User) -> str:
    """Empty when it exits with 0. Raises OSError when it cannot be started. Cancelled, it leaves nothing running."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--", *argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        start_new_session=True,
        cwd="/",
    )
    try:
        tail = await _tail(process.stdout) if process.stdout else ""
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code == 0:
        return ""
    ended = f"signal {-code}" if code < 0 else f"status {code}"
    return f"{argv[0]} {phrases.ENDED} {ended}: {tail}".removesuffix(": ")


async def _tail(stream: asyncio.StreamReader) -> str:
    """The end of what it says, however much that is."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-_LAST_BYTES:]
    return kept.decode(errors="replace").strip().rpartition("\n")[2]
