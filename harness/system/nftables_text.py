"""Rule records as nft text, and nft's JSON listing back as records. No I/O.

The text is what `plan` prints and, unchanged, what the adapter hands to libnftables: the two cannot differ.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from harness.rules import Family, Hook, Rule, Rules, merge_networks, merge_ports
from harness.system.redirect_table import FIRST, Marks, TableState
from harness.values import IPNetwork, PortRange

PRIORITY = -110
"""Ahead of Docker's and every iptables chain's -100 (dstnat): the first NAT decision wins."""
TRIAL_SET = "trial"
_SYN = ("fin", "syn", "rst", "ack")
_BASE = {Hook.INBOUND: "prerouting", Hook.OUTBOUND: "output"}


def replace_text(rules: Rules, marks: Marks = FIRST) -> str:
    """One transaction: our table exactly as `rules` say, or no table."""
    return _table([_chain(hook, _lines(rules, hook), marks) for hook in Hook if any(r.hook is hook for r in rules)], marks)


def trial_text(new: Rules, old: Rules, seconds: float, marks: Marks = FIRST) -> str:
    """`new` as long as an element of a set lives, which the kernel ends after `seconds`; then `old`."""
    hooks = [hook for hook in Hook if any(r.hook is hook for r in new + old)]
    lines = [f"\tset {TRIAL_SET} {{", "\t\ttype inet_proto", "\t\tflags timeout",
             f"\t\telements = {{ tcp timeout {round(seconds * 1000)}ms }}", "\t}"]  # fmt: skip
    blocks = ["\n".join(lines)]
    blocks += [_block(_trial_chain(hook), _lines(new, hook)) for hook in hooks]
    gate = f"meta l4proto @{TRIAL_SET} goto "
    blocks += [_chain(hook, [gate + _trial_chain(hook), *_lines(old, hook)], marks) for hook in hooks]
    return _table(blocks, marks)


def confirm_text(rules: Rules, marks: Marks = FIRST) -> str:
    """Ends the trial for good; fails, and changes nothing, when the kernel has ended it already."""
    return f"delete element inet {marks.table} {TRIAL_SET} {{ tcp }}\n" + replace_text(rules, marks)


def _priority(marks: Marks) -> int:
    """Another workload's rules are narrow, and so stand ahead of the first's, which take what is left."""
    return PRIORITY - bool(marks.instance)


def _trial_chain(hook: Hook) -> str:
    return f"{hook.value}_{TRIAL_SET}"


def _table(blocks: list[str], marks: Marks) -> str:
    clean = f"table inet {marks.table}\ndelete table inet {marks.table}\n"
    return clean + (f"table inet {marks.table} {{\n" + "\n".join(blocks) + "\n}\n" if blocks else "")


def _chain(hook: Hook, lines: Iterable[str], marks: Marks) -> str:
    return _block(hook.value, [f"type nat hook {_BASE[hook]} priority {_priority(marks)}; policy accept;", *lines])


def _block(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"])


def _lines(rules: Rules, hook: Hook) -> list[str]:
    return [_line(rule) for rule in rules if rule.hook is hook]


def _line(rule: Rule) -> str:
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
        words.append(f"{protocol} {'saddr' if inbound else 'daddr'} {{ {', '.join(map(str, rule.networks))} }}")
    if rule.ports:
        words.append(f"tcp dport {{ {', '.join(map(str, rule.ports))} }}")
    if rule.redirect_to is None:
        words.append("return")
    else:
        words.append(f"tcp flags & ({'|'.join(_SYN)}) == syn redirect to :{rule.redirect_to}")
    return " ".join([*words, f'comment "{rule.name}"'])


def parse_listing(listing: dict[str, Any], marks: Marks = FIRST) -> TableState:
    """Our table from `nft -j list table inet meshexp`."""
    rules: list[Rule] = []
    strange: list[str] = []
    on_trial = False
    trial_chains = {_trial_chain(hook) for hook in Hook}
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
            rule = _parse_rule(body)
            if rule is None:
                strange.append(f"not ours: a rule in chain {body['chain']}, handle {body['handle']}: {body['expr']}")
            else:
                rules.append(rule)
        elif kind not in ("table", "metainfo"):
            strange.append(f"not ours: {kind} {body.get('name', '')}".rstrip())
    return TableState(present=True, rules=tuple(rules), strange=tuple(strange), on_trial=on_trial)


def _is_base(chain: dict[str, Any], marks: Marks) -> bool:
    expected = {hook.value: ("nat", base, _priority(marks), "accept") for hook, base in _BASE.items()}
    found = tuple(chain.get(key) for key in ("type", "hook", "prio", "policy"))
    return expected.get(chain["name"]) == found


def _is_gate(rule: dict[str, Any]) -> bool:
    return any(part.get("goto", {}).get("target") == f"{rule['chain']}_{TRIAL_SET}" for part in rule["expr"])


def _parse_rule(body: dict[str, Any]) -> Rule | None:
    """The record that this rule says, or None when no record can say it."""
    try:
        hook = Hook(body["chain"])
        found: dict[str, Any] = {}
        *conditions, verdict = body["expr"]
        for condition in conditions:
            fields = _parse_match(condition["match"], hook)
            if fields.keys() & found.keys():
                return None
            found |= fields
        is_redirect = found.pop("syn", False)
        target = verdict["redirect"]["port"] if is_redirect else None
        if not is_redirect and set(verdict) != {"return"}:
            return None
        return Rule(body.get("comment", ""), hook, redirect_to=target, **found)
    except (KeyError, TypeError, ValueError):
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
