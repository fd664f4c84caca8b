"""The development proxy as a real process, with real redirects: who may talk to whom, rotation and endpoints."""

from __future__ import annotations

import errno
import socket
import subprocess
import time

import pytest

from demo.services import Objects
from harness.proxy_environment import DESTINATION_IDENTITY
from tests.children.mesh_lab import (
    CLUSTER,
    REDIRECTED_GID,
    VIP,
    VIP6,
    Lab,
    Machine,
    mesh_fixture,  # noqa: F401 — a fixture
    new_authority,
    spiffe,
)
from tests.children.mesh_namespace import APP_PORT, RawApp
from tests.waiting import wait
from tests.workload_api_support import write_pem

pytestmark = pytest.mark.root


def exchange(machine: Machine, data: bytes, address: str = VIP, port: int = 80, gid: int | None = REDIRECTED_GID) -> bytes:
    """Sends `data`, ends its direction, and returns all that comes back; empty when the connection breaks."""

    def call() -> bytes:
        with socket.create_connection((address, port), timeout=30) as connection:
            answer = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except ConnectionError:
                pass
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # what `shutdown` says of a broken connection
                    raise
            return answer

    return machine.namespace.call(call, gid)


def opened(machine: Machine, *parts: str) -> int:
    return sum(int(line.rpartition(" ")[2]) for line in machine.metrics("tcp_open_total{", *parts))


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_service_is_reached_with_mutual_tls_and_both_ends_name_the_peer(mesh: Lab, address: str) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    mesh.publish(server)
    own = server.address6 if address == VIP6 else server.address
    app = RawApp(server.namespace, own)
    data = bytes(range(256)) * 2000  # many TLS records
    assert exchange(client, data, address) == data  # the client's half-close went through, the answer came after it
    assert opened(client, 'direction="outbound"', 'tls="true"', f'server_id="{spiffe("app")}"') == 1
    assert opened(server, 'direction="inbound"', 'tls="true"', f'client_id="{spiffe("cli")}"') == 1
    wait(lambda: not any(line.endswith(" 1") for line in client.metrics("tcp_open_connections")))
    app.close()


def test_no_byte_goes_to_a_peer_with_another_identity(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "color")
    mesh.publish(server, identity="smiley")  # a certificate of the same CA, and the wrong name in it
    server.stop()
    environment = server.environment("color", mesh.anchors) | {"LINKERD2_PROXY_IDENTITY_SERVER_NAME": "smiley.cluster.local"}
    server.spawn(environment)
    server.until_ready()
    app = RawApp(server.namespace, server.address)
    assert exchange(client, b"secret") == b""
    assert app.received == b""
    assert opened(client, 'direction="outbound"') == 0
    assert f"the peer is {spiffe('color')}, not {spiffe('smiley')}" in client.log.read_text()
    mesh.publish(server, identity="color")
    app.close()


