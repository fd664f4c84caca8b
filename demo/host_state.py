"""What "untouched" means, as text: routes, rules, sysctls and every firewall table, without what changes by itself."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Sequence

_COMMANDS = {
    "routes, IPv4": ("ip", "-j", "-4", "route", "show", "table", "all"),
    "routes, IPv6": ("ip", "-j", "-6", "route", "show", "table", "all"),
    "rules, IPv4": ("ip", "-4", "rule"),
    "rules, IPv6": ("ip", "-6", "rule"),
    "links": ("ip", "-o", "link"),
    "sysctls": ("sysctl", "-a", "-e"),
    "nft": ("nft", "-j", "list", "ruleset"),
    "iptables-nft": ("iptables-nft-save",),
    "ip6tables-nft": ("ip6tables-nft-save",),
    "iptables-legacy": ("iptables-legacy-save",),
    "ip6tables-legacy": ("ip6tables-legacy-save",),
}
# Sysctls that move by themselves: counters, random values, clocks.
_MOVING = re.compile(
    r"^(net\.netfilter\.nf_conntrack_(count|.*_max|buckets|max)|kernel\.(random|ns_last_pid|pty\.nr|.*seed)|fs\.(dentry|file-nr|inode|aio-nr"
    r"|quota|inotify)|kernel\.sched|dev\.|.*\.(tcp_fastopen_key|stable_secret|base_reachable_time|mtu|nf_log)\b|vm\.stat|kernel\.hostname|kernel\.domainname)"
)
# What the playground makes has one of these in its line: its links and their sysctls, its networks, our tables, chains and routes
# (77 is our protocol number); and the one sysctl that it writes.
_OURS = re.compile(
    r"meshexp|\bc?br0\b|\bv-(face|smiley|color|gui)|\b10\.77\.0\.|\"protocol\": ?\"77\"|^.net\.ipv4\.ip_forward ", re.IGNORECASE
)
_OF_A_LINK = re.compile(r"[-+]net\.\w+\.(conf|neigh)\.")
_NOISE = re.compile(r'"(expires|preferred_life_time|valid_life_time|handle|packets|bytes|metainfo)":\s*(\d+|"[^"]*"|\{[^}]*\}),?')


def dump(prefix: Sequence[str] = ()) -> dict[str, str]:
    """The state of the namespace that `prefix` enters (`nsenter …`), or of this one."""
    return {name: _normal(name, _output([*prefix, *command])) for name, command in _COMMANDS.items()}


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Unified-diff lines of every dump that is not the same; empty when nothing was left behind."""
    found = []
    for name, old in before.items():
        if old != after[name]:
            found += list(
                difflib.unified_diff(old.splitlines(), after[name].splitlines(), f"{name} before", f"{name} after", "", "", 0, "")
            )
    return found


def by_us(lines: list[str]) -> tuple[list[str], list[str]]:
    """The diff lines that the playground may have caused, and those that only others can have caused."""
    found = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    found.sort(key=lambda line: bool(_OF_A_LINK.match(line)))  # a link has a hundred sysctls, which come and go with it
    ours = [line for line in found if _OURS.search(line)]
    return ours, [line for line in found if line not in ours]


def _output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout


def _normal(name: str, text: str) -> str:
    lines = _NOISE.sub("", text.replace("},{", "},\n{")).splitlines()
    if name == "sysctls":
        return "\n".join(sorted(line for line in lines if line.startswith("net.") and not _MOVING.match(line)))
    if "tables" in name:
        return _tables(lines)
    return "\n".join(line for line in lines if not line.startswith("#"))


def _tables(lines: list[str]) -> str:
    """Without comments, counters, and tables that hold nothing: an empty legacy table comes to be by being looked at."""
    kept: list[str] = []
    table: list[str] = []
    for line in lines:
        if line.startswith("*"):
            table = [line]
        elif line.startswith(":"):
            chain = re.sub(r" \[\d+:\d+\]", "", line)
            if not re.fullmatch(r":[A-Z]+ ACCEPT", chain):
                table.append(chain)
        elif line.startswith("-"):
            table.append(line)
        elif line == "COMMIT" and len(table) > 1:
            kept += table
    return "\n".join(kept)
