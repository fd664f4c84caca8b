"""The ports on which SSH is reached, as far as running processes show them. Blocking, some milliseconds.

/proc/PID/fd says whose a socket is. A process may read it only of those whose capabilities it has: in the shipped unit, without
CAP_SYS_PTRACE, not of a daemon of root's. There the kernel says in which cgroup a socket was made, and that is its unit's.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.system import tcp_sockets
from harness.system.tcp_sockets import ESTABLISHED, LISTEN, Socket

_DAEMONS = re.compile(rb"sshd|sshd-session|sshd-auth|dropbear")
_UNITS = re.compile(r"(ssh|sshd|dropbear)(@.*)?\.(service|socket)")
_SLICES = re.compile(r"system-(ssh|sshd|dropbear)\.slice")
# More than one number: it runs in a container, where its files are others.
_INNER = re.compile(rb"(?m)^NSpid:\s+\d+\s+\d")
_UID = re.compile(rb"(?m)^Uid:\s+(\d+)\s")
_PORT = re.compile(rb"(?i)^(?:Port[\s=]+|ListenAddress[\s=]+\S*:)(\d{1,5})$")
# As getopt(3) reads them: `-Dp 2222` is `-D -p 2222`. Before the flag itself, only letters that take no value.
_PORT_FLAG = re.compile(rb"-[46DdEFGRTadegijkmqstw]*p(.*)")
_FILE_FLAG = re.compile(rb"-[46DGTdeiqt]*f(.*)")


@dataclass(frozen=True, slots=True)
class Daemon:
    """`sockets`: inodes; None where this process may not see them. `cgroup`: its path. `ports`, `files`: of its command line."""

    sockets: frozenset[int] | None
    cgroup: str
    ports: frozenset[int] = frozenset()
    files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """`unsure`: of the ports, those that may be SSH's as well as another program's. `files`: what `-f` names."""

    ports: frozenset[int] = frozenset()
    unsure: frozenset[int] = frozenset()
    files: frozenset[str] = frozenset()


def found(root: Path = Path("/"), sockets: Callable[[], Iterable[Socket]] = tcp_sockets.sockets) -> Found:
    """Raises UnavailableError when the kernel does not tell which sockets there are."""
    groups = _mounted(root)
    daemons = tuple(_daemons(root))
    return of(
        tuple(sockets()),
        daemons,
        tuple(_units(groups)),
        _ephemeral(root),
        cgroup_id=lambda path: _id(groups, path),
        has_others=lambda path: _has_others(root, groups, path),
    )


def of(
    sockets: tuple[Socket, ...],
    daemons: tuple[Daemon, ...],
    units: tuple[str, ...],
    ephemeral: range,
    cgroup_id: Callable[[str], int | None],
    has_others: Callable[[str], bool],
) -> Found:
    """`units`: the paths of SSH's own cgroups. `has_others`: whether processes of other programs are in a cgroup.

    What may be SSH's is left out, and is unsure unless it is known to be SSH's: by a descriptor, by a command line, or because
    nothing but SSH runs in its service. What is started from a login without pam_systemd stays in SSH's own service.
    """
    inodes = frozenset().union(*(daemon.sockets or () for daemon in daemons))
    hidden = frozenset(daemon.cgroup for daemon in daemons if daemon.sockets is None)
    services = frozenset((*units, *(path for path in hidden if path.endswith(".service"))))
    own = _ids(services, cgroup_id)
    # A login session and a container have other programs, also while these have no process in the cgroup itself.
    shared = _ids(hidden, cgroup_id) - own
    alone = _ids((path for path in services if not has_others(path)), cgroup_id)

    its = [one for one in sockets if one.inode in inodes or (one.uid == 0 and one.cgroup in own)]
    certain = [one for one in its if one.inode in inodes or one.cgroup in alone]
    told, sure = _told(sockets, daemons, cgroup_id)
    maybe = {one.port for one in sockets if one.state == LISTEN and one.uid == 0 and one.cgroup in shared}
    ports = _used(its, ephemeral) | told | maybe
    unsure = ports - _used(certain, ephemeral) - sure
    return Found(ports, unsure, frozenset().union(*(daemon.files for daemon in daemons)))


def _told(
    sockets: Iterable[Socket], daemons: Iterable[Daemon], cgroup_id: Callable[[str], int | None]
) -> tuple[frozenset[int], frozenset[int]]:
    """The ports of command lines that sockets of root's have here, and those of them that the daemon itself has, as far as the
    kernel tells. A daemon in a container names ports of its own network: here, another program may have them."""
    of_root = [one for one in sockets if one.uid == 0 and one.state in (LISTEN, ESTABLISHED)]
    told, sure = set[int](), set[int]()
    for daemon in daemons:
        group = cgroup_id(daemon.cgroup)
        for one in of_root:
            if one.port not in daemon.ports:
                continue
            told.add(one.port)
            if None in (group, one.cgroup) or one.cgroup == group or one.inode in (daemon.sockets or ()):
                sure.add(one.port)
    return frozenset(told), frozenset(sure)


def _used(sockets: Iterable[Socket], ephemeral: range) -> frozenset[int]:
    """A connection from the ephemeral range without a listener is one that sshd dialled for a forwarding, and is left out."""
    ports = frozenset(one.port for one in sockets if one.state == LISTEN)
    return ports | {one.port for one in sockets if one.port not in ephemeral}


def _ids(paths: Iterable[str], cgroup_id: Callable[[str], int | None]) -> frozenset[int]:
    return frozenset(number for path in paths if (number := cgroup_id(path)) is not None)


def _daemons(root: Path) -> Iterator[Daemon]:
    """Those of root. No pathlib and no text files for what is asked of every process: they would cost ten times as much."""
    proc = f"{root}/proc"
    for name in os.listdir(proc):  # noqa: PTH208
        if name.isdigit() and _DAEMONS.fullmatch(_begin(f"{proc}/{name}/comm").strip()):
            process = Path(proc, name)
            status = _begin(str(process / "status"))
            uid = _UID.search(status)
            # A name is anybody's choice: without this a user takes a port out of the mesh.
            if uid is not None and int(uid[1]) == 0:
                words = _words(process)
                inner = _INNER.search(status) is not None
                named = frozenset[str]() if inner else _files(words)
                yield Daemon(_sockets(process), _cgroup(process), _ports(words), named)


def _begin(path: str) -> bytes:
    """Of a file of the kernel's; empty when its process has gone. They are everybody's to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _sockets(process: Path) -> frozenset[int] | None:
    try:
        links = [os.readlink(entry.path) for entry in os.scandir(process / "fd")]  # noqa: PTH115
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()  # the process has gone
    except OSError:
        return None
    return frozenset(int(link[8:-1]) for link in links if link.startswith("socket:["))


