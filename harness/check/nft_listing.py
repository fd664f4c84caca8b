"""The JSON of `nft list ruleset` as chains, for one packet (libnftables-json(5)). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from harness.check.packet_filter import Chain, Packet, Rule, Truth, Verdict, all_of, from_network, negated
from harness.system.redirect_table import marks_of_table
from harness.values import IPNetwork

_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
    "return": Verdict.RETURN,
    "queue": Verdict.UNKNOWN,
    "synproxy": Verdict.UNKNOWN,
    "fwd": Verdict.UNKNOWN,
}
_NO_MATCH = {"counter", "log", "comment", "meta", "mangle", "notrack", "ct helper"}
_NOT_TCP = {"udp", "udplite", "icmp", "icmpv6", "igmp", "sctp", "dccp", "esp", "ah", "comp", "arp"}
_IPTABLES = {"raw", "mangle", "nat", "filter", "security"}
_VERSIONS = {"ip": 4, "icmp": 4, "ip6": 6, "icmpv6": 6}
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr")
"""By bit."""
Item = dict[str, Any]
_STRANGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What comes of an expression in a form that this module does not know, such as one of a newer nftables."""


def chains(listing: Iterable[Item], packet: Packet, but: frozenset[str] = frozenset()) -> dict[str, Chain]:
    """By name; only what filters packets of that version of IP (of 4 where both are meant), and no table of ours.

    `but`: tables, such as `ip filter`, that are read in another way.
    """
    families = ("ip6", "inet", "netdev") if packet.version == 6 else ("ip", "inet", "netdev")
    found: dict[str, Item] = {}
    rules: dict[str, list[Rule]] = {}
    for item in listing:
        if "chain" in item and not _passed_over(item["chain"], but):
            found[_name(item["chain"], item["chain"]["name"])] = item["chain"]
        elif "rule" in item and not _passed_over(item["rule"], but):
            name = _name(item["rule"], item["rule"]["chain"])
            rules.setdefault(name, []).extend(_rules_of(item["rule"], packet))
    return {
        name: Chain(
            name,
            tuple(rules.get(name, ())),
            str(chain.get("hook", "")) if chain["family"] in families and _counts(chain, packet) else "",
            priority if isinstance(priority := chain.get("prio", 0), int) else 0,
            chain.get("policy") == "drop",
        )
        for name, chain in found.items()
    }


def _rules_of(rule: Item, packet: Packet) -> tuple[Rule, ...]:
    try:
        return tuple(_rules(rule, packet))
    except _STRANGE as error:
        text = f"a rule in {rule['chain']} of a form that is not known here, handle {rule.get('handle')} ({error!r:.80})"
        return (Rule(None, Verdict.UNKNOWN, text=text),)


def of_iptables(listing: Iterable[Item], family: str) -> frozenset[str]:
    """The tables of that family (`ip`, `ip6`) with the names of iptables': whose they are, iptables-nft-save tells."""
    tables = (item["table"] for item in listing if "table" in item)
    return frozenset(f"{family} {table['name']}" for table in tables if table["family"] == family and table["name"] in _IPTABLES)


def _counts(chain: Item, packet: Packet) -> bool:
    """Whether it may drop packets, and on that link: a chain of the hook `ingress` is for some links only."""
    links = chain.get("dev", ())
    links = links if isinstance(links, list | tuple) else [links]
    return chain.get("type") in ("filter", None) and (not links or not packet.interface or packet.interface in links)


def _passed_over(item: Item, but: frozenset[str]) -> bool:
    return _ours(item) or f"{item['family']} {item['table']}" in but


def _ours(item: Item) -> bool:
    """Also of another workload of this machine."""
    return marks_of_table(item["table"]) is not None


def _name(item: Item, chain: str) -> str:
    return f"{item['family']} {item['table']} {chain}"


