"""The JSON of `nft list ruleset` as chains, for one packet (libnftables-json(5)). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from harness.check.packet_filter import Chain, Packet, Rule, Truth, Verdict, all_of, from_network, negated
from harness.system.redirect_table import marks_of_table

_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
    "return": Verdict.RETURN,
    "queue": Verdict.ACCEPT,
}
_NO_MATCH = {"counter", "log", "comment", "meta", "mangle", "notrack", "ct helper"}
_VERSIONS = {"ip": 4, "icmp": 4, "ip6": 6, "icmpv6": 6}
Item = dict[str, Any]


def chains(listing: Iterable[Item], packet: Packet) -> dict[str, Chain]:
    """By name; only what filters packets of that version of IP (of 4 where both are meant), and no table of ours."""
    families = ("ip6", "inet") if packet.version == 6 else ("ip", "inet")
    found: dict[str, Item] = {}
    rules: dict[str, list[Rule]] = {}
    for item in listing:
        if "chain" in item and not _ours(item["chain"]):
            found[_name(item["chain"], item["chain"]["name"])] = item["chain"]
        elif "rule" in item and not _ours(item["rule"]):
            name = _name(item["rule"], item["rule"]["chain"])
            rules.setdefault(name, []).extend(_rules(item["rule"], packet))
    return {
        name: Chain(
            name,
            tuple(rules.get(name, ())),
            str(chain.get("hook", "")) if chain.get("type") in ("filter", None) and chain["family"] in families else "",
            int(chain.get("prio", 0)),
            chain.get("policy") == "drop",
        )
        for name, chain in found.items()
    }


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
            yield Rule(all_of(*matches), _VERDICTS[kind], target, f"{kind} by rule {rule.get('handle')} of {rule['chain']}")
        elif kind == "vmap":
            yield from _verdict_map(rule, body, matches, packet)
        elif kind not in _NO_MATCH:
            matches.append(None)


def _verdict_map(rule: Item, body: Item, matches: list[Truth], packet: Packet) -> Iterator[Rule]:
    data = body.get("data")
    entries = data.get("set", ()) if isinstance(data, dict) else ()
    for key, verdict in entries:
        ((kind, inner),) = verdict.items()
        target = _name(rule, inner["target"]) if kind in ("jump", "goto") else ""
        match = all_of(*matches, _match({"op": "==", "left": body["key"], "right": key}, packet))
        yield Rule(match, _VERDICTS.get(kind, Verdict.RETURN), target, f"{kind} by rule {rule.get('handle')} of {rule['chain']}")
    if not entries:
        yield Rule(None, Verdict.ACCEPT, text="a map that is not read here")


def _match(body: Item, packet: Packet) -> Truth:
    negate, left, right = body["op"] == "!=", body["left"], body["right"]
    if not isinstance(left, dict):
        return None
    ((kind, what),) = left.items()
    if kind == "payload" and what.get("protocol") in ("tcp", "th") and what.get("field") == "dport":
        return negated(_any(right, lambda value: _in_ports(value, packet.port)), negate)
    if kind == "payload" and what.get("protocol") in _VERSIONS and not packet.may_be(_VERSIONS[what["protocol"]]):
        return False
    if kind == "payload" and what.get("field") == "saddr" and what.get("protocol") in ("ip", "ip6"):
        return negated(_any(right, lambda value: _from(value, packet)), negate)
    if kind == "payload" and what.get("protocol") in ("udp", "icmp", "icmpv6", "sctp", "dccp"):
        return False
    if kind == "meta" and what.get("key") in ("iif", "iifname"):
        return negated(_any(right, lambda value: False if value == "lo" else None), negate)
    if (kind == "meta" and what.get("key") == "l4proto") or (kind == "payload" and what.get("field") in ("protocol", "nexthdr")):
        return negated(_any(right, lambda value: value in ("tcp", 6)), negate)
    if kind == "meta" and what.get("key") in ("nfproto", "protocol"):
        names = {4: ("ipv4", "ip"), 6: ("ipv6", "ip6")}.get(packet.version or 0)
        return None if names is None else negated(_any(right, lambda value: str(value) in names), negate)
    if kind == "ct" and what.get("key") == "state":
        return negated(_any(right, lambda value: value == "new"), negate)
    if kind == "ct" and what.get("key") == "status":
        return negated(False, negate)
    return None


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


def _from(value: Any, packet: Packet) -> Truth:
    if isinstance(value, dict) and "prefix" in value:
        value = f"{value['prefix']['addr']}/{value['prefix']['len']}"
    try:
        return from_network(packet, ipaddress.ip_network(value))
    except ValueError:
        return None


def published(listing: Iterable[Item], ports: frozenset[int]) -> tuple[int, ...]:
    """Those of the ports that a rule sends to another address (a container's)."""
    found = set()
    for item in listing:
        rule = item.get("rule")
        if not rule or _ours(rule):
            continue
        kinds = {kind for expression in rule.get("expr", ()) for kind in expression}
        if "dnat" in kinds:
            found |= {port for port in ports if all_of(*_matches(rule, port)) is not False and _names_port(rule, port)}
    return tuple(sorted(found))


def _matches(rule: Item, port: int) -> Iterator[Truth]:
    yield from (_match(e["match"], Packet(port)) for e in rule["expr"] if "match" in e)


def _names_port(rule: Item, port: int) -> bool:
    for expression in rule["expr"]:
        left = expression.get("match", {}).get("left", {})
        if isinstance(left, dict) and left.get("payload", {}).get("field") == "dport":
            return _any(expression["match"]["right"], lambda value: _in_ports(value, port)) is True
    return False
