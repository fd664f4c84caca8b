"""Who reaches a server that listens: clients of both families, on machines that have both, or one of them only."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.controller_support import TRUST_DOMAIN, Authority
from tests.namespaces import Namespace, namespace
from tests.waiting import wait
from tests.workload_api_support import REPOSITORY

IPV4, IPV6 = "127.0.0.1", "::1"
NO_IPV6_IN_THE_KERNEL = (sys.executable, "-m", "tests.without_ipv6")
# The status of the answers: of health, metrics and the fleet's page, and of a call over mutual TLS that there is not.
CLIENT = """
import json, socket, ssl, sys
host, authority, certificate, key, *ports = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.load_cert_chain(certificate, key)
said = {}
for name, port, path in zip(("health", "metrics", "page", "call"), ports, ("/healthz", "/metrics", "/", "/v1/other")):
    try:
        with socket.create_connection((host, int(port)), 20) as plain:
            one = context.wrap_socket(plain, server_hostname="controller") if name == "call" else plain
            one.sendall(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n".encode())
            said[name] = one.recv(4096).split()[1].decode()
    except OSError as error:
        said[name] = type(error).__name__
print(json.dumps(said))
"""
METRICS = """
import asyncio, sys
from harness.system.metrics_server import MetricsServer
from harness.values import parse_host_port
async def main():
    await MetricsServer(lambda: "").listen(parse_host_port(sys.argv[1]))
    print("listening", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 4192), 20).close()
    print("answered")
except OSError as error:
    print(type(error).__name__)
"""
# Another program has port 7000 of IPv4, and 7001 of IPv6.
TAKING = """
import socket, time
ones = [socket.create_server(("", 7000)), socket.create_server(("::", 7001), family=socket.AF_INET6)]
print("listening", flush=True)
time.sleep(600)
"""
ANSWERED = {"health": "200", "metrics": "200", "page": "200", "call": "404"}


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def configured(folder: Path, **changes: Any) -> Authority:
    authority = Authority(folder)
    certificate, key = authority.issue("server", dns=("controller",))
    (folder / "groups").mkdir()
    data = {
        "tls_cert": certificate, "tls_key": key, "trust_anchors": authority.anchors, "trust_domain": TRUST_DOMAIN,
        "groups": str(folder / "groups"), "listen": "[::]:8081", "health_listen": "[::]:9995", "fleet_listen": "[::]:9996",
    }  # fmt: skip
    (folder / "controller.yaml").write_text(yaml.safe_dump(data | changes))
    return authority


def command(folder: Path) -> tuple[str, ...]:
    return sys.executable, "-m", "controller", "run", f"--config={folder / 'controller.yaml'}"


@contextlib.contextmanager
def running(machine: Namespace, log: Path, *argv: str, until: str) -> Iterator[None]:
    """Until its output has `until`."""
    with log.open("wb") as output:
        process = subprocess.Popen([*machine.enter, *argv], stdout=output, stderr=output, cwd=REPOSITORY)
    try:
        wait(lambda: until in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def metrics(machine: Namespace, folder: Path, host: str) -> Iterator[None]:
    """The daemon's server of metrics on a machine whose /etc/hosts knows both.test."""
    (folder / "hosts").write_text(f"{IPV4} both.test\n{IPV6} both.test\n")
    own_hosts = ("unshare", "--mount", "sh", "-c", f'mount --bind {folder}/hosts /etc/hosts && exec "$@"', "sh")
    with running(machine, folder / "log", *own_hosts, sys.executable, "-c", METRICS, f"{host}:4192", until="listening"):
        yield


def asked(machine: Namespace, authority: Authority, host: str) -> dict[str, str]:
    files = authority.anchors, *authority.issue("face", f"spiffe://{TRUST_DOMAIN}/face")
    ports = "9995", "9995", "9996", "8081"
    said: dict[str, str] = json.loads(machine.run(sys.executable, "-c", CLIENT, host, *files, *ports))
    return said


