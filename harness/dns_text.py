"""resolv.conf and dnsmasq.conf as text. No I/O.

resolv.conf keeps what was there before in comments, so that what takes our lines out (a stop, `meshexp cleanup`, a later
version, after a crash or a reboot) needs nothing but the file itself.
"""

from __future__ import annotations

import re

from harness.specs import DnsSpec

# 77: our mark, as with routes; others stand on .1 (dnsmasq, unbound), .53 (systemd-resolved) and .11 (Docker).
LISTEN = "127.0.0.77"
_MARK = "# meshexp-harness asks the cluster for the cluster's names; what was here before:"
_KEPT = "#meshexp "
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
MAX_SERVERS = 3  # MAXNS of resolv.h: glibc and musl read no more


def is_ours(text: str) -> bool:
    return text.startswith(_MARK)


def original(text: str) -> str:
    """What the file was before it was ours."""
    if not is_ours(text):
        return text
    return "".join(line.removeprefix(_KEPT) for line in _LINE.findall(text) if line.startswith(_KEPT))


def servers(text: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf; its default where it names none (resolv.conf(5))."""
    found = tuple(words[1] for line in text.splitlines() if len(words := line.split()) >= 2 and words[0] == "nameserver")
    return found or ("127.0.0.1",)


def resolv_conf(before: str, spec: DnsSpec) -> str:
    """`before` with our server first. Those that were there follow: a dead one of ours refuses at once, and they are asked."""
    names, others, search = servers(before), [], ""
    for line in before.splitlines():
        match line.split():
            case ["nameserver", *_] | []:
                continue
            case ["search" | "domain", *rest]:
                search = " ".join(rest)
            case _ if not line.startswith(("#", ";")):
                others.append(line)
    lines = [_MARK, *(f"nameserver {server}" for server in (LISTEN, *names)[:MAX_SERVERS])]
    if domains := " ".join(dict.fromkeys([*search.split(), *spec.search])):
        lines.append(f"search {domains}")
    lines += others
    if spec.ndots is not None:
        lines.append(f"options ndots:{spec.ndots}")
    return "\n".join(lines) + "\n" + "".join(_KEPT + line for line in _LINE.findall(before))


def dnsmasq_conf(listen: str, upstream: tuple[str, ...], spec: DnsSpec) -> str:
    """A forwarder and nothing else. `strict-order` asks servers as resolv.conf does; the limit is that of a dead cluster DNS,
    whose waiting questions must leave room for all others (the default is 150)."""
    lines = [
        "keep-in-foreground", "log-facility=-", "pid-file", "bind-interfaces", f"listen-address={listen}", "port=53",
        "no-resolv", "no-hosts", "no-poll", "cache-size=0", "no-negcache", "strict-order", "dns-forward-max=10000",
    ]  # fmt: skip
    lines += [f"server={server.replace('%', '@')}" for server in upstream]
    lines += [f"server=/{spec.domain}/{server.host}#{server.port}" for server in spec.servers]
    return "\n".join(lines) + "\n"