def _rules(rule: Item, packet: Packet) -> Iterator[Rule]:
    """One rule; none when it has no verdict, several for a verdict map."""
    matches: list[Truth] = []
    for expression in rule.get("expr", ()):
        ((kind, body),) = expression.items()
        if kind == "match":
            matches.append(_match(body, packet))
        elif kind in _VERDICTS:
            target = _name(rule, body["target"]) if kind in ("jump", "goto") else ""
            yield Rule(all_of(*matches), _VERDICTS[kind], target, f"{kind} by handle {rule.get('handle')} of {rule['chain']}")
        elif kind == "vmap":
            yield from _verdict_map(rule, body, matches, packet)
        elif kind not in _NO_MATCH:
            matches.append(None)


def _verdict_map(rule: Item, body: Item, matches: list[Truth], packet: Packet) -> Iterator[Rule]:
    data = body.get("data")
    entries = data.get("set", ()) if isinstance(data, dict) else ()
    for key, verdict in entries:
        ((kind, inner),) = verdict.items()
        if kind == "continue":
            continue
        target = _name(rule, inner["target"]) if kind in ("jump", "goto") else ""
        match = all_of(*matches, _match({"op": "==", "left": body["key"], "right": key}, packet))
        yield Rule(
            match, _VERDICTS.get(kind, Verdict.UNKNOWN), target, f"{kind} by handle {rule.get('handle')} of {rule['chain']}"
        )
    if not entries:
        text = f"the map of handle {rule.get('handle')} of {rule['chain']}"
        yield Rule(all_of(*matches, None), Verdict.UNKNOWN, text=text)


def _match(body: Item, packet: Packet) -> Truth:
    left, right = body["left"], body["right"]
    if not isinstance(left, dict):
        return None
    ((kind, what),) = left.items()
    if kind == "payload" and (found := _of_another_protocol(what, packet)) is False:
        return found
    if kind == "payload" and (what.get("protocol"), what.get("field")) == ("tcp", "flags"):
        return negated(_flags(body["op"], right), body["op"] in ("!=", "!"))
    read = {"payload": _payload, "meta": _meta, "ct": _ct, "fib": _fib, "exthdr": _extension, "&": _masked}.get(kind)
    return negated(read(what, right, packet), body["op"] in ("!=", "!")) if read else None


def _of_another_protocol(what: Item, packet: Packet) -> Truth:
    """False for a field that the packet does not have, whatever is asked of it."""
    protocol = what.get("protocol")
    other = protocol in _VERSIONS and not packet.may_be(_VERSIONS[protocol])
    return False if other or protocol in _NOT_TCP else None


def _payload(what: Item, right: Any, packet: Packet) -> Truth:
    protocol, field = what.get("protocol"), what.get("field")
    if protocol in ("tcp", "th") and field == "dport":
        return _any(right, lambda value: _in_ports(value, packet.port))
    if protocol not in ("ip", "ip6"):
        return None
    if field == "saddr":
        return _any(right, lambda value: _in_network(value, lambda network: from_network(packet, network)))
    if field == "daddr":
        return _any(right, lambda value: _in_network(value, packet.to))
    return _any(right, lambda value: value in ("tcp", 6)) if field in ("protocol", "nexthdr") else None


def _meta(what: Item, right: Any, packet: Packet) -> Truth:
    key = what.get("key")
    if key in ("iif", "iifname"):
        return _any(right, lambda value: packet.through(str(value), "*"))
    if key == "l4proto":
        return _any(right, lambda value: value in ("tcp", 6))
    if key in ("nfproto", "protocol"):
        names = {4: ("ipv4", "ip"), 6: ("ipv6", "ip6")}.get(packet.version or 0)
        return None if names is None else _any(right, lambda value: str(value) in names)
    if key == "pkttype":
        return _any(right, lambda value: value in ("host", "unicast"))
    return None


def _ct(what: Item, right: Any, packet: Packet) -> Truth:
    match what.get("key"):
        case "state":
            return _any(right, lambda value: value == "new")
        case "direction":
            return _any(right, lambda value: value == "original")
        case "status":
            return False
    return None


