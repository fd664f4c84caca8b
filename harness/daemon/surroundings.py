"""What of this machine may change at any moment. Not in `machine`, which the head start imports before pyroute2."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from harness import route_clashes
from harness.config import neighbours, schema
from harness.daemon import machine
from harness.errors import HarnessError
from harness.known import Machine
from harness.paths import Paths
from harness.specs import Route
from harness.system import tcp_sockets
from harness.system.netlink import Netlink
from harness.values import IPAddress


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
            return await with_subnets(found, before.subnets), True
        return await with_subnets(await machine.look_at_network(config, before), before.subnets), False

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


async def with_subnets(found: Machine, before: tuple[Route, ...] = ()) -> Machine:
    """With the subnets of its own links. While the routes cannot be listed, which their condition says, those from `before`."""
    try:
        return replace(found, subnets=route_clashes.own_subnets(await Netlink().routes()))
    except HarnessError:
        return replace(found, subnets=before)
