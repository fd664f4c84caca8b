"""Routes and addresses through pyroute2's synchronous API (the same from 0.7.2 to 0.9.7), one worker-thread call at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from harness.errors import PermissionError_, TemporaryError, UnavailableError
from harness.route_ways import Way
from harness.specs import ROUTE_PROTOCOL, Route, Rule, Silent
from harness.values import IPAddress

TABLE_LOCAL = 255
RTN_LOCAL = 2
RULE_PRIORITY = 32077  # before main's 32766; the number is the mark of our routes
NUD_INCOMPLETE, NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_FAILED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NTF_USE = 0x01
# Reserved for interfaces that need some address (RFC 7600, section 6). systemd-resolved passes over a link without one.
DUMMY_ADDRESS = "192.0.0.8"
T = TypeVar("T")


class Netlink:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def routes(self) -> tuple[Route, ...]:
        """All unicast routes, ours and others'."""
        return await self._call(_list_routes)

    async def addresses(self) -> frozenset[IPAddress]:
        """This machine's own, of all links."""
        return await self._call(_list_addresses)

    async def look(self) -> tuple[tuple[Route, ...], frozenset[Rule], Silent]:
        """All unicast routes, our rules, and what `silent` tells, over one socket: each costs about a millisecond."""
        return await self._call(lambda ip: (_list_routes(ip), _list_rules(ip), _silent(ip)))

    async def ways(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, Way]:
        """Where the kernel would send a packet to each, all rules and tables considered."""
        wanted = tuple(addresses)
        return await self._call(lambda ip: {address: _way(ip, address) for address in wanted}) if wanted else {}

    async def change(self, verb: str, what: Route | Rule) -> None:
        """`verb`: add, replace or delete."""
        verb = "del" if verb == "delete" else verb
        await self._call(lambda ip: _change(ip, verb, what) if isinstance(what, Route) else _change_rule(ip, verb, what))

    async def silent(self) -> Silent:
        """Addresses that the kernel looked for on their link for 3 s without finding them; those that it is looking for."""
        return await self._call(_silent)

    async def ask(self, nodes: tuple[IPAddress, ...]) -> None:
        """Has the kernel look for each on its link: it asks three times, one second apart."""
        await self._call(lambda ip: _ask(ip, nodes))

    async def add_link(self, name: str) -> int:
        """The index of a link of that name, which is up, has an address, and leads nowhere; made unless it is there."""
        return await self._call(lambda ip: _add_link(ip, name))

    async def delete_link(self, name: str) -> None:
        await self._call(lambda ip: [ip.link("del", index=index) for index in ip.link_lookup(ifname=name)])

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


def _list_addresses(ip: Any) -> frozenset[IPAddress]:
    found = (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in ip.get_addr())
    return frozenset(ipaddress.ip_address(text) for text in found if text)


def _list_routes(ip: Any) -> tuple[Route, ...]:
    return tuple(sorted(_routes(ip), key=lambda r: (r.network.version, r.network, str(r.via))))


def _routes(ip: Any) -> Iterator[Route]:
    names = functools.cache(_link_name)  # of this listing: a link may be renamed
    for family, every in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
        for message in ip.get_routes(family=family):
            attribute, table = message.get_attr, message.get_attr("RTA_TABLE") or message["table"]
            if message["type"] != 1 or table == TABLE_LOCAL:  # RTN_UNICAST
                continue
            hops = [hop.get_attr("RTA_GATEWAY") for hop in attribute("RTA_MULTIPATH") or ()]
            gateway = attribute("RTA_GATEWAY") or next((hop for hop in hops if hop), None)
            network = ipaddress.ip_network(f"{attribute('RTA_DST')}/{message['dst_len']}" if attribute("RTA_DST") else every)
            source = attribute("RTA_PREFSRC") if message["proto"] == ROUTE_PROTOCOL else None
            via, own = (ipaddress.ip_address(text) if text else None for text in (gateway, source))
            link = names(attribute("RTA_OIF"))
            yield Route(network, via, message["proto"], attribute("RTA_PRIORITY") or 0, table, own, link=link)


def _link_name(index: int | None) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # it has just gone, and its routes with it
        return ""


