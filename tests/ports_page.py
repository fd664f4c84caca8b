"""The tables of docs/ports.md, and the sockets of a machine to compare them with."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tests.mesh import ROOT

PAGE = ROOT / "docs" / "ports.md"
_EPHEMERAL = 32768  # net.ipv4.ip_local_port_range
FIREWALLS, MACHINE, CLUSTER = "Through firewalls", "On the machine", "In the cluster"


@dataclass(frozen=True, slots=True)
class Row:
    table: str
    cells: tuple[str, ...]

    @property
    def ports(self) -> frozenset[int]:
        """Of the column that is named so."""
        return frozenset(map(int, re.findall(r"\d+", self.cells[_headers(self.table).index("port")])))

    @property
    def keys(self) -> frozenset[str]:
        """What is said to set them."""
        return frozenset(re.findall(r"`([\w.]+)`", self.cells[_headers(self.table).index("set by")]))

    @property
    def loopback(self) -> bool:
        return not self.cells[0].startswith("all")


def rows(*tables: str) -> tuple[Row, ...]:
    return tuple(Row(table, cells) for table in tables or (FIREWALLS, MACHINE, CLUSTER) for cells in _lines(table)[2:])


def _headers(table: str) -> tuple[str, ...]:
    return _lines(table)[0]


def _lines(table: str) -> list[tuple[str, ...]]:
    below = PAGE.read_text().partition(f"\n## {table}\n")[2].partition("\n#")[0]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in below.splitlines() if line.startswith("|")]


def listening(ss: str) -> set[tuple[bool, int]]:
    """Whether on loopback only, and the port, of `ss -Hltun`; 192.0.0.8 is an address of ours that nobody else reaches."""
    found = set()
    for line in ss.splitlines():
        host, port = _endpoint(line.split()[4])
        found.add((host not in ("*", "0.0.0.0", "::") and _is_own(host), int(port)))
    return found


def dialled(ss: str) -> set[int]:
    """The ports of others that this machine has connections to, of `ss -Htn`."""
    found = set()
    for state, *_, own, other in map(str.split, ss.splitlines()):
        host, port = _endpoint(other)
        if state == "ESTAB" and not _is_own(host) and int(_endpoint(own)[1]) >= _EPHEMERAL:
            found.add(int(port))
    return found


def _endpoint(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    return host.strip("[]").partition("%")[0].removeprefix("::ffff:"), port


def _is_own(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.is_loopback or host == "192.0.0.8"
