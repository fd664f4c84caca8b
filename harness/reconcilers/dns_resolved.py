"""The front of split DNS where systemd-resolved runs: our dnsmasq and our domain, on a link of our own."""

from __future__ import annotations

from dataclasses import dataclass

from harness.specs import DnsSpec
from harness.system.netlink import DUMMY_ADDRESS
from harness.system.resolved import LINK, Resolved


@dataclass(frozen=True, slots=True)
class Observed:
    """What resolved has for the link; domains with `~` before those that are for routing only."""

    link: int | None
    servers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    demands: tuple[str, ...] = ()
    """What it wants of our server and has to do without, such as TLS."""


@dataclass(frozen=True, slots=True)
class Install:
    domains: tuple[str, ...]

    def __str__(self) -> str:
        return f"have systemd-resolved ask {DUMMY_ADDRESS} for {' '.join(self.domains)}, on the link {LINK}"


@dataclass(frozen=True, slots=True)
class Remove:
    def __str__(self) -> str:
        return f"remove the link {LINK}"


class ResolvedFront:
    name = "systemd-resolved"
    listen = DUMMY_ADDRESS
    file = "/etc/resolv.conf"

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved

    async def observe(self) -> Observed:
        link = self._resolved.link()
        return Observed(None) if link is None else Observed(link, *await self._resolved.told(link))

    def diff(self, desired: DnsSpec | None, observed: Observed) -> tuple[Install | Remove, ...]:
        if desired is None:
            return (Remove(),) if observed.link is not None else ()
        domains = (*desired.search, f"~{desired.domain}")
        return (
            () if (observed.servers, observed.domains, observed.demands) == ((self.listen,), domains, ()) else (Install(domains),)
        )

    async def apply(self, action: Install | Remove) -> None:
        if isinstance(action, Install):
            await self._resolved.install(self.listen, action.domains)
        else:
            await self._resolved.remove()

    def upstream(self, observed: Observed) -> tuple[str, ...]:
        """resolved asks other servers for other names by itself."""
        return ()
