"""The front of split DNS where no systemd-resolved runs: /etc/resolv.conf names our server, and then those that were there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import dns_text, phrases
from harness.errors import UnavailableError
from harness.specs import DnsSpec
from harness.system import files, units


@dataclass(frozen=True, slots=True)
class Write:
    """`front`: with our server in it, else as it was before."""

    text: str
    front: bool

    def __str__(self) -> str:
        return f"put {dns_text.LISTEN} first in resolv.conf" if self.front else "put resolv.conf back as it was"


class ResolvConf:
    name = "resolv.conf"
    listen = dns_text.LISTEN

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path, self._scratch = path, scratch
        self.file = str(path)

    async def observe(self) -> str:
        return files.text(self._path) or ""

    def diff(self, desired: DnsSpec | None, observed: str) -> tuple[Write, ...]:
        before = dns_text.original(observed)
        text = before if desired is None else dns_text.resolv_conf(before, desired)
        return (Write(text, desired is not None),) if text != observed else ()

    async def apply(self, action: Write) -> None:
        """UnavailableError when it cannot be written; it is not made where there is none."""
        if self._path.is_symlink() and not self._path.exists():
            raise UnavailableError(f"{self._path} is a link that {phrases.DANGLING}: {self._path.readlink()}")
        await units.overwrite(self._path, action.text, self._scratch)

    def upstream(self, observed: str) -> tuple[str, ...]:
        return dns_text.servers(dns_text.original(observed))
