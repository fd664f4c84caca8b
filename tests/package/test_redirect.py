"""What docs/redirect.md promises, inside the shipped unit's sandbox, by either backend. SSH's ports are in tests/neighbors."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from harness.daemon.loop import TIMER_SECONDS
from tests import halted
from tests.mesh import NODE, VM
from tests.namespaces import Namespace, connect, namespace
from tests.package.machine import PODS, PROXY, UNIT, Machine, machine, uid_of
from tests.package.member import DROP_IN, drop_in, faulty, make_ready, repairs
from tests.package.root import layered

OUTSIDE = "192.0.2.7"
CONTAINER = "172.17.0.2"  # of a link of this machine's own, in what the cluster has for pods
VM6, NODE6 = "fd09::2", "fd09::1"
LEFT = "172.21.0.9"  # a pod in a network of ignore_subnets
LINK, LINK_VM, LINK_NODE = "left0", "10.8.0.2", "10.8.0.1"  # of ignore_interfaces
BEHIND, BEHIND_VM = "198.51.100.2", "198.51.100.1"  # a container that the machine forwards to
# A port of the group, one that is not, and those that are left alone: by configuration, SSH's, and the harness's own.
GROUP, OTHER, IGNORED, SSH, ADMIN, METRICS = 8000, 9000, 9003, 22, 4291, 4192
GATEWAY = (4567, 4568)
PROXYS = (4190, 4191)
DROPPED = "/etc/meshexp/harness.d/60-test.yaml"
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def member(installed: tuple[Path, ...], request: pytest.FixtureRequest) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found, namespace() as container:
        left = {"ignore_subnets": ["172.21.0.0/16"], "ignore_interfaces": [LINK]}
        ports = {"ignore_outbound_ports": [IGNORED], "ignore_inbound_ports": [IGNORED]}
        found.configure(
            redirect={"backend": request.param, **ports, **left},
            network={"pod_cidrs": ["10.42.0.0/24", "172.16.0.0/12"], "mesh_cidrs": ["10.8.0.0/24", "fd09::/64"]},
            proxy={"admin_port": ADMIN},
        )
        for address in OUTSIDE, LEFT:
            found.mesh.node.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        serve = (PYTHON, "-c", halted.SERVE, halted.UNTOUCHED)
        found.mesh.start("many", found.mesh.node, *serve, *(f"::/{port}" for port in (OTHER, IGNORED, SSH, *GATEWAY)))
        found.boot()
        plug(found, container)
        found.mesh.start("behind", container, *serve, f"0.0.0.0/{GROUP}")
        own = tuple(f"::/{port}" for port in (GROUP, OTHER, IGNORED, SSH, *GATEWAY, *PROXYS))
        found.run("systemd-run", "--quiet", "--collect", "--unit=workload", *serve, *own)
        found.wait(lambda: f":{PROXYS[-1]}" in found.mesh.vm.run("ss", "-ltnH"))
        yield found


def plug(vm: Machine, container: Namespace) -> None:
    """IPv6, another link to the node, and a container behind the machine."""
    here, node = vm.mesh.vm, vm.mesh.node
    here.run("ip", "address", "add", f"{VM6}/64", "dev", "eth0", "nodad")
    node.run("ip", "address", "add", f"{NODE6}/64", "dev", "eth0", "nodad")
    here.run("ip", "route", "add", f"{OUTSIDE}/32", "via", NODE)
    connect(here, node, [(f"{LINK_VM}/24", f"{LINK_NODE}/24")], name=LINK)
    connect(here, container, [(f"{BEHIND_VM}/24", f"{BEHIND}/24")], name="behind0")
    here.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    container.run("ip", "route", "add", "default", "via", BEHIND_VM)
    node.run("ip", "route", "add", f"{BEHIND}/32", "via", VM)


@pytest.fixture
def vm(member: Machine) -> Iterator[Machine]:
    make_ready(member)
    member.wait(lambda: member.condition("Redirected")["message"].startswith("outbound to"))
    yield member
    again = "try-reload-or-restart"
    if member.file(DROP_IN).exists():
        drop_in(member, "")
        again = "try-restart"
    member.file(DROPPED).unlink(missing_ok=True)
    member.run("systemctl", again, UNIT)


def of_unit(vm: Machine, unit: str) -> contextlib.AbstractContextManager[None]:
    """Its first process does nothing meanwhile."""
    return halted.halted(lambda number: vm.run("systemctl", "kill", "--kill-whom=main", f"--signal={number.name}", unit))


def out(vm: Machine, address: str, port: int) -> str:
    return halted.called(vm.run, PYTHON, [("", address, port)])[0]


def rules(vm: Machine) -> str:
    return vm.run("meshexp", "redirect", "show", "-o", "rules")


def configured(vm: Machine, text: str, says: str) -> None:
    """In force, once the status says so."""
    vm.file(DROPPED).write_text(f"redirect: {{{text}}}\n")
    vm.run("systemctl", "reload", UNIT)
    vm.wait(lambda: says in vm.condition("Redirected")["message"])


ASK = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as asker:
    asker.settimeout(5)
    asker.bind((sys.argv[1], 0))
    asker.sendto(b"heard", (sys.argv[2], int(sys.argv[3])))
    print(asker.recv(9).decode(), end="")
"""


