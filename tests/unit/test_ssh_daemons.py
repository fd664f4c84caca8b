"""By which ports SSH comes: sockets as the kernel would tell them, and a made-up /proc and /sys."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system import ssh_daemons, tcp_sockets
from harness.system.ssh_daemons import Daemon, Found
from harness.system.tcp_sockets import ESTABLISHED, LISTEN, Socket
from harness.values import IPAddress
from tests.mesh import ROOT

ANY = ipaddress.ip_address("0.0.0.0")
SERVICE, SOCKET_UNIT, OTHER, SESSION = "/system.slice/ssh.service", "/system.slice/ssh.socket", "/app.service", "/session-3.scope"
IDS = {SERVICE: 1, SOCKET_UNIT: 2, OTHER: 3, SESSION: 4}
HIDDEN = None


def one(port: int, cgroup: str | None = None, state: int = LISTEN, inode: int = 0, uid: int = 0) -> Socket:
    return Socket(ANY, port, state, uid, inode, IDS[cgroup] if cgroup else None)


def seen(*inodes: int, cgroup: str = SERVICE) -> Daemon:
    return Daemon(frozenset(inodes), cgroup)


def of(sockets: list[Socket], *daemons: Daemon, units: tuple[str, ...] = (), mixed: tuple[str, ...] = ()) -> Found:
    """`mixed`: the cgroups in which other programs run too."""
    return ssh_daemons.of(tuple(sockets), daemons, units, range(32768, 61000), IDS.get, lambda path: path in mixed)


def test_listeners_and_sessions_but_not_what_sshd_dialled() -> None:
    sockets = [
        one(22, inode=100),
        one(50022, inode=101),  # a listener within the ephemeral range
        one(2200, state=ESTABLISHED, inode=102),  # a session that outlived its listener
        one(40000, state=ESTABLISHED, inode=103),  # dialled for a forwarding
        one(8080, inode=104),  # somebody else's
    ]
    assert of(sockets, seen(100, 101), seen(102, 103)) == Found(frozenset({22, 50022, 2200}))


def test_a_hidden_daemon_is_known_by_its_service() -> None:
    sockets = [one(2222, SERVICE), one(2200, SERVICE, ESTABLISHED), one(40000, SERVICE, ESTABLISHED), one(8000, OTHER)]
    assert of(sockets, Daemon(HIDDEN, SERVICE)) == Found(frozenset({2222, 2200}))


def test_a_unit_that_has_no_process() -> None:
    """Socket activation: systemd listens, in the cgroup of the socket."""
    assert of([one(2222, SOCKET_UNIT), one(8000, OTHER)], units=(SOCKET_UNIT,)) == Found(frozenset({2222}))


def test_of_a_cgroup_that_others_share_all_of_roots_listeners_may_be_ssh() -> None:
    sockets = [one(2222, SESSION), one(8000, SESSION, uid=1000), one(9000, SESSION, ESTABLISHED), one(8080, OTHER)]
    assert of(sockets, Daemon(HIDDEN, SESSION)) == Found(frozenset({2222}), frozenset({2222}))
    assert of(sockets, Daemon(HIDDEN, SESSION, frozenset({2222}))) == Found(frozenset({2222})), "its command line says so"


def test_of_a_service_that_others_share_only_what_ssh_names_is_sure() -> None:
    """Such as supervisord's. No exclusion is lost: neither a listener, nor a session that outlived its listener."""
    sockets = [one(2222, OTHER), one(8000, OTHER), one(2200, OTHER, ESTABLISHED), one(40000, OTHER, ESTABLISHED)]
    ports = frozenset({2222, 8000, 2200})
    assert of(sockets, Daemon(HIDDEN, OTHER), mixed=(OTHER,)) == Found(ports, ports)
    assert of(sockets, Daemon(HIDDEN, OTHER, frozenset({2222})), mixed=(OTHER,)) == Found(ports, frozenset({8000, 2200}))
    assert of(sockets, Daemon(HIDDEN, OTHER)) == Found(ports), "nothing else runs there"