def callers(log: Path) -> list[str]:
    """The addresses that it logged refusals of."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["peer"] for line in lines if line["event"] == "refused"]


@pytest.mark.parametrize(
    ("prepare", "wrapper", "reached"),
    [
        ((), (), (IPV4, IPV6)),
        (("sysctl", "-qw", "net.ipv6.bindv6only=1"), (), (IPV4, IPV6)),
        (("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"), (), (IPV4,)),
        ((), NO_IPV6_IN_THE_KERNEL, (IPV4,)),
        (("ip", "-4", "address", "flush", "dev", "lo"), (), (IPV6,)),
    ],
    ids=["both", "bindv6only", "IPv6 off", "a kernel without IPv6", "no IPv4 address"],
)
def test_the_controller_is_reached_by_each_family_that_there_is(
    machine: Namespace, tmp_path: Path, prepare: tuple[str, ...], wrapper: tuple[str, ...], reached: tuple[str, ...]
) -> None:
    if prepare:
        machine.run(*prepare)
    authority, log = configured(tmp_path), tmp_path / "log"
    with running(machine, log, *wrapper, *command(tmp_path), until="controller ready"):
        assert [asked(machine, authority, host) for host in reached] == [ANSWERED] * len(reached)
        wait(lambda: callers(log) == list(reached), why=lambda: f"an IPv4 caller is logged as such: {callers(log)}")


def test_without_a_word_machines_of_both_families_are_served(machine: Namespace, tmp_path: Path) -> None:
    authority = configured(tmp_path)
    data = yaml.safe_load((tmp_path / "controller.yaml").read_text())
    del data["listen"]
    (tmp_path / "controller.yaml").write_text(yaml.safe_dump(data))
    with running(machine, tmp_path / "log", *command(tmp_path), until="controller ready"):
        assert [asked(machine, authority, host)["call"] for host in (IPV4, IPV6)] == ["404", "404"]


@pytest.mark.parametrize(
    ("where", "reached"),
    [
        ("[::]", (IPV4, IPV6)),
        ("0.0.0.0", (IPV4,)),
        ("127.0.0.1", (IPV4,)),
        ("[::1]", (IPV6,)),
        ("[::ffff:127.0.0.1]", (IPV4,)),
        ("both.test", (IPV4, IPV6)),
    ],
)
def test_an_address_is_that_address_and_a_name_all_of_its_addresses(
    machine: Namespace, tmp_path: Path, where: str, reached: tuple[str, ...]
) -> None:
    with metrics(machine, tmp_path, where):
        answers = {host: machine.run(sys.executable, "-c", TRY, host).strip() for host in (IPV4, IPV6)}
    assert answers == {host: "answered" if host in reached else "ConnectionRefusedError" for host in (IPV4, IPV6)}


def test_of_a_name_the_addresses_count_that_the_machine_has(machine: Namespace, tmp_path: Path) -> None:
    machine.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with metrics(machine, tmp_path, "both.test"):
        assert machine.run(sys.executable, "-c", TRY, IPV4).strip() == "answered"


@pytest.mark.parametrize(
    ("change", "code", "texts"),
    [
        ({"listen": "[::]:7000"}, 69, ("listen: cannot listen on [::]:7000: Address already in use", "ss -ltnp 'sport = :7000'")),
        ({"health_listen": "0.0.0.0:7000"}, 69, ("health_listen: cannot listen on 0.0.0.0:7000: Address already in use",)),
        ({"health_listen": "[::1]:7001"}, 69, ("health_listen: cannot listen on [::1]:7001: Address already in use",)),
        ({"fleet_listen": "192.0.2.1:80"}, 69, ("fleet_listen: cannot listen on 192.0.2.1:80: Cannot assign", "ip address")),
        ({"listen": "[2001:db8::1]:80"}, 69, ("listen: cannot listen on [2001:db8::1]:80: Cannot assign", "ip address")),
        ({"listen": "no.such.invalid:80"}, 69, ("listen: cannot listen on no.such.invalid:80:", "getent ahosts no.such.invalid")),
        ({"listen": "a..b:80"}, 78, ("listen: 'a..b:80' is not host:port or [v6-address]:port",)),
        ({"listen": "::8081"}, 78, ("listen: '::8081' is not host:port or [v6-address]:port",)),
        ({"health_listen": "[::]:0"}, 78, ("health_listen: '0' is not a port",)),
    ],
)
def test_what_cannot_be_listened_on_is_named(
    machine: Namespace, tmp_path: Path, change: dict[str, str], code: int, texts: tuple[str, ...]
) -> None:
    """Of `[::]` one family is not enough where there are both."""
    configured(tmp_path, **change)
    with running(machine, tmp_path / "taken", sys.executable, "-c", TAKING, until="listening"):
        done = subprocess.run(
            [*machine.enter, *command(tmp_path)], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY,
            env=dict(os.environ),
        )  # fmt: skip
    assert done.returncode == code and all(text in done.stderr for text in texts), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["7000", "7001"])
def test_faces_does_not_serve_half_of_its_callers(machine: Namespace, tmp_path: Path, port: str) -> None:
    with running(machine, tmp_path / "taken", sys.executable, "-c", TAKING, until="listening"):
        command = [*machine.enter, sys.executable, "-m", "demo.faces", "smiley", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert done.returncode and "Address already in use" in done.stderr, done.stderr