def _cgroup(process: Path) -> str:
    """In the hierarchy of version 2; `/` where there is none."""
    lines = _begin(str(process / "cgroup")).decode(errors="replace").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def _words(process: Path) -> list[bytes]:
    """Of the command line; sshd keeps them in the title that it gives itself."""
    return _begin(str(process / "cmdline")).replace(b"\0", b" ").split()


def _ports(words: list[bytes]) -> frozenset[int]:
    """Of `-p 2222`, `-p2222`, `-Dp 2222`, `-o Port=2222`, `-o "Port 2222"` and `-o ListenAddress=…:2222`."""
    ports = set()
    for value in _values(words, _PORT_FLAG):
        if digits := re.fullmatch(rb"(?:\S*:)?(\d{1,5})", value):
            ports.add(int(digits[1]))
    for i, word in enumerate(words):
        if not word.startswith(b"-o"):
            continue
        option = words[i + 1 :]
        if word[2:]:
            option.insert(0, word[2:])
        for count in (1, 2):  # `Port=2222`, and `Port 2222`
            if named := _PORT.match(b" ".join(option[:count])):
                ports.add(int(named[1]))
    return frozenset(port for port in ports if 1 <= port <= 65535)


def _files(words: list[bytes]) -> frozenset[str]:
    """Of `-f FILE` and `-Df FILE`. Where a relative one is, only the daemon knows."""
    return frozenset(os.fsdecode(value) for value in _values(words, _FILE_FLAG) if value.startswith(b"/"))


def _values(words: list[bytes], flag: re.Pattern[bytes]) -> Iterator[bytes]:
    """What follows a flag, in the same word or in the next."""
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=b""):
        if found := flag.fullmatch(word):
            yield found[1] or after


def _mounted(root: Path) -> Path | None:
    """Where the hierarchy of cgroups of version 2 is; None without one."""
    # Users name mount points and sources (FUSE), with any bytes.
    for line in (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, _, place, *_ = (*before.split(), "", "", "", "", "")
        if after.startswith("cgroup2 ") and all(len(part) < 256 for part in place.split("/")):
            return root / place.lstrip("/")
    return None


def _units(groups: Path | None) -> Iterator[str]:
    """SSH's services, sockets, and instances of them, which are there without a process of theirs too."""
    if groups is None:
        return
    system = groups / "system.slice"
    for folder in (system, *(path for path in _folders(system) if _SLICES.fullmatch(path.name))):
        for path in _folders(folder):
            if _UNITS.fullmatch(path.name):
                yield f"/{path.relative_to(groups)}"


def _folders(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, ValueError):
        return ()  # another init system's, or no path


def _id(groups: Path | None, path: str) -> int | None:
    """The id of a cgroup is the inode of its folder."""
    if groups is None:
        return None
    try:
        return (groups / path.lstrip("/")).stat().st_ino
    except (OSError, ValueError):
        return None  # it has gone, is outside of what this namespace shows, or is no path


def _has_others(root: Path, groups: Path | None, path: str) -> bool:
    """Whether a process in the cgroup is not SSH's; also where nobody can say. Of any user: a program may open its port as root
    and go on as another."""
    if groups is None:
        return True
    try:
        numbers = (groups / path.lstrip("/") / "cgroup.procs").read_text().split()
    except FileNotFoundError:
        return False  # it has gone
    except OSError:
        return True
    names = (_begin(f"{root}/proc/{number}/comm").strip() for number in numbers)
    # Without a name: it has ended since, or it is 0, which stands for one outside of this namespace.
    return "0" in numbers or any(name and not _DAEMONS.fullmatch(name) for name in names)


def _ephemeral(root: Path) -> range:
    first, last = (root / "proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return range(int(first), int(last) + 1)
