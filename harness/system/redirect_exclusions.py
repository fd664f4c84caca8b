"""The ports that no redirect may ever take: SSH's on this machine, the mesh's own, the harness's. Blocking, some milliseconds.

SSH's are found in three ways, because each alone can miss: 22 itself, what its files say, and what runs (ssh_daemons.py).
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import reading
from harness.errors import UnreadableError
from harness.rules import merge_ports
from harness.system import files, ssh_daemons
from harness.values import PortRange

SSH = 22
MOST_FILES = 200
MASKED = "/dev/null"
"""A unit that is a link to it is masked: it names no port."""
MESH_INBOUND = (4190, 4191, 4567, 4568)
"""The proxy's policy and admin ports and the multicluster gateway's, as in Linkerd's chart."""
MESH_OUTBOUND = (4567, 4568)

_PORT = re.compile(r"(?im)^\s*Port[\s=]+(\d{1,5})\s*$")
_LISTEN_ADDRESS = re.compile(r"(?im)^\s*ListenAddress[\s=]+(?:\[[^\]\s]+\]|[^\s:]+):(\d{1,5})\b")
_INCLUDE = re.compile(r"(?im)^\s*Include[\s=]+(.+?)\s*$")
_LISTEN_STREAM = re.compile(r"(?m)^\s*ListenStream\s*=\s*(?:\S*:)?(\d{1,5})\s*$")
# Where systemd reads units: without control over BPF it opens a unit's sockets in its own cgroup, which tells nothing.
_UNIT_FOLDERS = (
    *("etc/systemd/system", "run/systemd/system", "run/systemd/generator", "run/systemd/transient"),
    *("usr/local/lib/systemd/system", "usr/lib/systemd/system"),
)
_SOCKETS = tuple(f"{name}.socket{rest}" for name in ("ssh", "sshd", "dropbear") for rest in ("", ".d/*.conf"))
_FILES = {"etc/ssh": ("sshd_config", "sshd_config.d/*.conf"), **dict.fromkeys(_UNIT_FOLDERS, _SOCKETS)}


@dataclass(frozen=True, slots=True)
class Ssh:
    """`unsure`: of the ports, those of listeners that may be another program's as well."""

    ports: tuple[PortRange, ...]
    unsure: tuple[int, ...] = ()
    unread: UnreadableError | None = field(default=None, compare=False)
    """Of the first file that may name a port, and cannot be read."""


@dataclass(frozen=True, slots=True)
class Exclusions:
    inbound: tuple[PortRange, ...]
    outbound: tuple[PortRange, ...]


def exclusions(own: Iterable[int], root: Path = Path("/")) -> Exclusions:
    """What to merge into `ignore_inbound_ports` and `ignore_outbound_ports`; `own`: what the harness and its proxy are asked at,
    by others than peers. `root` holds etc and proc.
    """
    return Exclusions(
        merge_ports((*ssh(root).ports, *_ranges({*MESH_INBOUND, *own}))),
        _ranges({SSH, *MESH_OUTBOUND}),
    )


def ssh(root: Path = Path("/")) -> Ssh:
    """Every port by which SSH comes to this machine, as far as anybody can know. Raises as `ssh_daemons.found` does."""
    live = ssh_daemons.found(root)
    ports, unread = configured_ssh_ports(root, live.files)
    known = {SSH, *ports}
    return Ssh(_ranges(known | live.ports), tuple(sorted(live.unsure - known)), unread)


def _ranges(ports: Iterable[int]) -> tuple[PortRange, ...]:
    return merge_ports(PortRange(port, port) for port in ports if 1 <= port <= 65535)


def configured_ssh_ports(root: Path = Path("/"), running: Iterable[str] = ()) -> tuple[frozenset[int], UnreadableError | None]:
    """Every port that any of sshd's files names, also inside a Match or by socket activation: too many is the safe side. And the
    first that cannot be read, if there is one: in a unit without all rights, root may read less than sshd.
    `running`: the files that running daemons have from their command lines.
    """
    faults: list[UnreadableError] = []
    ports: set[int] = set()
    seen: set[Path] = set()
    patterns = [f"{folder}/{name}" for folder, names in _FILES.items() for name in names]
    patterns += [file.lstrip("/") for file in running]
    for pattern in patterns:  # grows by what the files include
        for file in _matches(root, pattern, faults):
            if file in seen or os.path.realpath(file) == MASKED:
                continue
            if len(seen) == MOST_FILES:
                faults.append(UnreadableError(file, OSError(errno.E2BIG, f"more than {MOST_FILES} files are included")))
                break
            seen.add(file)
            try:
                text = files.text(file) or ""
            except UnreadableError as fault:
                faults.append(fault)
                continue
            for regex in (_PORT, _LISTEN_ADDRESS, _LISTEN_STREAM):
                ports.update(map(int, regex.findall(text)))
            for line in _INCLUDE.findall(text):
                patterns += _included(file, line, faults)
    return frozenset(ports), faults[0] if faults else None


def _included(file: Path, line: str, faults: list[UnreadableError]) -> list[str]:
    """The patterns of an Include, below root; a relative one is in /etc/ssh, as in sshd_config(5)."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        faults.append(UnreadableError(file, OSError(errno.EINVAL, f"Include {line}: {error}")))
        return []
    return [word.lstrip("/") if word.startswith("/") else f"etc/ssh/{word}" for word in words]


def _matches(root: Path, pattern: str, faults: list[UnreadableError]) -> list[Path]:
    """As glob(3), but with what cannot be read in `faults`."""
    found = [root]
    for part in Path(pattern).parts:
        folders, found = found, []
        for folder in folders:
            if not re.search(r"[*?[]", part):
                found.append(folder / part)
                continue
            try:
                found += reading.matches(folder, part)
            except OSError as error:
                faults.append(UnreadableError(folder, error))
    return found
