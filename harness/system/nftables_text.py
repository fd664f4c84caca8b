"""Rule records as nft text, and nft's JSON listing back as records. No I/O.

The text is what `plan` prints and, unchanged, what the adapter hands to libnftables: the two cannot differ.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator
from itertools import groupby, product
from typing import Any

from harness.rules import Family, Hook, Rule, Rules, merge_networks, merge_ports
from harness.system.redirect_table import FIRST, Marks, TableState
from harness.values import IPNetwork, PortRange

PRIORITY = -110
"""Ahead of Docker's and every iptables chain's -100 (dstnat): the first NAT decision wins."""
TRIAL_SET = "trial"
_SYN = ("fin", "syn", "rst", "ack")
_BASE = {Hook.INBOUND: "prerouting", Hook.OUTBOUND: "output"}
GUARD = "guard"
"""The chain after NAT that drops what NAT has passed over. Connection tracking keeps the decision "no NAT" of an attempt that
began before our rules: without this chain its next SYN would still go out in plaintext."""
_GUARD_BASE = ("filter", "output", 0, "accept")
_GUARD_HEAD = {
    "guard-tcp": "meta l4proto != tcp return",
    "guard-begun": f"tcp flags & ({'|'.join(_SYN)}) != syn return",
    "guard-redirected": "ct status dnat return",
}


def replace_text(rules: Rules, marks: Marks = FIRST) -> str:
    """One transaction: our table exactly as `rules` say, or no table."""
    return _table([_chain(name, lines, marks) for name, lines in _chains(rules).items()], marks)


def trial_text(new: Rules, old: Rules, seconds: float, marks: Marks = FIRST) -> str:
    """`new` as long as an element of a set lives, which the kernel ends after `seconds`; then `old`."""
    after, before = _chains(new), _chains(old)
    names = [name for name in _CHAINS if name in after or name in before]
    lines = [f"\tset {TRIAL_SET} {{", "\t\ttype inet_proto", "\t\tflags timeout",
             f"\t\telements = {{ tcp timeout {round(seconds * 1000)}ms }}", "\t}"]  # fmt: skip
    blocks = ["\n".join(lines)]
    blocks += [_block(_trial_chain(name), after.get(name, [])) for name in names]
    gate = f"meta l4proto @{TRIAL_SET} goto "
    blocks += [_chain(name, [gate + _trial_chain(name), *before.get(name, [])], marks) for name in names]
    return _table(blocks, marks)


def confirm_text(rules: Rules, marks: Marks = FIRST) -> str:
    """Ends the trial for good; fails, and changes nothing, when the kernel has ended it already."""
    return f"delete element inet {marks.table} {TRIAL_SET} {{ tcp }}\n" + replace_text(rules, marks)


def _priority(marks: Marks) -> int:
    """Another workload's rules are narrow, and so stand ahead of the first's, which take what is left."""
    return PRIORITY - bool(marks.instance)


_CHAINS = (*(hook.value for hook in Hook), GUARD)


def _trial_chain(name: str) -> str:
    return f"{name}_{TRIAL_SET}"


def _table(blocks: list[str], marks: Marks) -> str:
    clean = f"table inet {marks.table}\ndelete table inet {marks.table}\n"
    return clean + (f"table inet {marks.table} {{\n" + "\n".join(blocks) + "\n}\n" if blocks else "")


def _base(name: str, marks: Marks) -> tuple[str, str, int, str]:
    """Type, hook, priority and policy of one of our chains."""
    return _GUARD_BASE if name == GUARD else ("nat", _BASE[Hook(name)], _priority(marks), "accept")


def _chain(name: str, lines: Iterable[str], marks: Marks) -> str:
    kind, hook, priority, policy = _base(name, marks)
    return _block(name, [f"type {kind} hook {hook} priority {priority}; policy {policy};", *lines])


def _block(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"])


def _chains(rules: Rules) -> dict[str, list[str]]:
    """The lines of each chain that is needed."""
    chains = {hook.value: [_line(one) for rule in rules if rule.hook is hook for one in _single(rule)] for hook in Hook}
    if guarded := _guarded(rules):
        head = [f'{line} comment "{name}"' for name, line in _GUARD_HEAD.items()]
        chains[GUARD] = head + [_line(one, guards=True) for rule in guarded for one in _single(rule)]
    return {name: lines for name, lines in chains.items() if lines}


def _guarded(rules: Rules) -> list[Rule]:
    """What the guard says of connections to other machines; nothing where none are redirected."""
    outbound = [rule for rule in rules if rule.hook is Hook.OUTBOUND]
    far = [rule for rule in outbound if rule.redirect_to is None or rule.interface != "lo"]
    return far if any(rule.redirect_to is not None for rule in far) else []


def _single(rule: Rule) -> Iterator[Rule]:
    """One rule for each network and range of ports. A set of intervals would be one rule, but the kernel fills some of them only
    after the rules are in force: for that moment packets would pass them."""
    networks: list[tuple[IPNetwork, ...]] = [(network,) for network in rule.networks] or [()]
    ports: list[tuple[PortRange, ...]] = [(one,) for one in rule.ports] or [()]
    for network, port in product(networks, ports):
        yield dataclasses.replace(rule, networks=network, ports=port)


def _line(rule: Rule, guards: bool = False) -> str:
    inbound = rule.hook is Hook.INBOUND
    words: list[str] = []
    if rule.family is not None and not rule.networks:
        words.append(f"meta nfproto ipv{rule.family.value}")
    if rule.not_local:
        words.append("fib daddr type != local")
    if rule.uid is not None:
        words.append(f"meta skuid {rule.uid}")
    if rule.interface:
        words.append(f'{"iifname" if inbound else "oifname"} "{rule.interface}"')
    if rule.networks:
        protocol = "ip6" if rule.family is Family.IPV6 else "ip"
        words.append(f"{protocol} {'saddr' if inbound else 'daddr'} {', '.join(map(str, rule.networks))}")
    if rule.ports:
        words.append(f"tcp dport {', '.join(map(str, rule.ports))}")
    if rule.redirect_to is None:
        words.append("return")
    elif guards:
        words.append("drop")
    else:
        words.append(f"tcp flags & ({'|'.join(_SYN)}) == syn redirect to :{rule.redirect_to}")
    return " ".join([*words, f'comment "{rule.name}"'])


def parse_listing(listing: dict[str, Any], marks: Marks = FIRST) -> TableState:
    """Our table from `nft -j list table inet meshexp`. Raises ValueError for a listing of another form."""
    try:
        return _table_state(listing, marks)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"a listing of another form: {type(error).__name__} {error}") from None


def _table_state(listing: dict[str, Any], marks: Marks) -> TableState:
    rules: list[Rule] = []
    strange: list[str] = []
    on_trial = False
    guard: list[Rule | None] = []
    head: list[str] = []
    trial_chains = {_trial_chain(name) for name in _CHAINS}
    for item in listing["nftables"]:
        ((kind, body),) = item.items()
        if kind == "set" and body["name"] == TRIAL_SET:
            on_trial = True
        elif kind == "chain":
            if body["name"] not in trial_chains and not _is_base(body, marks):
                strange.append(f"not ours: chain {body['name']}")
        elif kind == "rule":
            if body["chain"] in trial_chains or _is_gate(body):
                continue
            if body["chain"] == GUARD:
                if body.get("comment") in _GUARD_HEAD:
                    head.append(body["comment"])
                else:
                    guard.append(_parse_rule(body))
                continue
            rule = _parse_rule(body)
            if rule is None:
                strange.append(f"not ours: a rule in chain {body['chain']}, handle {body['handle']}: {body['expr']}")
            else:
                rules.append(rule)
        elif kind not in ("table", "metainfo"):
            strange.append(f"not ours: {kind} {body.get('name', '')}".rstrip())
    if not _is_guard(head, guard, rules):
        strange.append(f"the chain {GUARD} is not as it was set")
    return TableState(present=True, rules=_joined(rules), strange=tuple(strange), on_trial=on_trial)


def _is_guard(head: list[str], found: list[Rule | None], rules: list[Rule]) -> bool:
    wanted = [rule if rule.redirect_to is None else dataclasses.replace(rule, redirect_to=0) for rule in _guarded(tuple(rules))]
    return found == wanted and head == (list(_GUARD_HEAD) if wanted else [])


def _joined(rules: list[Rule]) -> Rules:
    """Rules of the kernel as records: those that differ only in network and ports are one, if one record makes just these."""
    joined: list[Rule] = []
    for _, group in groupby(rules, key=lambda rule: dataclasses.replace(rule, networks=(), ports=())):
        found = list(group)
        networks = tuple(dict.fromkeys(network for rule in found for network in rule.networks))
        ports = tuple(dict.fromkeys(port for rule in found for port in rule.ports))
        whole = dataclasses.replace(found[0], networks=networks, ports=ports)
        joined += [whole] if list(_single(whole)) == found else found
    return tuple(joined)


def _is_base(chain: dict[str, Any], marks: Marks) -> bool:
    found = tuple(chain.get(key) for key in ("type", "hook", "prio", "policy"))
    return chain["name"] in _CHAINS and _base(chain["name"], marks) == found


def _is_gate(rule: dict[str, Any]) -> bool:
    return any(part.get("goto", {}).get("target") == f"{rule['chain']}_{TRIAL_SET}" for part in rule["expr"])


def _parse_rule(body: dict[str, Any]) -> Rule | None:
    """The record that this rule says, or None when no record can say it."""
    try:
        guards = body["chain"] == GUARD
        hook = Hook.OUTBOUND if guards else Hook(body["chain"])
        found: dict[str, Any] = {}
        *conditions, verdict = body["expr"]
        for condition in conditions:
            fields = _parse_match(condition["match"], hook)
            if fields.keys() & found.keys():
                return None
            found |= fields
        if guards and set(verdict) == {"drop"}:
            return Rule(body.get("comment", ""), hook, redirect_to=0, **found)
        is_redirect = found.pop("syn", False)
        target = verdict["redirect"]["port"] if is_redirect else None
        if not is_redirect and set(verdict) != {"return"}:
            return None
        return Rule(body.get("comment", ""), hook, redirect_to=target, **found)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _parse_match(match: dict[str, Any], hook: Hook) -> dict[str, Any]:
    """One condition as fields of Rule; `syn` stands for what every redirect has. Raises KeyError, TypeError or ValueError."""
    direction, address = ("iifname", "saddr") if hook is Hook.INBOUND else ("oifname", "daddr")
    right = match["right"]
    match match["op"], match["left"]:
        case "==", {"meta": {"key": "nfproto"}}:
            return {"family": {"ipv4": Family.IPV4, "ipv6": Family.IPV6}[right]}
        case "==", {"meta": {"key": "skuid"}}:
            return {"uid": int(right)}
        case "==", {"meta": {"key": key}} if key == direction:
            return {"interface": str(right)}
        case "!=", {"fib": {"result": "type", "flags": ["daddr"] | "daddr"}} if right == "local":
            return {"not_local": True}
        case "==", {"payload": {"protocol": "tcp", "field": "dport"}}:
            return {"ports": merge_ports(_port_range(element) for element in _elements(right))}
        case "==", {"payload": {"protocol": "ip" | "ip6" as protocol, "field": field}} if field == address:
            family = Family.IPV4 if protocol == "ip" else Family.IPV6
            networks = [network for element in _elements(right) for network in _networks(element)]
            return {"family": family, "networks": merge_networks(networks, family)}
        case "==", {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask]} if (right, _flags(mask)) == (
            "syn",
            set(_SYN),
        ):
            return {"syn": True}
    raise ValueError("no field of a record")


def _flags(mask: Any) -> set[str]:
    """nft 1.0.6 lists a mask as a list, others as nested `|`."""
    if isinstance(mask, str):
        return {mask}
    return {flag for part in (mask["|"] if isinstance(mask, dict) else mask) for flag in _flags(part)}


def _elements(right: Any) -> list[Any]:
    return right["set"] if isinstance(right, dict) and "set" in right else [right]


def _port_range(element: Any) -> PortRange:
    first, last = element["range"] if isinstance(element, dict) else (element, element)
    return PortRange(int(first), int(last))


def _networks(element: Any) -> list[IPNetwork]:
    if isinstance(element, str):
        return [ipaddress.ip_network(element)]
    if "prefix" in element:
        return [ipaddress.ip_network((element["prefix"]["addr"], element["prefix"]["len"]))]
    first, last = (ipaddress.ip_address(end) for end in element["range"])
    return list(ipaddress.summarize_address_range(first, last))
