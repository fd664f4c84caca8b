"""The rules of legacy iptables as text. A table that is not there is not asked for, since asking would make it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from harness.errors import PermissionError_, TemporaryError, UnavailableError
from harness.rules import Family

SECONDS = 2.0
_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
_NAMES = {Family.IPV4: Path("/proc/self/net/ip_tables_names"), Family.IPV6: Path("/proc/self/net/ip6_tables_names")}
_PROGRAMS = {Family.IPV4: ("iptables-legacy-save", "iptables-save"), Family.IPV6: ("ip6tables-legacy-save", "ip6tables-save")}


async def table(name: str, family: Family) -> str:
    """Empty when the kernel has no such table. Raises HarnessError when that is not known, or it cannot be listed."""
    if name not in _names(_NAMES[family]):
        return ""
    program = _program(*_PROGRAMS[family])
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


def _names(file: Path) -> list[str]:
    """Of the tables that there are. The file is there when the kernel's module is."""
    try:
        return file.read_text().split()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise PermissionError_(f"{file} needs root", "run it with sudo") from None
    except OSError as error:
        raise UnavailableError(f"{file} cannot be read: {error.strerror}") from None


def _program(legacy: str, other: str) -> str:
    """One that reads legacy tables: the `other` may be the program for nftables."""
    found = shutil.which(legacy, path=_FOLDERS) or shutil.which(other, path=_FOLDERS)
    if found is None or "nft" in Path(found).resolve().name:
        raise UnavailableError(f"there are tables of legacy iptables, and no {legacy} to read them with")
    return found
