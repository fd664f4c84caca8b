"""Which ports are never redirected, from a made-up /etc and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.reconcilers import excluded_ports
from harness.rules import Inbound
from harness.system import redirect_exclusions
from harness.system.redirect_exclusions import Ssh
from tests.redirect_support import ports, spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("")
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "proc/sys/net/ipv4/ip_local_port_range").write_text("32768\t60999\n")
    return tmp_path


def test_the_usual_machine(root: Path) -> None:
    found = redirect_exclusions.exclusions((4199,), root)
    assert found.inbound == ports("22", "4190-4191", "4199", "4567-4568")
    assert found.outbound == ports("22", "4567-4568")


def test_ports_from_every_file_that_may_name_one(root: Path) -> None:
    for name, text in {
        "etc/ssh/sshd_config": "# Port 1\nPort 2022\nListenAddress 10.0.0.1:2023\nListenAddress [::]:2024\n",
        "etc/ssh/sshd_config.d/site.conf": "port=2025\n",
        "etc/systemd/system/ssh.socket.d/port.conf": "[Socket]\nListenStream=\nListenStream=0.0.0.0:2026\nListenStream=2027\n",
        "run/systemd/generator/ssh.socket.d/addresses.conf": "[Socket]\nListenStream=\nListenStream=[::]:2028\n",
        "usr/lib/systemd/system/dropbear.socket": "[Socket]\nListenStream=2029\nAccept=yes\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "run/systemd/system/ssh.socket").symlink_to("/dev/null")  # by `systemctl mask`: it is read, and names no port
    assert redirect_exclusions.configured_ssh_ports(root) == (frozenset(range(2022, 2030)), None)


def test_files_that_are_included_or_named_by_a_running_daemon(root: Path) -> None:
    for name, text in {
        "etc/ssh/sshd_config": 'Include /opt/ssh/*.conf "more.conf" # own\nInclude /opt/*/deep/[a-c].conf\n',
        "opt/ssh/deep/b.conf": "Port 2025\nPort " + "1" * 5000 + "\n",
        "etc/ssh/more.conf": "Port 2023\nInclude more.conf\n",
        "opt/ssh/a.conf": "Port 2022\n",
        "opt/own": "Port 2024\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    ports = redirect_exclusions.configured_ssh_ports(root, ["/opt/own", "/opt/absent"])
    assert ports == (frozenset({2022, 2023, 2024, 2025}), None)


@pytest.mark.parametrize(
    ("text", "says"),
    [('Include "/opt/x\n', "No closing quotation"), ("Include /opt/many/*\n", "more than 200 files")],
)
def test_what_is_included_and_cannot_be_followed_is_told(root: Path, text: str, says: str) -> None:
    (root / "opt/many").mkdir(parents=True)
    for i in range(201):
        (root / f"opt/many/{i}").touch()
    (root / "etc/ssh").mkdir(parents=True, exist_ok=True)
    (root / "etc/ssh/sshd_config").write_text(text)
    unread = redirect_exclusions.configured_ssh_ports(root)[1]
    assert unread is not None and says in unread.message


@pytest.mark.parametrize(
    ("inbound", "group", "said"),
    [
        (Inbound.PORTS, ("8000", "2220-2230"), "not redirected: port 2222, port 8000,"),
        (Inbound.PORTS, ("8080",), None),
        (Inbound.ALL, (), None),
        (Inbound.OFF, ("8000",), None),
    ],
)
def test_a_group_port_by_which_ssh_comes_is_a_problem(inbound: Inbound, group: tuple[str, ...], said: str | None) -> None:
    found = excluded_ports.found(spec(inbound=inbound, inbound_ports=ports(*group)), Ssh(ports("22", "2222", "8000")))
    assert (found.came if found else None) == (said and f"{said} by which SSH comes to this machine")
    assert found is None or found.problem.code == "group-port-excluded"
