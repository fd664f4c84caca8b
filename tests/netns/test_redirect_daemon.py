"""The real daemon's redirect, and the command line's: drift, removal by ownership, and a plan that can be piped to the tool."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from harness.daemon.loop import TIMER_SECONDS
from tests import redirect_support as support
from tests.mesh import Mesh, mesh

pytestmark = support.needs_root


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def table(vm: Mesh) -> str:
    return vm.vm.run("nft", "list", "ruleset")


def test_drift_is_repaired_by_its_event_and_logged_once(vm: Mesh) -> None:
    def told(text: str) -> int:
        lines = [line for line in (vm.folder / "harness.log").read_text().splitlines() if line.startswith("{")]
        return sum(text in line for line in lines if json.loads(line).get("part") == "redirect")

    before = table(vm)
    vm.vm.run("nft", "add", "rule", "inet", "meshexp", "outbound", "counter", "accept")
    seconds = [vm.wait(lambda: table(vm) == before, TIMER_SECONDS / 2)]
    vm.vm.run("nft", "flush", "ruleset")
    seconds += [vm.wait(lambda: table(vm) == before, TIMER_SECONDS / 2)]
    print("repaired after", seconds)
    vm.wait(lambda: told("there are no rules of ours") == 2)  # once at the start, once after the flush
    time.sleep(0.5)
    assert (told("a rule in chain outbound"), told("there are no rules of ours")) == (1, 2)


def test_rules_of_a_killed_daemon_stay_until_there_is_a_proxy_again(vm: Mesh) -> None:
    before, pid = table(vm), vm.status()["pid"]
    vm.stop("harness", signal.SIGKILL)
    vm.configure(proxy={"path": "/no/such"})
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("pid") not in (None, pid) and vm.status()["counters"]["cycles"] >= 5)
    assert vm.condition("Proxy")["status"] != "True"
    assert table(vm) == before
    vm.configure()
    vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.wait_ready()
    assert table(vm) == before


def test_plan_prints_what_can_be_piped_to_nft(vm: Mesh) -> None:
    by_daemon = table(vm)
    assert "# nothing to do" in vm.meshexp("plan").stdout
    vm.stop("harness")
    assert "meshexp" not in table(vm)
    vm.start_daemon()
    vm.wait(lambda: table(vm) == by_daemon)
    vm.stop("harness", signal.SIGKILL)
    vm.vm.run("nft", "delete", "table", "inet", "meshexp")
    plan = vm.meshexp("plan").stdout
    only = plan[plan.index("table inet meshexp") :]
    support.sh(f"{' '.join(vm.vm.enter)} nft -f -", text=only)
    assert table(vm) == by_daemon


def test_the_configuration_changed_between_apply_and_cleanup(vm: Mesh) -> None:
    vm.stop("harness", signal.SIGKILL)
    assert "table inet meshexp" in table(vm)
    vm.configure(redirect={"backend": "iptables", "outbound": "off", "inbound": "off", "ipv6": False})
    assert vm.meshexp("cleanup").returncode == 0
    assert "meshexp" not in table(vm)


def test_iptables_rules_are_cleaned_up_by_a_daemon_that_would_use_nftables(vm: Mesh) -> None:
    vm.stop("harness")
    vm.configure(redirect={"backend": "iptables"})
    vm.start_daemon()
    vm.wait_ready()
    dump = "iptables-legacy-save", "-t", "nat"
    assert "MESHEXP_OUTBOUND" in vm.vm.run(*dump)
    assert "meshexp" not in table(vm)
    assert "by iptables (legacy): chosen by redirect.backend" in vm.condition("Redirected")["message"]
    vm.stop("harness", signal.SIGKILL)
    vm.configure(redirect={"backend": "nftables"})
    vm.start_daemon()
    vm.wait(lambda: "MESHEXP" not in vm.vm.run(*dump) and "table inet meshexp" in table(vm))


def test_show_test_remove_and_apply(vm: Mesh) -> None:
    shown = vm.meshexp("redirect", "show")
    assert shown.returncode == 0
    assert shown.stdout.startswith("nftables:\n")
    assert "outbound: of uid 2102 → left alone" in shown.stdout
    rules = vm.meshexp("redirect", "show", "-o", "rules").stdout
    assert rules.startswith("table inet meshexp\ndelete table inet meshexp\n")
    assert json.loads(vm.meshexp("redirect", "show", "-o", "json").stdout)[0]["backend"] == "nftables"
    tested = vm.meshexp("redirect", "test")
    assert tested.returncode == 0, tested.stdout
    assert "√ outbound IPv4 passed" in tested.stdout
    assert "√ inbound IPv4 port 22 untouched passed" in tested.stdout
    vm.stop("harness", signal.SIGKILL)
    assert vm.meshexp("redirect", "remove").stdout == "removed from nftables\n"
    assert vm.meshexp("redirect", "show").returncode == 1
    assert vm.meshexp("redirect", "test").returncode == 69
    applied = vm.meshexp("redirect", "apply")
    assert applied.returncode == 0, applied.stderr
    assert vm.meshexp("redirect", "show", "-o", "rules").stdout == rules
    assert vm.meshexp("redirect", "apply").stdout == "# nothing to do\n"
    support.sh(f"{' '.join(vm.vm.enter)} nft insert rule inet meshexp inbound tcp dport 8000 return")
    broken = vm.meshexp("redirect", "test")
    assert broken.returncode == 0, "the records say what is there, and the kernel does it"
    assert "× not ours" in vm.meshexp("redirect", "show").stdout or "left alone" in vm.meshexp("redirect", "show").stdout


def test_remove_beside_a_daemon_says_that_it_comes_back(vm: Mesh) -> None:
    before = table(vm)
    assert "puts its rules back" in vm.meshexp("redirect", "remove").stdout
    vm.wait(lambda: table(vm) == before, TIMER_SECONDS / 2)