def _fib(what: Item, right: Any, packet: Packet) -> Truth:
    """The kind of its address, or whether there is a way back to the peer, which is looked at apart."""
    flags = what.get("flags", ())
    flags = [flags] if isinstance(flags, str) else flags
    if what.get("result") == "type" and "daddr" in flags:
        return _any(right, lambda value: value == "local")
    missing = right in (False, 0) and str(what.get("result")).startswith("oif") and "saddr" in flags
    return False if missing else None


def _extension(what: Item, right: Any, packet: Packet) -> Truth:
    """A header of IPv6 that a plain connection does not use."""
    return False


def _masked(what: Any, right: Any, packet: Packet) -> Truth:
    """The flags of TCP, of which the packet has SYN alone; the place in a fragmented packet, which it is not."""
    field, mask = what
    payload = field.get("payload", {}) if isinstance(field, dict) else {}
    match payload.get("protocol"), payload.get("field"):
        case "tcp", "flags":
            return (_names(mask) & {"syn"}) == _names(right)
        case "ip", "frag-off":
            return bool(right == 0)
    return None


def _flags(op: str, right: Any) -> Truth:
    """Whether the packet, which has SYN alone, has one of these flags (`in` and `!`), or exactly these, or those of a set's
    element.
    """
    if isinstance(right, str) and right.startswith("@"):
        return None
    if op in ("in", "!"):
        return "syn" in _names(right)
    values = right["set"] if isinstance(right, dict) and "set" in right else [right]
    return any(_names(value) == {"syn"} for value in values)


def _names(value: Any) -> set[str]:
    """Of flags: one, a list, a term with `|`, or their number."""
    if isinstance(value, int):
        return {name for bit, name in enumerate(_FLAGS) if value >> bit & 1}
    if isinstance(value, dict):
        value = next(iter(value.values()))
    if isinstance(value, list):
        return {name for one in value for name in _names(one)}
    return {value} if isinstance(value, str) else set()


def _any(right: Any, test: Any) -> Truth:
    """Whether one of the values of a set, a list, or a single value passes."""
    if isinstance(right, str) and right.startswith("@"):
        return None
    values = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    verdicts = [test(value.get("elem", {}).get("val", value) if isinstance(value, dict) else value) for value in values]
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _in_ports(value: Any, port: int) -> Truth:
    if isinstance(value, dict) and "range" in value:
        low, high = value["range"]
        return bool(low <= port <= high) if isinstance(low, int) and isinstance(high, int) else None
    return value == port if isinstance(value, int) else None


def _in_network(value: Any, test: Callable[[IPNetwork], Truth]) -> Truth:
    if isinstance(value, dict) and "prefix" in value:
        value = f"{value['prefix']['addr']}/{value['prefix']['len']}"
    try:
        return test(ipaddress.ip_network(value))
    except ValueError:
        return None


def published(listing: Iterable[Item], ports: frozenset[int]) -> tuple[tuple[int, ...], str]:
    """Those of the ports that a rule sends to another address (a container's), and why there may be more."""
    found = set()
    why = ""
    for item in listing:
        rule = item.get("rule")
        if not rule or _ours(rule):
            continue
        try:
            kinds = {kind for expression in rule.get("expr", ()) for kind in expression}
            if "dnat" in kinds:
                found |= {port for port in ports if all_of(*_matches(rule, port)) is not False and _names_port(rule, port)}
        except _STRANGE as error:
            why = f"a rule in {rule['chain']} has a form that is not known here ({error!r:.80})"
    return tuple(sorted(found)), why


def _matches(rule: Item, port: int) -> Iterator[Truth]:
    yield from (_match(e["match"], Packet(port)) for e in rule["expr"] if "match" in e)


def _names_port(rule: Item, port: int) -> bool:
    for expression in rule["expr"]:
        left = expression.get("match", {}).get("left", {})
        if isinstance(left, dict) and left.get("payload", {}).get("field") == "dport":
            return _any(expression["match"]["right"], lambda value: _in_ports(value, port)) is True
    return False
