"""The output of iptables-save for one table as chains, for one packet (iptables-extensions(8)). Pure."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator

from harness.check.packet_filter import Chain, Packet, Rule, Truth, Verdict, all_of, from_network, negated

_HOOKS = {"PREROUTING": "prerouting", "INPUT": "input"}
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
    "QUEUE": Verdict.ACCEPT,
    "NFQUEUE": Verdict.ACCEPT,
}
_NOT_ENDING = {"LOG", "NFLOG", "MARK", "CONNMARK", "NOTRACK", "CT", "SET", "TCPMSS", "TRACE"}
_SILENT = {"--comment", "--reject-with", "--log-prefix", "--log-level", "-m", "--match"}


def chains(text: str, packet: Packet, label: str) -> dict[str, Chain]:
    """By name, each with `label` (such as `iptables filter`) before it."""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy, *_ = line[1:].split()
            policies[name] = policy
        elif line.startswith("-A "):
            words = shlex.split(line)
            rules.setdefault(words[1], []).extend(_rule(words[2:], packet, label, line))
    return {
        f"{label} {name}": Chain(
            f"{label} {name}", tuple(rules.get(name, ())), _HOOKS.get(name, "") if policy != "-" else "", 0, policy == "DROP"
        )
        for name, policy in policies.items()
    }


def _rule(words: list[str], packet: Packet, label: str, line: str) -> Iterator[Rule]:
    matches: list[Truth] = []
    verdict, target = None, ""
    for option, value, negate in _options(words):
        if option in ("-j", "--jump", "-g", "--goto"):
            if value in _NOT_ENDING:
                return
            verdict = _VERDICTS.get(value)
            if verdict is None:
                verdict, target = Verdict.GOTO if option in ("-g", "--goto") else Verdict.JUMP, f"{label} {value}"
        elif option not in _SILENT:
            matches.append(negated(_match(option, value, packet), negate))
    if verdict is not None:
        yield Rule(all_of(*matches), verdict, target, f"`{line}`")


def _options(words: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Each option with its value, and whether it is negated."""
    negate, at = False, 0
    while at < len(words):
        if words[at] == "!":
            negate, at = True, at + 1
            continue
        has_value = at + 1 < len(words) and not words[at + 1].startswith("-") and words[at + 1] != "!"
        yield words[at], words[at + 1] if has_value else "", negate
        negate, at = False, at + (2 if has_value else 1)


def _match(option: str, value: str, packet: Packet) -> Truth:
    match option:
        case "-p" | "--protocol":
            return value in ("tcp", "6", "all")
        case "--dport" | "--destination-port" | "--dports" | "--destination-ports":
            return any(_in_range(part, packet.port) for part in value.split(","))
        case "-i" | "--in-interface":
            return False if value == "lo" else None
        case "-s" | "--source":
            return from_network(packet, ipaddress.ip_network(value, strict=False))
        case "--ctstate" | "--state":
            return "NEW" in value.split(",")
        case "--syn":
            return True
        case "--tcp-flags":
            return None
    return None


def _in_range(text: str, port: int) -> bool:
    low, colon, high = text.partition(":")
    return int(low or 0) <= port <= int((high or 65535) if colon else low)


def published(text: str, ports: frozenset[int]) -> tuple[int, ...]:
    """Those of the ports that a DNAT rule of the nat table names."""
    found = set()
    for line in text.splitlines():
        if line.startswith("-A ") and "-j DNAT" in line:
            values = [value for option, value, _ in _options(shlex.split(line)[2:]) if option in ("--dport", "--dports")]
            found |= {port for port in ports for value in values for part in value.split(",") if _in_range(part, port)}
    return tuple(sorted(found))
