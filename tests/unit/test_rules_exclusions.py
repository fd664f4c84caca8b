"""Which ports are never redirected, from a made-up /etc and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.system import redirect_exclusions
from tests.redirect_support import ports

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def socket_line(port: int, state: str, inode: int) -> str:
    return f"   0: 0100000A:{port:04X} 0900000A:D431 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self/net").mkdir(parents=True)
    (tmp_path / "proc/self/net/tcp").write_text(HEADER)
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "proc/sys/net/ipv4/ip_local_port_range").write_text("32768\t60999\n")
    return tmp_path


def process(root: Path, pid: int, name: str, *inodes: int) -> None:
    (root / f"proc/{pid}/fd").mkdir(parents=True)
    (root / f"proc/{pid}/comm").write_text(name + "\n")
    for number, inode in enumerate(inodes):
        (root / f"proc/{pid}/fd/{number}").symlink_to(f"socket:[{inode}]")


def test_the_usual_machine(root: Path) -> None:
    found = redirect_exclusions.exclusions((4199,), root)
    assert found.inbound == ports("22", "4190-4191", "4199", "4567-4568")
    assert found.outbound == ports("22", "4567-4568")


def test_ports_from_every_file_that_may_name_one(root: Path) -> None:
    for name, text in {
        "etc/ssh/sshd_config": "# Port 1\nPort 2022\nListenAddress 10.0.0.1:2023\nListenAddress [::]:2024\n",
        "etc/ssh/sshd_config.d/site.conf": "port=2025\n",
        "etc/systemd/system/ssh.socket.d/port.conf": "[Socket]\nListenStream=\nListenStream=0.0.0.0:2026\nListenStream=2027\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert redirect_exclusions.configured_ssh_ports(root) == {2022, 2023, 2024, 2025, 2026, 2027}


def test_ports_of_live_sessions_but_not_of_what_sshd_dialled(root: Path) -> None:
    process(root, 10, "sshd", 100, 101)
    process(root, 11, "sshd-session", 102, 103, 105)
    process(root, 12, "nginx", 104)
    lines = [
        (22, "0A", 100),  # the listener
        (50022, "0A", 101),  # a listener within the ephemeral range
        (2200, "01", 102),  # a session that outlived its listener
        (40000, "01", 103),  # dialled for a forwarding
        (8080, "0A", 104),  # somebody else's
        (2299, "06", 105),  # TIME_WAIT
    ]
    (root / "proc/self/net/tcp").write_text(HEADER + "".join(socket_line(*line) for line in lines))
    assert redirect_exclusions.live_ssh_ports(root) == {22, 50022, 2200}


def test_ipv6_sockets_count_too(root: Path) -> None:
    process(root, 10, "sshd", 100)
    address = "0" * 32
    (root / "proc/self/net/tcp6").write_text(
        HEADER + f"   0: {address}:08AE {address}:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1\n"
    )
    assert redirect_exclusions.live_ssh_ports(root) == {2222}
