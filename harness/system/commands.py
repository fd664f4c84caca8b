"""The commands of other packages that are run and waited for: one runner, and one table of how each takes its words.

A word that comes from elsewhere, such as a name that the controller tells, must not become an option. So foreign words are given
apart: they follow `--` where the command knows it, and else none of them may begin with a hyphen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import TemporaryError, UnavailableError

ANSWER_SECONDS = 20.0
MOST_BYTES = 64 << 20
"""Of what a command says. The largest is iptables-save of a node with tens of thousands of rules: some MiB."""
KNOWS_END = {
    "busctl": True,
    "systemctl": True,
    "systemd-run": True,
    "openssl": False,  # its foreign words are values of options, and paths
    "iptables-save": False,
    "iptables-legacy-save": False,
    "iptables-nft-save": False,
    "ip6tables-save": False,
    "ip6tables-legacy-save": False,
    "ip6tables-nft-save": False,
}
"""Whether `--` ends its options."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command has ended: `said` is what it wrote to its standard error."""

    code: int
    output: bytes = field(repr=False)
    said: str

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")

    @property
    def reason(self) -> str:
        """Why it failed, in its own words."""
        return self.said.strip() or self.text.strip() or f"it ended with exit status {self.code}"


def line(program: str, options: Sequence[str], foreign: Sequence[str]) -> tuple[str, ...]:
    """Its words. Raises UnavailableError for a foreign word that it would take for an option."""
    if KNOWS_END[Path(program).name]:
        return (program, *options, *(("--", *foreign) if foreign else ()))
    for word in foreign:
        if word.startswith("-"):
            raise UnavailableError(f"{program} would take {word:.60} for an option", "give it a name that begins with no hyphen")
    return (program, *options, *foreign)


async def run(
    program: str, *options: str, foreign: Sequence[str] = (), seconds: float = ANSWER_SECONDS, most: int = MOST_BYTES
) -> Done:
    """Raises UnavailableError when it cannot be started or says more than `most` bytes, TemporaryError when it takes longer."""
    words = line(program, options, foreign)
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _not_started(program, error) from None
    try:
        async with asyncio.timeout(seconds):
            output, said = await asyncio.gather(_read(process, process.stdout, most), _read(process, process.stderr, most))
            await process.wait()
    except TimeoutError:
        raise TemporaryError(f"{' '.join(words[:3])} gives no answer within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            with contextlib.suppress(TimeoutError):  # a process that it started may keep its pipes open
                async with asyncio.timeout(1.0):
                    await asyncio.gather(_read(process, process.stdout, 0), _read(process, process.stderr, 0))
                    await process.wait()
    if max(len(output), len(said)) > most:
        raise UnavailableError(f"{program} says more than {most} bytes")
    return Done(process.returncode or 0, output, said.decode(errors="replace"))


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None, most: int) -> bytes:
    """Returns at most a little more than `most` bytes: then it kills the command and drops the rest. It reads to the end, since
    asyncio reports the end of a process only after its pipes have ended."""
    found = bytearray()
    while stream is not None and (chunk := await stream.read(1 << 16)):
        if len(found) > most:
            continue
        found += chunk
        if len(found) > most and process.returncode is None:
            process.kill()
    return bytes(found)


def run_blocking(program: str, *options: str, foreign: Sequence[str] = (), seconds: float = ANSWER_SECONDS) -> Done:
    """As `run`, for a command line of ours or a thread, and for commands with short output."""
    words = line(program, options, foreign)
    try:
        done = subprocess.run(
            words, env=_environment(), capture_output=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise _not_started(program, error) from None
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"{' '.join(words[:3])} gives no answer within {seconds:g} s") from None
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def _environment() -> dict[str, str]:
    """systemd-run would report to our own service manager, which takes no word but the daemon's and logs a line about it."""
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


def _not_started(program: str, error: OSError) -> UnavailableError:
    if isinstance(error, FileNotFoundError):
        return UnavailableError(f"{program} is not installed")
    return UnavailableError(f"{program} cannot be started: {error.strerror}")
