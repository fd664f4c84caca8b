"""Rule records for one family of legacy iptables: python-iptables' dictionaries, iptables-restore text, and back. No I/O.

A record may need several rules: a list of networks one each, ports 15 slots each. They share the record's name as a comment.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator
from itertools import groupby, product
from typing import Any

from harness.rules import Family, Hook, Rule, Rules, for_family, merge_networks, merge_ports
from harness.system.redirect_table import FIRST, Marks
from harness.values import IPNetwork, PortRange

COMMENT = "meshexp/"
BUILTIN = {Hook.INBOUND: "PREROUTING", Hook.OUTBOUND: "OUTPUT"}
_SYN = ["FIN,SYN,RST,ACK", "SYN"]
_MULTIPORT_SLOTS = 15  # include/uapi/linux/netfilter/xt_multiport.h; a range takes two

Entry = dict[str, Any]
"""One rule as iptc.easy writes it."""
Chains = dict[str, list[Entry]]


def chain_name(hook: Hook, marks: Marks = FIRST) -> str:
    return marks.prefix + hook.name


def jump(hook: Hook, marks: Marks = FIRST) -> Entry:
    return {"protocol": "tcp", "comment": {"comment": COMMENT + "jump"}, "target": chain_name(hook, marks)}


def entries(rules: Rules, family: Family, marks: Marks = FIRST) -> Chains:
    """Our chains for one family; empty when nothing is redirected for it."""
    own = for_family(rules, family)
    return {
        chain_name(hook, marks): [entry for rule in own if rule.hook is hook for entry in _entries(rule)]
        for hook in Hook
        if any(rule.hook is hook for rule in own)
    }


def _entries(rule: Rule) -> Iterator[Entry]:
    inbound = rule.hook is Hook.INBOUND
    common: Entry = {}
    verdict: Entry = {}
    if rule.ports or rule.redirect_to is not None:
        common["protocol"] = "tcp"
    if rule.interface:
        common["in-interface" if inbound else "out-interface"] = rule.interface.replace("*", "+")
    if rule.not_local:
        common["addrtype"] = {"dst-type": ["!", "LOCAL"]}
    if rule.uid is not None:
        common["owner"] = {"uid-owner": str(rule.uid)}
    if rule.redirect_to is not None:
        common["tcp"] = {"tcp-flags": _SYN}
    verdict["comment"] = {"comment": COMMENT + rule.name}
    verdict["target"] = "RETURN" if rule.redirect_to is None else {"REDIRECT": {"to-ports": str(rule.redirect_to)}}
    addresses: list[Entry] = [{"src" if inbound else "dst": str(network)} for network in rule.networks] or [{}]
    ports: list[Entry] = [{"multiport": {"dports": slots}} for slots in _slots(rule.ports)] or [{}]
    for address, port in product(addresses, ports):
        yield common | address | port | verdict


def _slots(ports: Iterable[PortRange]) -> Iterator[str]:
    words: list[str] = []
    used = 0
    for one in ports:
        single = one.first == one.last
        needed = 1 if single else 2
        if used + needed > _MULTIPORT_SLOTS:
            yield ",".join(words)
            words, used = [], 0
        words.append(str(one.first) if single else f"{one.first}:{one.last}")
        used += needed
    if words:
        yield ",".join(words)


def parse(chains: Chains, family: Family, marks: Marks = FIRST) -> tuple[Rules, tuple[str, ...]]:
    """The records that our chains say, and a sentence for every rule that no record can say. Raises ValueError for what is no
    list of entries."""
    try:
        return _parsed(chains, family, marks)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a listing of another form: {error}") from None


def _parsed(chains: Chains, family: Family, marks: Marks) -> tuple[Rules, tuple[str, ...]]:
    rules: list[Rule] = []
    strange: list[str] = []
    for name, found in chains.items():
        hook = next((hook for hook in Hook if chain_name(hook, marks) == name), None)
        if hook is None:
            strange.append(f"not ours: IPv{family.value} chain {name}")
            continue
        for _, group in groupby(found, key=lambda entry: str(entry.get("comment"))):
            entries_of_one = [_as_we_write(entry) for entry in group]
            rule = _record(entries_of_one, hook, family)
            if rule is None:
                strange += [f"not ours: an IPv{family.value} rule in chain {name}: {entry}" for entry in entries_of_one]
            else:
                rules.append(rule)
    return tuple(rules), tuple(strange)


def _as_we_write(entry: Entry) -> Entry:
    """python-iptables writes `::0.30.233.31/128` where we write `::1e:e91f/128`; what is no network, such as `!…`, stays."""
    same = dict(entry)
    for key in "src", "dst":
        with contextlib.suppress(KeyError, ValueError):
            same[key] = str(ipaddress.ip_network(entry[key]))
    return same


def _record(found: list[Entry], hook: Hook, family: Family) -> Rule | None:
    """A guess from what the rules have in common, taken only if it renders to exactly these rules."""
    inbound, first = hook is Hook.INBOUND, found[0]
    address = "src" if inbound else "dst"
    try:
        redirect = first["target"]["REDIRECT"] if isinstance(first["target"], dict) else None
        networks: list[IPNetwork] = [ipaddress.ip_network(entry[address]) for entry in found if address in entry]
        ports = [_port_range(word) for entry in found if "multiport" in entry for word in entry["multiport"]["dports"].split(",")]
        rule = Rule(
            name=first["comment"]["comment"].removeprefix(COMMENT),
            hook=hook,
            redirect_to=None if redirect is None else int(redirect["to-ports"]),
            family=family,
            not_local="addrtype" in first,
            uid=int(first["owner"]["uid-owner"]) if "owner" in first else None,
            interface=first.get("in-interface" if inbound else "out-interface", "").replace("+", "*"),
            networks=merge_networks(networks, family),
            ports=merge_ports(ports),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return rule if list(_entries(rule)) == found else None


def _port_range(word: str) -> PortRange:
    first, _, last = word.partition(":")
    return PortRange(int(first), int(last or first))


def restore_text(
    rules: Rules, jumps: Iterable[tuple[Family, Hook]], leftovers: Iterable[tuple[Family, str]], marks: Marks = FIRST
) -> str:
    """One text for both `iptables-legacy-restore --noflush` and `ip6tables-legacy-restore --noflush`.

    A line that begins with -4 or -6 is for that family alone (each tool passes over the other's). `jumps` are to be taken
    away, `leftovers` are chains to empty and remove unless the rules use them.
    """
    used = [(family, entries(rules, family, marks)) for family in Family]
    lines = ["*nat"]
    lines += [f"-{family.value} -D {BUILTIN[hook]} {_arguments(jump(hook, marks))}" for family, hook in jumps]
    leftovers = tuple(leftovers)
    for family, chains in used:
        old = {chain for owner, chain in leftovers if owner is family}
        lines += [f"-{family.value} -F {chain}" for chain in sorted(old)]
        lines += [f"-{family.value} -X {chain}" for chain in sorted(old - chains.keys())]
        lines += [f"-{family.value} -N {chain}" for chain in sorted(chains.keys() - old)]
        lines += [f"-{family.value} -A {chain} {_arguments(entry)}" for chain, found in chains.items() for entry in found]
        inserted = {hook: chain_name(hook, marks) in chains for hook in Hook}
        lines += [f"-{family.value} -I {BUILTIN[hook]} 1 {_arguments(jump(hook, marks))}" for hook in Hook if inserted[hook]]
    return "\n".join([*lines, "COMMIT", ""])


_OPTIONS = {"protocol": "-p", "in-interface": "-i", "out-interface": "-o", "src": "-s", "dst": "-d"}


def _arguments(entry: Entry) -> str:
    """An entry in the notation of iptables-save."""
    words: list[str] = []
    for key, value in entry.items():
        if key in _OPTIONS:
            words += [_OPTIONS[key], value]
        elif key == "target":
            words += ["-j", value] if isinstance(value, str) else ["-j", *_module(value)]
        else:
            words += ["-m", *_module({key: value})]
    return " ".join(words)


def _module(value: Entry) -> list[str]:
    ((name, options),) = value.items()
    words = [name]
    for option, argument in options.items():
        negated = isinstance(argument, list) and argument[0] == "!"
        arguments = argument[1:] if negated else argument if isinstance(argument, list) else [argument]
        words += (["!"] if negated else []) + [f"--{option}", *arguments]
    return words