def asked(run: Callable[..., str], source: str, address: str, port: int) -> str:
    """By UDP."""
    return run(PYTHON, "-c", ASK, source, address, str(port))


@pytest.mark.parametrize("mode", ["mesh and ports", "all"])
def test_what_is_redirected_and_what_never(vm: Machine, mode: str) -> None:
    others = halted.UNTOUCHED
    if mode == "all":
        configured(vm, "outbound: all, inbound: all", "all outbound → 4140, all inbound → 4143")
        others = halted.BY_PROXY
    outbound = {
        **{("", address, OTHER): halted.BY_PROXY for address in (PODS, NODE6)},
        ("", OUTSIDE, OTHER): others,
        **{("", PODS, port): halted.UNTOUCHED for port in (IGNORED, SSH, *GATEWAY)},
        **{("", address, OTHER): halted.UNTOUCHED for address in (LEFT, LINK_NODE, "127.0.0.1", "::1")},
        ("", NODE6, IGNORED): halted.UNTOUCHED,
    }
    inbound = {
        **{(source, address, GROUP): halted.BY_PROXY for source, address in ((PODS, VM), ("", VM6))},
        **{(source, address, OTHER): others for source, address in ((PODS, VM), ("", VM6))},
        **{(PODS, VM, port): halted.UNTOUCHED for port in (IGNORED, SSH, *GATEWAY, *PROXYS)},
        # These listen on loopback only; the proxy would take the call.
        **{(PODS, VM, port): "Connection refused" for port in (ADMIN, METRICS)},
        **{(source, address, GROUP): halted.UNTOUCHED for source, address in ((LEFT, VM), (PODS, LINK_VM), (PODS, BEHIND))},
        ("", VM6, SSH): halted.UNTOUCHED,
    }
    user = ("setpriv", f"--reuid={uid_of(vm, 'meshexp-proxy')}", "--clear-groups")
    with of_unit(vm, PROXY):
        assert dict(zip(outbound, halted.called(vm.run, PYTHON, outbound), strict=True)) == outbound
        assert dict(zip(inbound, halted.called(vm.mesh.node.run, PYTHON, inbound), strict=True)) == inbound
        assert halted.called(partial(vm.run, *user), PYTHON, [("", PODS, OTHER)]) == [halted.UNTOUCHED]
        assert asked(vm.run, "", PODS, OTHER) == asked(vm.mesh.node.run, PODS, VM, GROUP) == "heard"


