"""The rules of legacy iptables as text. A table that is not there is not asked for, since asking would make it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from harness.errors import PermissionError_, TemporaryError, UnavailableError

PROGRAM, SECONDS = "iptables-legacy-save", 2.0
_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
_NAMES = Path("/proc/self/net/ip_tables_names")


async def table(name: str) -> str:
    """IPv4's; empty when the kernel has no such table. Raises HarnessError when that is not known, or it cannot be listed."""
    if name not in _names():
        return ""
    program = _program()
    try:
        process = await asyncio.create_subprocess_exec(
            program, "-t", name, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise UnavailableError(f"{program} cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(SECONDS):
            output, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise TemporaryError(f"{program} gives no answer within {SECONDS:g} s") from None
    if process.returncode:
        reason = said.decode(errors="replace").strip()[-300:] or f"status {process.returncode}"
        raise UnavailableError(f"{program} -t {name}: {reason}")
    return output.decode(errors="replace")


def _names() -> list[str]:
    """Of the tables that there are. The file is there when the kernel's module is."""
    try:
        return _NAMES.read_text().split()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise PermissionError_(f"{_NAMES} needs root", "run it with sudo") from None
    except OSError as error:
        raise UnavailableError(f"{_NAMES} cannot be read: {error.strerror}") from None


def _program() -> str:
    """One that reads legacy tables: `iptables-save` may be the program for nftables."""
    found = shutil.which(PROGRAM, path=_FOLDERS) or shutil.which("iptables-save", path=_FOLDERS)
    if found is None or "nft" in Path(found).resolve().name:
        raise UnavailableError(f"there are tables of legacy iptables, and no {PROGRAM} to read them with")
    return found