def test_a_peer_of_another_authority_is_refused_both_ways(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app", start=False)
    stranger = new_authority()
    anchors = write_pem(mesh.folder / "other.crt", *stranger.certificates).read_text()
    server.svids.give(stranger, "app")
    server.spawn(server.environment("app", anchors))
    server.until_ready()
    mesh.publish(server)
    app = RawApp(server.namespace, server.address)
    assert exchange(client, b"secret") == b""
    assert "certificate verify failed" in client.log.read_text()
    # The other way: this client trusts the server, which does not trust the client.
    trusting = mesh.machine("trusting", start=False)
    trusting.svids.give(stranger, "trusting")
    server.stop()
    server.svids.give(mesh.authority, "app")
    server.spawn(server.environment("app", mesh.anchors))
    server.until_ready()
    trusting.spawn(trusting.environment("trusting", anchors + mesh.anchors))
    trusting.until_ready()
    assert exchange(trusting, b"secret") == b""
    assert not app.received
    assert app.connections == 0
    app.close()


def test_without_a_mesh_client_or_service_it_passes_bytes_on(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    mesh.publish()
    app = RawApp(server.namespace, server.address)
    assert exchange(client, b"plain", server.address, APP_PORT) == b"plain"  # no entry for this address: as it is
    assert opened(client, 'direction="outbound"', 'tls="no_identity"') == 1
    assert opened(server, 'direction="inbound"', 'tls="no_identity"') == 1
    before = bytes(app.received)
    hello = b"\x16\x03\x01 the application's own TLS"  # starts as TLS does, but is not for us
    assert exchange(client, hello, server.address, APP_PORT, gid=None) == b""
    assert bytes(app.received) == before
    mesh.publish(server)

    def meshed() -> bool:
        """By the workload's own address, as soon as the proxy has heard of it."""
        answer = exchange(client, b"direct", server.address, APP_PORT)
        return answer.endswith(b"direct") and opened(client, 'tls="true"', f'server_id="{spiffe("app")}"') == 1

    wait(meshed)
    app.close()


def test_tls_of_the_applications_own_goes_through_unopened(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    app = RawApp(server.namespace, server.address)
    hello = _client_hello("shop.example")
    assert exchange(client, hello, server.address, APP_PORT, gid=None) == hello
    assert opened(server, 'direction="inbound"', 'tls="opaque"') == 1
    app.close()


def _client_hello(server_name: str) -> bytes:
    import ssl

    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


def test_direct_connections_to_the_proxy_ports_are_refused(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    assert exchange(client, b"x", server.address, 4143, gid=None) == b""
    assert exchange(client, b"x", "127.0.0.1", 4140, gid=None) == b""
    assert exchange(client, b"x", "::1", 4140, gid=None) == b""
    assert client.admin("/ready")[0] == 200


def test_rotation_keeps_connections_and_serves_new_ones(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app", start=False)
    first = server.svids.give(mesh.authority, "app", ttl=8.0)
    server.spawn(server.environment("app", mesh.anchors))
    server.until_ready()
    mesh.publish(server)
    app = RawApp(server.namespace, server.address)

    def across() -> bytes:
        with socket.create_connection((VIP, 80), timeout=30) as connection:
            connection.sendall(b"before ")
            wait(lambda: app.received == b"before ")
            second = server.svids.give(mesh.authority, "app")
            wait(lambda: bool(server.metrics('refreshes_total{result="ok"} 2')))
            assert server.metrics(f"expiration_timestamp_seconds {second.expires_at}")
            time.sleep(max(0.0, first.expires_at - time.time()) + 0.2)
            connection.sendall(b"after")
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100)

    assert client.namespace.call(across, REDIRECTED_GID) == b"before after"
    assert exchange(client, b"!") == b"before after!"
    # An SVID that nobody would accept is not taken.
    server.svids.give(new_authority(), "app")
    wait(lambda: "the SVID is unusable" in server.log.read_text())
    server.svids.give(mesh.authority, "other")
    wait(lambda: "no matching SVID found" in server.log.read_text())
    assert exchange(client, b"?") == b"before after!?"
    app.close()


def test_connections_are_spread_and_go_round_a_dead_endpoint(mesh: Lab) -> None:
    client, one, two = mesh.machine("cli"), mesh.machine("one", "app"), mesh.machine("two", "app")
    mesh.publish(one, two)
    apps = [RawApp(machine.namespace, machine.address) for machine in (one, two)]
    for _ in range(6):
        assert exchange(client, b"x")
    assert [app.connections for app in apps] == [3, 3]
    one.stop()
    for _ in range(4):
        assert exchange(client, b"x")
    assert [app.connections for app in apps] == [3, 7]
    mesh.publish()
    wait(lambda: not exchange(client, b"x"))
    began = time.monotonic()
    assert exchange(client, b"x") == b""  # no endpoint: held a while, then closed
    assert time.monotonic() - began > 2.5
    mesh.publish(two)
    assert exchange(client, b"x")
    for app in apps:
        app.close()


def test_a_route_shares_connections_and_a_pod_without_a_proxy_is_called_in_plain_text(mesh: Lab) -> None:
    client, server, pod = mesh.machine("cli"), mesh.machine("srv", "app"), mesh.machine("pod", start=False)
    apps = [RawApp(machine.namespace, machine.address) for machine in (server, pod)]
    pod.namespace.call(lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))  # nothing there takes it to a proxy
    ready = [{"type": "Ready", "status": "True"}]

    def share(here: int, canary: int) -> None:
        names = ("app", VIP, here), ("canary", "10.43.0.11", canary)
        port = {"name": "http", "port": 80, "targetPort": APP_PORT}
        ones = [
            {"metadata": {"name": name, "namespace": "faces"},
             "spec": {"clusterIP": address, "selector": {"service": name}, "ports": [port]}}
            for name, address, _ in names
        ]  # fmt: skip
        machine = {
            "metadata": {"name": "srv", "namespace": "faces", "labels": {"service": "app"}},
            "spec": {
                "meshTLS": {"identity": spiffe("app"), "serverName": "app.cluster.local"},
                "workloadIPs": [{"ip": server.address}],
                "ports": [{"name": "http", "port": APP_PORT}],
            },
            "status": {"conditions": ready},
        }
        other = {
            "metadata": {"name": "pod-0", "namespace": "faces", "labels": {"service": "canary"}},
            "spec": {"containers": []},
            "status": {"podIP": pod.address, "conditions": ready},
        }
        backends = [{"name": name, "port": 80, "weight": weight} for name, _, weight in names]
        route = {
            "metadata": {"name": "canary", "namespace": "faces"},
            "spec": {"parentRefs": [{"kind": "Service", "name": "app"}], "rules": [{"backendRefs": backends}]},
        }
        mesh.update(Objects(ones, [machine], [other], [route]))

    share(100, 0)
    assert exchange(client, b"x")
    share(80, 20)
    wait(lambda: exchange(client, b"x") and apps[1].connections)
    before = [app.connections for app in apps]
    for _ in range(20):
        assert exchange(client, b"x")
    assert [app.connections - earlier for app, earlier in zip(apps, before, strict=True)] == [16, 4]
    assert opened(client, 'direction="outbound"', 'tls="no_identity"', 'dst_pod="pod-0"') == apps[1].connections
    assert opened(client, 'tls="true"', f'server_id="{spiffe("app")}"') == apps[0].connections
    for app in apps:
        app.close()


def test_a_destination_service_of_another_name_is_not_believed(mesh: Lab) -> None:
    client, server = mesh.machine("cli", start=False), mesh.machine("srv", "app")
    mesh.publish(server)
    app = RawApp(server.namespace, server.address)
    client.spawn(client.environment("cli", mesh.anchors) | {"LINKERD2_PROXY_DESTINATION_SVC_NAME": "other.linkerd.test"})
    client.until_ready()
    assert exchange(client, b"secret") == b""
    assert f"the peer is {DESTINATION_IDENTITY}, not other.linkerd.test" in client.log.read_text()
    assert app.connections == 0
    app.close()


def test_known_destinations_outlive_the_endpoint_server(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    mesh.publish(server)
    app = RawApp(server.namespace, server.address)
    assert exchange(client, b"1") == b"1"
    mesh.cluster.call(lambda: subprocess.run(["nft", "-f", "-"], input=_CUT_OFF, text=True, check=True))
    assert exchange(client, b"2") == b"12"
    assert exchange(client, b"x", CLUSTER, 9999) == b""  # and one not known yet fails, rather than going out in plaintext
    # Otherwise the server does not see that its clients end: their connections stay open, and a later test is blamed for them.
    mesh.cluster.call(lambda: subprocess.run(["nft", "delete", "table", "ip", "mx"], check=True))
    app.close()


_CUT_OFF = "table ip mx { chain in { type filter hook input priority 0; tcp dport 8086 reject with tcp reset; }; }"
