"""systemd-resolved through its D-Bus interface (org.freedesktop.resolve1(5)), by busctl, and the link that carries our server.

resolved asks a link's servers for the link's domains. The link is our own, since those of others have owners; at its address our
dnsmasq listens. When the link goes, resolved forgets it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
from pathlib import Path
from typing import Any

from harness import dns_text, json_text
from harness.errors import TemporaryError, UnavailableError, UnreadableError
from harness.system import commands, files
from harness.system.netlink import Netlink

LINK = "meshexp-dns"
_NAME, _PATH = "org.freedesktop.resolve1", "/org/freedesktop/resolve1"
_LINK = f"{_NAME}.Link"
_STUB = "127.0.0.53"
DEMANDS = ("DNSOverTLS", "DNSSEC")
_FAMILIES = {4: 2, 6: 10}  # AF_INET, AF_INET6


async def in_use(resolv_conf: Path) -> bool:
    """Whether this machine's names go through a systemd-resolved that runs."""
    try:
        through = _STUB in dns_text.servers(files.text(resolv_conf) or "")
    except UnreadableError:
        return False  # what works with the file meets the same error, and says so
    with contextlib.suppress(UnavailableError, TemporaryError):
        bus = "org.freedesktop.DBus"
        return through and (await _busctl("call", bus, "/", bus, "NameHasOwner", "s", _NAME))["data"] == [True]
    return False


class Resolved:
    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def link(self) -> int | None:
        """The index of our link; None when it is not there. Raises UnavailableError when nobody can say."""
        try:
            return next((index for index, name in socket.if_nameindex() if name == LINK), None)
        except OSError as error:
            raise UnavailableError(f"looking for the link {LINK}: {error.strerror}") from None

    async def told(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """What resolved has for the link: servers, domains (`~` before those that are for routing only), and what it demands of
        answers, which is nothing unless the link or all of resolved is set otherwise."""
        digits = str(index)
        path = f"{_PATH}/link/_{ord(digits[0]):x}{digits[1:]}"  # sd_bus_path_encode(3): a first digit is escaped
        try:
            names = ("DNS", "Domains", *DEMANDS)
            servers, domains, *demands = [(await _busctl("get-property", _NAME, path, _LINK, name))["data"] for name in names]
        except (UnavailableError, TemporaryError):
            return (), (), ()  # resolved has been restarted, or does not run
        return (
            tuple(str(ipaddress.ip_address(bytes(address))) for _, address in servers),
            tuple(("~" if route_only else "") + name for name, route_only in domains),
            tuple(f"{what}={value}" for what, value in zip(DEMANDS, demands, strict=True) if value != "no"),
        )

    async def install(self, server: str, domains: tuple[str, ...]) -> None:
        """UnavailableError with what the kernel or resolved said."""
        index = str(await self._netlink.add_link(LINK))
        address = ipaddress.ip_address(server)
        packed = [str(len(address.packed)), *map(str, address.packed)]
        await _manager("SetLinkDNS", "ia(iay)", index, "1", str(_FAMILIES[address.version]), *packed)
        pairs = [(name.removeprefix("~"), "true" if name.startswith("~") else "false") for name in domains]
        await _manager("SetLinkDomains", "ia(sb)", index, str(len(pairs)), *itertools.chain.from_iterable(pairs))
        # All other names go on as before, also while the cluster's servers are dead; and nothing is asked by multicast here.
        await _manager("SetLinkDefaultRoute", "ib", index, "false")
        await _manager("SetLinkLLMNR", "is", index, "no")
        # Our dnsmasq is on this machine, and nobody signs the cluster's names: where all of resolved is set to demand TLS or
        # signatures, none would resolve.
        for what in DEMANDS:
            await _manager(f"SetLink{what}", "is", index, "no")

    async def remove(self) -> None:
        await self._netlink.delete_link(LINK)


async def _manager(method: str, *words: str) -> None:
    await _busctl("call", _NAME, _PATH, f"{_NAME}.Manager", method, *words)


async def _busctl(*words: str) -> dict[str, Any]:
    done = await commands.run("busctl", "--json=short", foreign=words)
    if done.code:
        raise UnavailableError(f"systemd-resolved: {done.reason}")
    try:
        return dict(json_text.loads(done.output)) if done.output.strip() else {}
    except (ValueError, TypeError) as error:
        raise UnavailableError(f"systemd-resolved answers in another form: {error}") from None
