"""The rules of iptables as text: legacy iptables' from its own tables, iptables-nft's as its own program reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.errors import PermissionError_, UnavailableError
from harness.rules import Family
from harness.system import commands

SECONDS = 2.0
_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
_NAMES = {Family.IPV4: Path("/proc/self/net/ip_tables_names"), Family.IPV6: Path("/proc/self/net/ip6_tables_names")}
_PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


async def legacy(name: str, family: Family) -> str:
    """One table. Empty when the kernel has none of that name, which is not asked for then, since asking would make it.

    Raises HarnessError when that is not known, or the table cannot be listed.
    """
    if name not in _names(_NAMES[family]):
        return ""
    return await _output(_program(_PROGRAMS[family], "legacy"), "-t", name)


async def nft(family: Family) -> str:
    """Every table of iptables-nft that its program understands. Raises HarnessError when it is not there, or fails.

    The kernel's JSON says only the name of a match such as conntrack or multiport; this program alone knows what it asks for.
    """
    return await _output(_program(_PROGRAMS[family], "nft"))


async def _output(program: str, *words: str) -> str:
    done = await commands.run(program, *words, seconds=SECONDS)
    if done.code:
        raise UnavailableError(f"{' '.join((program, *words))}: {done.reason[-300:]}")
    return done.text


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


def _program(base: str, kind: str) -> str:
    """`iptables-legacy-save`, or iptables-save where that is of the same kind: it is a link to the program of one of both."""
    own = f"{base}-{kind}-save"
    found = shutil.which(own, path=_FOLDERS) or shutil.which(f"{base}-save", path=_FOLDERS)
    if found is None or ("nft" in Path(found).resolve().name) is not (kind == "nft"):
        raise UnavailableError(f"there are tables of {kind} iptables, and no {own} to read them with")
    return found
