"""The ports that no redirect may ever take: SSH's on this machine, the mesh's own, the harness's. Blocking, some milliseconds.

SSH's are found in three ways, because each alone can miss: 22 itself, what the configuration says, and what runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.rules import merge_ports
from harness.system import files
from harness.values import PortRange

SSH = 22
MESH_INBOUND = (4190, 4191, 4567, 4568)
"""The proxy's policy and admin ports and the multicluster gateway's, as in Linkerd's chart."""
MESH_OUTBOUND = (4567, 4568)

_ESTABLISHED, _LISTEN = "01", "0A"  # include/net/tcp_states.h
_DAEMONS = re.compile(rb"sshd|sshd-session|sshd-auth|dropbear")
_PORT = re.compile(r"(?im)^\s*Port[\s=]+(\d+)\s*$")
_LISTEN_ADDRESS = re.compile(r"(?im)^\s*ListenAddress[\s=]+(?:\[[^\]\s]+\]|[^\s:]+):(\d+)\b")
_LISTEN_STREAM = re.compile(r"(?m)^\s*ListenStream\s*=\s*(?:\S*:)?(\d+)\s*$")
_FILES = {
    "etc/ssh": ("sshd_config", "sshd_config.d/*.conf"),
    "etc/systemd/system": ("ssh.socket", "sshd.socket", "ssh.socket.d/*.conf", "sshd.socket.d/*.conf"),
}


@dataclass(frozen=True, slots=True)
class Exclusions:
    inbound: tuple[PortRange, ...]
    outbound: tuple[PortRange, ...]


def exclusions(own: Iterable[int], root: Path = Path("/")) -> Exclusions:
    """What to merge into `ignore_inbound_ports` and `ignore_outbound_ports`; `own`: what the harness and its proxy are asked at,
    by others than peers. `root` holds etc and proc.
    """
    return Exclusions(
        merge_ports((*ssh_ports(root), *_ranges({*MESH_INBOUND, *own}))),
        _ranges({SSH, *MESH_OUTBOUND}),
    )


def ssh_ports(root: Path = Path("/")) -> tuple[PortRange, ...]:
    """Every port by which SSH comes to this machine, as far as anybody can know."""
    return _ranges({SSH, *configured_ssh_ports(root), *live_ssh_ports(root)})


def _ranges(ports: Iterable[int]) -> tuple[PortRange, ...]:
    return merge_ports(PortRange(port, port) for port in ports if 1 <= port <= 65535)


def configured_ssh_ports(root: Path = Path("/")) -> frozenset[int]:
    """Every port that any of sshd's files names, also inside a Match or by socket activation: too many is the safe side."""
    found = (file for folder, patterns in _FILES.items() for pattern in patterns for file in (root / folder).glob(pattern))
    texts = [text for file in found if (text := files.text(file)) is not None]  # what root cannot read, sshd cannot either
    return frozenset(
        int(port) for text in texts for regex in (_PORT, _LISTEN_ADDRESS, _LISTEN_STREAM) for port in regex.findall(text)
    )


def live_ssh_ports(root: Path = Path("/")) -> frozenset[int]:
    """Local ports on which an SSH daemon of this network namespace listens or has a session.

    A connection from the ephemeral range without a listener is one that sshd dialled for a forwarding, and is left out.
    """
    inodes = {inode for process in _daemons(root) for inode in _sockets(process)}
    if not inodes:
        return frozenset()
    sockets = [(port, state) for port, state, inode in _tcp(root) if inode in inodes]
    listening = {port for port, state in sockets if state == _LISTEN}
    ephemeral = _ephemeral(root)
    return frozenset(
        listening | {port for port, state in sockets if state == _ESTABLISHED and (port in listening or port not in ephemeral)}
    )


def _daemons(root: Path) -> Iterator[str]:
    """Their directories under /proc. No pathlib and no text files: they would cost ten times as much, in every cycle."""
    proc = f"{root}/proc"
    for name in os.listdir(proc):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"{proc}/{name}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # the process has gone
        try:
            comm = os.read(descriptor, 64)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if _DAEMONS.fullmatch(comm.strip()):
            yield f"{proc}/{name}"


def _sockets(process: str) -> Iterator[str]:
    try:
        for descriptor in os.scandir(f"{process}/fd"):
            link = os.readlink(descriptor.path)  # noqa: PTH115
            if link.startswith("socket:["):
                yield link[8:-1]
    except OSError:
        return  # the process has gone


def _tcp(root: Path) -> Iterator[tuple[int, str, str]]:
    """Local port, state and inode of every TCP socket."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (root / "proc/self/net" / name).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            yield int(fields[1].rpartition(":")[2], 16), fields[3], fields[9]


def _ephemeral(root: Path) -> range:
    first, last = (root / "proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return range(int(first), int(last) + 1)