def test_what_a_login_left_in_sshs_own_service_is_unsure() -> None:
    """Without pam_systemd there is no cgroup of a session. Also where the daemon's own sockets can be seen."""
    sockets = [one(2222, SERVICE, inode=100), one(8000, SERVICE, inode=200)]
    hidden = Daemon(HIDDEN, SERVICE, frozenset({2222}))
    for daemon in (hidden, seen(100)):
        found = of(sockets, daemon, units=(SERVICE,), mixed=(SERVICE,))
        assert found == Found(frozenset({2222, 8000}), frozenset({8000}))


def test_without_cgroups_the_command_line_counts() -> None:
    assert of([one(2222), one(8000)], Daemon(HIDDEN, "/", frozenset({2222}))) == Found(frozenset({2222}))


class Machine:
    """Its cgroups are folders, and so have ids."""

    def __init__(self, root: Path) -> None:
        self.root, self.sockets = root, [one(22, inode=100), one(8080, inode=200)]
        for file, text in {
            "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw",
            "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999",
        }.items():
            (root / file).parent.mkdir(parents=True)
            (root / file).write_text(f"{text}\n")

    def group(self, path: str) -> int:
        folder = self.root / f"sys/fs/cgroup/unified{path}"
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text("")
        return folder.stat().st_ino

    def process(
        self, *inodes: int, name: str = "sshd", uid: int = 0, title: str = "sshd", number: int = 10, inner: bool = False
    ) -> None:
        folder = self.root / f"proc/{number}"
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        numbers = f"{number}\t7" if inner else f"{number}"
        (folder / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t0\t0\t0\nGid:\t0\nNSpid:\t{numbers}\n")
        (folder / "cgroup").write_text(f"1:name=x:/\n0::{SERVICE}\n")
        (folder / "cmdline").write_text(title)
        for number, inode in enumerate(inodes):
            (folder / f"fd/{number}").symlink_to(f"socket:[{inode}]")

    def look(self) -> Found:
        return ssh_daemons.found(self.root, lambda: self.sockets)

    def found(self) -> frozenset[int]:
        return self.look().ports


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", ["sshd", "sshd-session", "dropbear"])
def test_a_daemon_of_roots(machine: Machine, name: str) -> None:
    machine.process(100, name=name)
    assert machine.found() == {22}


def test_a_users_program_of_that_name_is_none(machine: Machine) -> None:
    """It would take the port out of the mesh."""
    machine.process(200, uid=1000)
    assert machine.found() == set()


@pytest.mark.parametrize(
    ("title", "port"),
    [
        ("sshd: /usr/sbin/sshd -D -p 2222 [listener] 0 of 10-100 startups", 2222),
        ("/usr/sbin/sshd\0-D\0-p2222\0", 2222),
        ("/usr/sbin/sshd\0-Dp\0002222\0", 2222),
        ("/usr/sbin/sshd\0-f\0/etc/p 2222\0", None),
        ("/usr/sbin/sshd\0-o\0Port=2222\0-D", 2222),
        ("/usr/sbin/sshd\0-oPort=2222\0", 2222),
        ("/usr/sbin/sshd\0-o\0ListenAddress=[::1]:2222\0", 2222),
        ("/usr/sbin/sshd\0-o\0Port 2222\0", 2222),
        ("/usr/sbin/sshd\0-oPort 2222\0-D\0", 2222),
        ("dropbear\0-p\0010.0.0.1:2222\0", 2222),
        ("sshd\0-p\00065536\0", None),
        ("sshd\0-D\0-p", None),
        ("sshd\0-o\0LogLevel=DEBUG\0-D", None),
    ],
)
def test_the_ports_of_a_command_line(machine: Machine, title: str, port: int | None) -> None:
    machine.sockets += [one(2222, inode=300)]
    machine.process(title=title)
    assert machine.found() == ({port} if port else set())


def test_a_daemon_in_a_container_says_nothing_of_this_network(machine: Machine) -> None:
    """Its process is seen, and its sockets and files are not."""
    machine.sockets += [one(8000, OTHER, uid=1000)]
    machine.process(title="/usr/sbin/sshd -p 8000 -f /opt/sshd_config", inner=True)
    assert machine.look() == Found()


def test_a_port_that_another_program_of_roots_has_is_unsure() -> None:
    """Maybe a container's daemon names it, and maybe root's supervisor listens for SSH: it is left out, and that is told."""
    found = of([one(8000, OTHER)], Daemon(HIDDEN, SESSION, frozenset({8000})))
    assert found == Found(frozenset({8000}), frozenset({8000}))


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("sshd: /usr/sbin/sshd -f /opt/sshd_config [listener] 0 of 10-100 startups", "/opt/sshd_config"),
        ("/usr/sbin/sshd\0-Df\0/opt/sshd_config\0-p\0002222", "/opt/sshd_config"),
        ("/usr/sbin/sshd\0-f/opt/sshd_config\0", "/opt/sshd_config"),
        ("/usr/sbin/sshd\0-f\0sshd_config\0", None),
        ("/usr/sbin/sshd\0-D\0-f", None),
    ],
)
def test_the_file_of_a_command_line(machine: Machine, title: str, file: str | None) -> None:
    """Where the kernel names no cgroups, these files alone tell the port."""
    machine.process(title=title)
    assert machine.look().files == ({file} if file else set())