def _way(ip: Any, address: IPAddress) -> Way:
    try:
        found = next(iter(ip.route("get", family=_family(address.version), dst=str(address))))
    except NetlinkError as error:
        text = error.args[1] if len(error.args) > 1 else str(error)
        return Way(f"nowhere ({text})")
    gateway, link = found.get_attr("RTA_GATEWAY"), _link_name(found.get_attr("RTA_OIF"))
    via = ipaddress.ip_address(gateway) if gateway else None
    own = found.get_attr("RTA_PREFSRC")
    source = ipaddress.ip_address(own) if own else None
    text = (f"via {via} " if via else "") + f"dev {link}"
    return Way(text, via, link, local=found["type"] == RTN_LOCAL, source=source)


def _change(ip: Any, verb: str, route: Route) -> None:
    arguments = {"dst": str(route.network), "proto": route.protocol, "table": route.table, "priority": route.metric}
    if route.via is not None:
        arguments["gateway"] = str(route.via)
    if route.source is not None:
        arguments["prefsrc"] = str(route.source)
    with _tolerating(errno.ESRCH if verb == "del" else errno.EEXIST):  # somebody was faster, and the world is as wanted
        ip.route(verb, family=_family(route.network.version), **arguments)


def _list_rules(ip: Any) -> frozenset[Rule]:
    """Ours only."""
    found = ((version, rule) for version in (4, 6) for rule in ip.get_rules(family=_family(version)))
    ours = ((version, rule) for version, rule in found if rule.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL)
    return frozenset(Rule(rule.get_attr("FRA_TABLE"), version) for version, rule in ours)


def _change_rule(ip: Any, verb: str, rule: Rule) -> None:
    with _tolerating(errno.ENOENT if verb == "del" else errno.EEXIST):
        ip.rule(verb, family=_family(rule.version), table=rule.table, priority=RULE_PRIORITY, protocol=ROUTE_PROTOCOL)


def _silent(ip: Any) -> Silent:
    return frozenset(_neighbours(ip, NUD_FAILED)), frozenset(_neighbours(ip, NUD_INCOMPLETE))


def _neighbours(ip: Any, state: int) -> Iterator[IPAddress]:
    for version in (4, 6):
        for neighbour in ip.get_neighbours(family=_family(version)):
            if neighbour["state"] & state:
                yield ipaddress.ip_address(neighbour.get_attr("NDA_DST"))


def _ask(ip: Any, nodes: tuple[IPAddress, ...]) -> None:
    for node in nodes:
        with _tolerating(errno.ENETUNREACH, errno.ENOENT):  # its link, or its entry, has just gone: the next round sees that
            _ask_one(ip, node)


def _ask_one(ip: Any, node: IPAddress) -> None:
    family = _family(node.version)
    way = next(iter(ip.route("get", family=family, dst=str(node))))
    if way.get_attr("RTA_GATEWAY"):
        return
    entry = {"family": family, "dst": str(node), "ifindex": way.get_attr("RTA_OIF")}
    states = [n["state"] for n in ip.get_neighbours(family=family) if n.get_attr("NDA_DST") == str(node)]
    if any(state & (NUD_REACHABLE | NUD_STALE | NUD_DELAY) for state in states):
        ip.neigh("change", state=NUD_PROBE, **entry)
    elif not any(state & (NUD_PROBE | NUD_INCOMPLETE) for state in states):
        ip.neigh("replace", flags=NTF_USE, state=0, **entry)


def _add_link(ip: Any, name: str) -> int:
    if not ip.link_lookup(ifname=name):
        try:
            ip.link("add", ifname=name, kind="dummy")
        except NetlinkError as error:
            if error.code != errno.EOPNOTSUPP:
                raise
            ip.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}-0"})  # kernels without the dummy module
    for index in ip.link_lookup(ifname=f"{name}-0"):
        ip.link("set", index=index, state="up")
    (index,) = ip.link_lookup(ifname=name)
    ip.link("set", index=index, state="up")
    with _tolerating(errno.EEXIST):
        ip.addr("add", index=index, address=DUMMY_ADDRESS, prefixlen=32)
    return int(index)


@contextlib.contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)
