"""Routes and addresses through pyroute2's synchronous API (the same from 0.7.2 to 0.9.7), one worker-thread call at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from harness.errors import PermissionError_, TemporaryError, UnavailableError
from harness.specs import Route

TABLE_MAIN = 254
T = TypeVar("T")


class Netlink:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def routes(self) -> tuple[Route, ...]:
        """All unicast routes of the main table, ours and others'."""
        return await self._call(_list_routes)

    async def add(self, route: Route) -> None:
        await self._call(lambda ip: _change(ip, "add", route))

    async def delete(self, route: Route) -> None:
        await self._call(lambda ip: _change(ip, "del", route))

    async def _call(self, function: Callable[[Any], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(_with_socket, function)


def _with_socket(function: Callable[[Any], T]) -> T:
    try:
        with IPRoute() as ip:
            return function(ip)
    except NetlinkError as error:
        text = error.args[1] if len(error.args) > 1 else str(error)
        if error.code == 1:
            raise PermissionError_(f"the kernel refused: {text}", "CAP_NET_ADMIN is needed") from None
        raise UnavailableError(f"the kernel refused: {text}") from None
    except OSError as error:
        raise TemporaryError(f"netlink: {error}") from None


def _list_routes(ip: Any) -> tuple[Route, ...]:
    return tuple(sorted(_routes(ip), key=lambda r: (r.network.version, r.network, str(r.via))))


def _routes(ip: Any) -> Iterator[Route]:
    for family, every in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
        for message in ip.get_routes(family=family, table=TABLE_MAIN):
            if message["type"] != 1:  # RTN_UNICAST
                continue
            destination, gateway = message.get_attr("RTA_DST"), message.get_attr("RTA_GATEWAY")
            network = ipaddress.ip_network(f"{destination}/{message['dst_len']}") if destination else ipaddress.ip_network(every)
            yield Route(network, ipaddress.ip_address(gateway) if gateway else None, message["proto"])


def _change(ip: Any, verb: str, route: Route) -> None:
    arguments = {"dst": str(route.network), "proto": route.protocol, "table": TABLE_MAIN}
    if route.via is not None:
        arguments["gateway"] = str(route.via)
    with _tolerating(17 if verb == "add" else 3):  # EEXIST, ESRCH: somebody was faster, and the world is as wanted
        ip.route(verb, family=_family(route.network.version), **arguments)


@contextlib.contextmanager
def _tolerating(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)