def test_a_mount_whose_name_is_no_text(machine: Machine) -> None:
    """A user may name one, by FUSE."""
    mounts = machine.root / "proc/self/mountinfo"
    mounts.write_bytes(b"31 23 0:27 / /home/a/\xff rw - fuse \xff rw\n" + mounts.read_bytes())
    machine.process(100)
    assert machine.found() == {22}


@pytest.mark.parametrize(
    "path",
    [
        "ssh.service",
        "sshd.socket",
        "system-ssh.slice/ssh@3-10.0.0.1:22-10.0.0.2:4321.service",
        "system-sshd.slice/sshd@a.service",
    ],
)
def test_units_by_name(machine: Machine, path: str) -> None:
    number = machine.group(f"/system.slice/{path}")
    other = machine.group("/system.slice/openssh-metrics.service")
    machine.sockets = [Socket(ANY, 2222, LISTEN, 0, 7, number), Socket(ANY, 8000, LISTEN, 0, 8, other)]
    assert machine.found() == {2222}


@pytest.mark.parametrize(
    ("processes", "sure"),
    [
        ({10: "sshd", 11: "sshd-session"}, True),
        ({10: "sshd", 11: "bash"}, False),
        ({10: "sshd", 12: None}, True),  # it has ended since
        ({10: "sshd", 0: None}, False),  # the kernel does not say which: it is outside of this namespace
    ],
)
def test_a_listener_of_sshs_service_is_sshs_while_nothing_else_runs_there(
    machine: Machine, processes: dict[int, str | None], sure: bool
) -> None:
    number = machine.group(SERVICE)
    (machine.root / f"sys/fs/cgroup/unified{SERVICE}/cgroup.procs").write_text("".join(f"{pid}\n" for pid in processes))
    for pid, name in processes.items():
        if name:
            machine.process(name=name, number=pid)
    machine.sockets = [Socket(ANY, 2222, LISTEN, 0, 7, number)]
    assert machine.look() == Found(frozenset({2222}), frozenset() if sure else frozenset({2222}))


def addresses() -> list[IPAddress]:
    return [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]


@pytest.mark.parametrize("address", addresses(), ids=str)
def test_the_kernel_and_proc_tell_the_same(address: IPAddress) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    table = Path("/proc/self/net/tcp" if address.version == 4 else "/proc/self/net/tcp6")
    with socket.create_server((str(address), 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((str(address), port)), server.accept()[0] as accepted:
            asked = {found.inode: found for found in tcp_sockets.sockets(port=port)}
            listed = {found.inode: found for found in tcp_sockets._listed(table, tcp_sockets.BOTH, port)}
            assert asked.keys() == listed.keys() == {os.fstat(one.fileno()).st_ino for one in (server, accepted)}
            for inode, found in asked.items():
                same = (found.address, found.port, found.state, found.uid)
                assert same == (listed[inode].address, listed[inode].port, listed[inode].state, listed[inode].uid)
                assert (found.address, found.port, found.uid) == (address, port, os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to do without")
def test_the_descriptors_of_a_daemon_with_more_capabilities_are_hidden() -> None:
    """As in the shipped unit: what may not be looked at is not taken for nothing."""
    code = "from harness.system import ssh_daemons; from pathlib import Path; print(ssh_daemons._sockets(Path('/proc/{}')))"
    bounded = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--")
    command = [*bounded, sys.executable, "-c", code.format(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "None"
