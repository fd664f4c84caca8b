"""What a member says of itself: nothing that was not tried is right, and a repair is named once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from tests.checks import by_description
from tests.daemon_support import vm_fixture  # noqa: F401
from tests.mesh import Mesh, mesh


def repairs(vm: Mesh) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in (vm.folder / "harness.log").read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("msg") == "no longer as it was set; repaired"]


def has_repaired(vm: Mesh, number: int) -> bool:
    return bool(vm.status()["counters"]["repairs"].get("routes", 0) == number)


def test_a_repair_is_named_once_with_what_it_was(vm: Mesh) -> None:
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    assert repairs(vm) == [], "what the daemon itself sets is no repair"
    vm.vm.run("ip", "route", "del", "10.42.0.0/24")
    vm.wait(lambda: "10.42.0.0/24" in vm.vm.run("ip", "route"))
    vm.wait(lambda: len(repairs(vm)) == 1)
    (said,) = repairs(vm)
    assert (said["part"], said["level"]) == ("routes", "warning")
    assert said["repair"] == "add route 10.42.0.0/24 via 10.9.0.1"
    vm.vm.run("nft", "flush", "chain", "inet", "meshexp", "outbound")
    vm.wait(lambda: len(repairs(vm)) == 2)
    vm.wait_ready()
    assert repairs(vm)[1]["part"] == "redirect" and "redirect by nftables" in str(repairs(vm)[1]["repair"])
    for number in (2, 3, 4):  # somebody does it again and again; what comes within one repair is part of it
        vm.vm.run("ip", "route", "del", "10.42.0.0/24")
        vm.wait(partial(has_repaired, vm, number))
        assert "10.42.0.0/24" in vm.vm.run("ip", "route")
    assert len(repairs(vm)) == 2
    vm.configure(network={"node": "10.9.0.1", "pod_cidrs": ["10.42.0.0/24"], "service_cidrs": []})
    vm.processes["harness"].send_signal(1)
    vm.wait(lambda: "10.43.0.0/16" not in vm.vm.run("ip", "route"))
    assert len(repairs(vm)) == 2, "nor is what another configuration asks for"


@pytest.fixture
def alone() -> Iterator[Mesh]:
    """Without networks, DNS servers or probes."""
    with mesh(network={"node": None, "pod_cidrs": [], "service_cidrs": []}) as found:
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def test_where_there_is_nothing_to_do_nothing_is_claimed(alone: Mesh) -> None:
    text = alone.meshexp("status").stdout
    for name, message in (("Routes", "no routes configured"), ("Names", "left alone"), ("Application", "no probes")):
        assert f"- {name:<13} {message}" in text
        assert alone.condition(name)["applies"] is False and alone.condition(name)["status"] == "True"
    assert alone.condition("Proxy")["applies"] is True
    found = by_description(alone.meshexp("check", "-o", "json").stdout)
    assert found["Routes"] == {"description": "Routes", "reason": "no routes configured", "result": "skipped"}
    assert {found[name]["result"] for name in ("Names", "Application")} == {"skipped"}
    assert not [text for text in found if text.startswith(("Routes:", "Names:", "Application:"))]


def test_an_inbound_redirect_that_nothing_has_shown(vm: Mesh) -> None:
    """A firewall takes what comes from outside: the machine is a member, and says what it does not know."""
    vm.vm.run("nft", "add table inet fw")
    vm.vm.run("nft", "add chain inet fw in { type filter hook input priority 0; }")
    vm.vm.run("nft", "add rule inet fw in iifname meshexp-test0 drop")
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    told = vm.condition("Redirected")
    assert told["problem"] == "inbound-unverified" and told["status"] == "True" and "unverified" in told["message"]
    assert "‼ Redirected" in vm.meshexp("status").stdout and vm.meshexp("status").returncode == 0
    vm.vm.run("nft", "delete table inet fw")
    vm.vm.run("nft", "flush", "chain", "inet", "meshexp", "outbound")
    vm.wait_problem("Redirected", None)
    assert vm.status()["counters"]["repairs"]["redirect"] == 1, "it was right before"


def test_another_program_s_answer_is_not_the_metrics(vm: Mesh) -> None:
    """Also when root runs it: only the daemon's own answer counts."""
    answer = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'meshexp_start_time_seconds 1.0\\n')\n"
        "h.HTTPServer(('127.0.0.1', 4192), H).serve_forever()"
    )
    vm.start("other", vm.vm, sys.executable, "-c", answer)
    vm.wait(lambda: ":4192" in vm.vm.run("ss", "-ltnH"))
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    text = "metrics are served at 127.0.0.1:4192"
    assert f"‼ {text}\n    what answers at 127.0.0.1:4192 is not this daemon" in vm.meshexp("check").stdout
    vm.stop("other")
    vm.wait(lambda: f"√ {text}" in vm.meshexp("check").stdout)
