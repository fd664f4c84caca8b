"""What of this machine may change at any moment. Not in `machine`, which the head start imports before pyroute2."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import dns_text, route_clashes
from harness.config import neighbours, schema
from harness.daemon import machine
from harness.errors import HarnessError
from harness.known import Machine
from harness.paths import Paths
from harness.specs import ROUTE_PROTOCOL
from harness.system import files, redirect_exclusions, tcp_sockets
from harness.system.netlink import Netlink
from harness.values import IPAddress, unmapped

RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""The DNS servers that systemd-resolved asks; resolv.conf names resolved itself."""


class Surroundings:
    """What was seen the last time: of the files of this machine's other workloads, and what hindered a look at them."""

    def __init__(self, paths: Paths, log: Any) -> None:
        self._paths, self._log = paths, log
        self._seen: tuple[tuple[str, int], ...] = ()
        self._fault = ""

    async def look_again(self, config: schema.Config, before: Machine) -> tuple[Machine, bool]:
        """And whether what the other workloads have for themselves was found out just now: their files have changed."""
        stamp = neighbours.stamp(self._paths)
        found = await self._look_at_all(config, before) if stamp != self._seen else None
        if found is not None:
            self._seen = stamp
            return await with_networks(found, self._paths, before), True
        return await with_networks(await machine.look_at_network(config, before), self._paths, before), False

    async def _look_at_all(self, config: schema.Config, before: Machine) -> Machine | None:
        """None when it fails: the next look, at the latest the timer's, tries it again. Meanwhile what was known stays."""
        try:
            found = await machine.look(config, self._paths, before.anchors_pem, before)
        except HarnessError as error:
            if error.message != self._fault:
                text = "what this machine's other workloads have has changed, and cannot be looked at yet"
                self._log.error(text, reason=error.message, hint=error.hint)
            self._fault = error.message
            return None
        self._fault = ""
        return found


async def leave_addresses(former: frozenset[IPAddress], now: Machine, log: Any) -> frozenset[IPAddress]:
    """The proxy's connections from an address that is gone lead nowhere, and it would not notice for minutes: now they are ended.

    Returns the former addresses that this machine still has.
    """
    left = former - set(now.addresses)
    if not left:
        return left
    try:
        there = await Netlink().addresses()
    except HarnessError:
        return left  # nobody knows which of them are gone: the next look asks again
    if gone := left - there:
        await _end_connections(gone, now, log)
    return left & there


async def _end_connections(gone: frozenset[IPAddress], now: Machine, log: Any) -> None:
    try:
        ended = await asyncio.to_thread(tcp_sockets.end_connections, now.user.uid, gone)
        log.info("the proxy connects again from the new address", ended=ended)
    except HarnessError as error:
        advice = "`meshexp proxy restart` has the proxy connect again"
        log.warning("the proxy keeps connections from an address that is gone", reason=error.message, hint=advice)


async def with_networks(found: Machine, paths: Paths, before: Machine | None = None) -> Machine:
    """With what its own links, default routes and resolv.conf have. What cannot be looked at, which other conditions say, is as
    in `before`."""
    before = before or found
    try:
        routes = await Netlink().routes()
    except HarnessError:
        return replace(
            found,
            subnets=before.subnets,
            gateways=before.gateways,
            resolvers=before.resolvers,
            ssh_peers=before.ssh_peers,
        )
    defaults = (route.via for route in routes if not route.network.prefixlen and route.protocol != ROUTE_PROTOCOL)
    return replace(
        found,
        subnets=route_clashes.own_subnets(routes),
        gateways=tuple(dict.fromkeys(via for via in defaults if via is not None)),
        resolvers=_resolvers(paths, before.resolvers),
        ssh_peers=await asyncio.to_thread(_ssh_peers, before.ssh_peers),
    )


def _ssh_peers(before: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    """Of the SSH sessions that stand now, without those of this machine with itself."""
    try:
        ports = redirect_exclusions.ssh().ports
        found = [one.peer for one in tcp_sockets.sockets((tcp_sockets.ESTABLISHED,)) if any(one.port in own for own in ports)]
    except HarnessError:
        return before
    peers = {unmapped(peer) for peer in found if peer is not None}
    return tuple(sorted((peer for peer in peers if not peer.is_loopback), key=str))


def _resolvers(paths: Paths, before: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    """Without ours, and without those on this machine itself, such as systemd-resolved: what that one asks is in its own file."""
    found: list[IPAddress] = []
    for path in (paths.resolv_conf, RESOLVED_CONF):
        try:
            text = files.text(path)
        except HarnessError:
            return before
        for server in dns_text.servers(dns_text.original(text)) if text is not None else ():
            with contextlib.suppress(ValueError):
                address = ipaddress.ip_address(server.partition("%")[0])
                found += [] if address.is_loopback else [address]
    return tuple(dict.fromkeys(found))