def test_this_machines_own_containers_are_left_alone_while_their_link_is_there(vm: Machine) -> None:
    vm.run("ip", "link", "add", "docker0", "type", "bridge")
    vm.run("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
    vm.run("ip", "link", "set", "docker0", "up")
    vm.wait(lambda: "docker0" in rules(vm))
    with of_unit(vm, PROXY):
        for address in CONTAINER, "172.18.0.2":
            vm.mesh.node.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        vm.run("ip", "neigh", "replace", CONTAINER, "lladdr", "02:00:00:00:00:01", "dev", "docker0", "nud", "permanent")
        assert "docker0" in vm.run("ip", "route", "get", CONTAINER)
        # Nobody is there, and the proxy would have answered.
        assert re.search(r"No route to host|timed out", out(vm, CONTAINER, OTHER))
        assert out(vm, "172.18.0.2", OTHER) == halted.BY_PROXY
        with of_unit(vm, UNIT):  # nobody changes the rules
            vm.run("ip", "link", "set", "docker0", "down")
            assert out(vm, CONTAINER, OTHER) == halted.BY_PROXY
    vm.run("ip", "link", "del", "docker0")


TALK = """
import socket, sys
source, address, port = sys.argv[1:]
with socket.create_connection((address, int(port)), 5, (source, 0)) as connection:
    connection.settimeout(10)
    print(connection.getsockname()[1], flush=True)
    for line in sys.stdin:
        connection.sendall(line.encode())
        said = "begun"
        while said and not said.endswith(line):
            said = connection.recv(100).decode()
        print(said and "goes on" or "ended", flush=True)
"""


@dataclass(frozen=True)
class Talk:
    """A connection that stays open, and its own port."""

    process: subprocess.Popen[str]
    port: int

    def goes_on(self) -> bool:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("hello\n")
            self.process.stdin.flush()
        return self.process.stdout.readline() == "goes on\n"

    def is_by_proxy(self, vm: Machine) -> bool:
        return bool(re.search(rf":414[03]\s+\S+:{self.port}\b", vm.mesh.vm.run("ss", "-tnH", "state", "established")))


@contextlib.contextmanager
def talk(where: Machine | Namespace, source: str, address: str, port: int) -> Iterator[Talk]:
    argv = [*where.enter, PYTHON, "-c", TALK, source, address, str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = Talk(process, int(process.stdout.readline()))
        assert found.goes_on()
        yield found


def test_connections_that_exist(vm: Machine) -> None:
    """They are what they were when they began, whatever becomes of the rules; with the last rule the proxy's own end."""
    node = vm.mesh.node
    # By IPv6, since these two need none of our routes, which go too.
    vm.run("systemctl", "stop", UNIT)
    with talk(vm, VM6, NODE6, OTHER) as before, talk(node, NODE6, VM6, GROUP) as peer_before:
        vm.run("systemctl", "start", UNIT)
        vm.wait_ready()
        with talk(vm, VM6, NODE6, OTHER) as within, talk(vm, VM6, NODE6, SSH) as past, talk(node, NODE6, VM6, GROUP) as peer:
            past_proxy, by_proxy = (before, peer_before, past), (within, peer)
            assert not any(one.is_by_proxy(vm) for one in past_proxy) and all(one.is_by_proxy(vm) for one in by_proxy)
            configured(vm, f"ignore_outbound_ports: [{OTHER}], inbound: 'off'", "inbound not redirected")
            with talk(vm, VM6, NODE6, OTHER) as after:
                assert not after.is_by_proxy(vm), "the new rules count for it"
            assert all(one.goes_on() for one in (*past_proxy, *by_proxy))
            vm.run("systemctl", "stop", UNIT)
            assert all(one.goes_on() for one in past_proxy) and not any(one.goes_on() for one in by_proxy)


def test_what_the_other_backend_holds_of_ours_is_removed(vm: Machine) -> None:
    """As of an earlier version, or another configuration."""
    wanted = rules(vm)
    commands = ("-N MESHEXP_OUTBOUND", "-A OUTPUT -j MESHEXP_OUTBOUND")
    if "table inet" in wanted:
        left = [f"iptables-legacy -t nat {words}" for words in commands]
        listing = ("iptables-legacy-save", "-t", "nat")
    else:
        left = ["nft add table inet meshexp"]
        listing = ("nft", "list", "tables")
    for command in left:
        vm.run(*command.split())
    vm.wake()
    vm.wait(lambda: "meshexp" not in vm.run(*listing).lower())
    assert rules(vm) == wanted


def test_without_cap_net_raw(vm: Machine) -> None:
    """On a machine whose kernel has legacy tables, which nobody may look at then: that is named."""
    nftables = "table inet" in rules(vm)
    vm.run("iptables-legacy", "-t", "nat", "-S")
    drop_in(vm, "[Service]\nCapabilityBoundingSet=~CAP_NET_RAW\n")
    vm.run("systemctl", "restart", UNIT, check=False)
    if nftables:
        vm.wait(lambda: "iptables: [Errno 1] Operation not permitted" in vm.condition("Redirect").get("message", ""))
        assert vm.status()["phase"] == "Degraded"
    else:
        vm.wait(lambda: vm.show("ExecMainStatus") == {"ExecMainStatus": "77"})
        assert "can't initialize nat" in vm.journal()


def test_the_rules_were_tried_whole(vm: Machine) -> None:
    """From outside too, by a tun device: the sandbox keeps nothing of it away."""
    said = vm.condition("Redirected")
    assert said["problem"] is None and "unverified" not in said["message"]
    assert "unverified" not in vm.run("meshexp", "redirect", "test")


def spoil(vm: Machine) -> None:
    if "table inet" in rules(vm):
        vm.run("nft", "flush", "chain", "inet", "meshexp", "outbound")
    else:
        vm.run("iptables-legacy", "-t", "nat", "-F", "MESHEXP_OUTBOUND")


def test_what_others_change_is_repaired_by_its_event(vm: Machine) -> None:
    before = rules(vm)
    for _ in range(2):
        seen = repairs(vm)
        spoil(vm)
        vm.wait(lambda seen=seen: repairs(vm) > seen and rules(vm) == before, TIMER_SECONDS / 2)  # type: ignore[misc]


@pytest.mark.parametrize("how", ["KILL", "ABRT"])
def test_killed_on_trial_the_old_rules_come_back(vm: Machine, how: str) -> None:
    """No other daemon follows."""
    hang = faulty(vm, "self-test.hang", "Restart=no\n")
    vm.file(DROPPED).write_text(f"redirect: {{ignore_outbound_ports: [{IGNORED}, {OTHER}]}}\n")
    hang.touch()
    vm.run("systemctl", "reload", UNIT)
    with of_unit(vm, PROXY):
        vm.wait(lambda: out(vm, PODS, OTHER) == halted.UNTOUCHED)
        vm.run("systemctl", "kill", "--kill-whom=main", f"--signal={how}", UNIT)
        vm.wait(lambda: out(vm, PODS, OTHER) == halted.BY_PROXY)
    hang.unlink()
