"""The output of iptables-save as chains, for one packet (iptables-extensions(8)). Pure."""

from __future__ import annotations

import functools
import ipaddress
import shlex
from collections.abc import Iterator

from harness.check.packet_filter import Chain, Packet, Rule, Truth, Verdict, all_of, from_network, negated

_HOOKS = {"PREROUTING": "prerouting", "INPUT": "input"}
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
"""Of the tables that can drop a packet: the kernel's NF_IP_PRI_."""
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
    "QUEUE": Verdict.UNKNOWN,
    "NFQUEUE": Verdict.UNKNOWN,
}
_NOT_ENDING = {
    *("LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "LED", "TEE", "RATEEST", "IDLETIMER"),
    *("MARK", "CONNMARK", "SECMARK", "CONNSECMARK", "HMARK", "CLASSIFY", "CT", "NOTRACK", "SET"),
    *("DSCP", "TOS", "TTL", "HL", "ECN", "CHECKSUM", "TCPMSS", "TCPOPTSTRIP"),
}
_MODULES = {
    *("tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmp6", "icmpv6", "multiport", "comment", "conntrack", "state"),
    *("addrtype", "pkttype", "limit", "hashlimit", "connlimit", "recent", "rpfilter"),
}
"""Matches that say all they ask for in options; of another nothing is known."""
_HEADERS = {"rt", "frag", "mh", "ah", "esp"}
"""Headers that a plain connection does not have."""
_TEXTS = {"--comment", "--log-prefix", "--nflog-prefix", "--name", "--hashlimit-name", "--mask"}
"""Their value never counts, and may be anything."""
_IN_TCP = frozenset({"tcp", "6", "all", "0"})


def tables(text: str) -> dict[str, str]:
    """The output for several tables, by table. One that the program cannot read is not there: it says so in a comment."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            lines = found.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "-A ")):
            lines.append(line)
    return {name: "\n".join(own) for name, own in found.items()}


def chains(text: str, packet: Packet, program: str, table: str = "filter") -> dict[str, Chain]:
    """Of one table, by name, each with `program` and the table before it; none of a table that cannot drop (nat)."""
    if table not in PRIORITIES:
        return {}
    label = f"{program} {table}"
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy, *_ = (*line[1:].split(), "", "-")
            policies[name] = policy
        elif line.startswith("-A "):
            name, *words = _words(line)[1:] or ("",)
            rules.setdefault(name, []).extend(_rule(tuple(words), packet, label, line))
    return {
        f"{label} {name}": Chain(
            f"{label} {name}",
            tuple(rules.get(name, ())),
            _HOOKS.get(name, "") if policy != "-" else "",
            PRIORITIES[table],
            policy == "DROP",
        )
        for name, policy in policies.items()
    }


@functools.lru_cache(maxsize=4096)
def _words(line: str) -> tuple[str, ...]:
    """Each rule is read for several packets."""
    try:
        return tuple(shlex.split(line))
    except ValueError:  # a quotation mark that does not end
        return tuple(line.split())


def _rule(words: tuple[str, ...], packet: Packet, label: str, line: str) -> Iterator[Rule]:
    matches: list[Truth] = [None] if "[unsupported" in line else []
    for option, values, negate in _options(words):
        if option in ("-j", "--jump", "-g", "--goto"):  # the rest are the target's own options
            name = values[0] if values else ""
            if name not in _NOT_ENDING:
                leads = Verdict.GOTO if option in ("-g", "--goto") else Verdict.JUMP
                verdict = _VERDICTS.get(name, leads)
                yield Rule(all_of(*matches), verdict, f"{label} {name}" if verdict is leads else "", f"`{line}`")
            return
        if option not in _TEXTS:
            matches.append(negated(_match(option, values, packet), negate))


def _options(words: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Each option with its values, and whether it is negated."""
    negate, at = False, 0
    while at < len(words):
        if words[at] == "!":
            negate, at = True, at + 1
            continue
        end = at + 1 + (words[at] in _TEXTS)
        while end < len(words) and words[end] != "!" and not words[end].startswith("-"):
            end += 1
        yield words[at], words[at + 1 : end], negate
        negate, at = False, end


def _match(option: str, values: tuple[str, ...], packet: Packet) -> Truth:
    try:
        return _known(option, values[0] if values else "", values, packet)
    except ValueError:  # a network or a number that is written in another way
        return None


def _known(option: str, value: str, values: tuple[str, ...], packet: Packet) -> Truth:
    match option:
        case "-m" | "--match" if value in _HEADERS:
            return False
        case "-m" | "--match":
            return True if value in _MODULES else None
        case "-p" | "--protocol":
            return value in _IN_TCP
        case "--dport" | "--destination-port" | "--dports" | "--destination-ports":
            return any(_in_range(part, packet.port) for part in value.split(","))
        case "--sport" | "--source-port" | "--sports" | "--source-ports":
            return True if any(all(_in_range(part, end) for end in (1024, 65535)) for part in value.split(",")) else None
        case "-i" | "--in-interface":
            return packet.through(value, "+")
        case "-s" | "--source":
            return from_network(packet, ipaddress.ip_network(value, strict=False))
        case "-d" | "--destination":
            return packet.to(ipaddress.ip_network(value, strict=False))
        case "--ctstate" | "--state":
            return "NEW" in value.split(",")
        case "--ctdir":
            return value == "ORIGINAL"
        case "--dst-type":
            return "LOCAL" in value.split(",")
        case "--src-type":
            return False if value == "LOCAL" else None
        case "--pkt-type":
            return value == "unicast"
        case "--syn" | "--validmark" | "--loose" | "--accept-local":
            return True
        case "--invert":  # of rpfilter: a peer to which there is a way passes it
            return False
        case "--tcp-flags":
            mask, wanted = (_flags(text) for text in values[:2])
            return (mask & {"SYN"}) == wanted
        case "-f" | "--fragment":
            return False
    return None


def _flags(text: str) -> set[str]:
    """The packet has SYN alone."""
    return {"FIN", "SYN", "RST", "ACK", "URG", "PSH"} if text == "ALL" else set(text.split(",")) - {"NONE"}


def _in_range(text: str, port: int) -> bool:
    low, colon, high = text.partition(":")
    return int(low or 0) <= port <= int((high or 65535) if colon else low)


def published(text: str, ports: frozenset[int]) -> tuple[int, ...]:
    """Those of the ports that a DNAT rule of the nat table names."""
    found = set[int]()
    for line in text.splitlines():
        if not line.startswith("-A ") or "-j DNAT" not in line:
            continue
        for option, values, _ in _options(_words(line)[2:]):
            if option in ("--dport", "--dports"):
                found |= {port for port in ports if _match(option, values, Packet(port)) is True}
    return tuple(sorted(found))
