"""The real daemon against a real controller, on the development proxy: the join, the leave, and what may go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

from demo import host_state
from tests.daemon_support import (
    ruleset,
    started,
    vm_fixture,  # noqa: F401
)
from tests.mesh import NODE, VM, Mesh, certificates
from tests.processes import with_words


def test_join_and_leave_without_a_trace(vm: Mesh) -> None:
    host_state.dump(vm.vm.enter)
    before = host_state.dump(vm.vm.enter)
    started(vm).wait_ready()
    status = vm.status()
    assert status["workload"]["name"].startswith("face-")
    assert status["workload"]["identity"] == "spiffe://root.linkerd.cluster.local/face"
    assert "proto 77" in vm.vm.run("ip", "route")
    assert "table inet meshexp" in ruleset(vm)
    assert vm.meshexp("status").returncode == 0
    assert vm.meshexp("status", "--wait", "5").stdout.startswith("Ready")
    secret = json.loads((vm.folder / "state" / "registration.json").read_text())["secret"]
    text = (vm.folder / "harness.log").read_text() + json.dumps(status) + (vm.folder / "controller.log").read_text()
    assert secret not in text, "the secret is in no log and no status"
    assert secret not in (vm.folder / "run" / "registration.json").read_text()
    assert vm.stop("harness") == 0
    assert host_state.differences(before, host_state.dump(vm.vm.enter)) == []
    assert vm.meshexp("status").returncode == 1
    assert "workload deleted" in (vm.folder / "controller.log").read_text()


def test_a_second_harness_is_refused_and_harms_nothing(vm: Mesh) -> None:
    started(vm).wait_ready()
    second = vm.meshexp("run")
    assert second.returncode == 75
    assert f"pid {vm.processes['harness'].pid}" in second.stderr
    refused = vm.meshexp("cleanup")
    assert refused.returncode == 75, "cleanup takes nothing from a daemon that lives"
    assert "stop it first" in refused.stderr
    said = vm.meshexp("cleanup", "--dry-run")
    assert said.returncode == 0 and "remove the redirect" in said.stdout
    assert vm.status()["phase"] == "Ready"


def test_killed_then_cleanup_then_again(vm: Mesh) -> None:
    host_state.dump(vm.vm.enter)
    before = host_state.dump(vm.vm.enter)
    started(vm).wait_ready()
    assert vm.stop("harness", signal.SIGKILL) == -signal.SIGKILL
    assert "table inet meshexp" in ruleset(vm), "the rules stay: no plaintext"
    cleaned = subprocess.run(
        [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "cleanup"],
        capture_output=True, text=True, check=False, env={**vm.environment, "MESHEXP_CONFIG_DIR": "/nonexistent"},
    )  # fmt: skip
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert host_state.differences(before, host_state.dump(vm.vm.enter)) == []
    assert with_words(str(vm.folder / "development-proxy")) == []
    assert vm.meshexp("cleanup").stdout == "", "a second run finds nothing"
    vm.start_daemon()
    vm.wait_ready()
    assert vm.stop("harness") == 0


def test_killed_then_started_again_reclaims_its_name(vm: Mesh) -> None:
    started(vm).wait_ready()
    name = vm.status()["workload"]["name"]
    vm.stop("harness", signal.SIGKILL)
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("pid") == vm.processes["harness"].pid)
    vm.wait_ready()
    assert vm.status()["workload"]["name"] == name
    assert vm.stop("harness") == 0


def test_controller_down_at_the_start_and_down_later(vm: Mesh) -> None:
    vm.start_daemon()
    vm.wait_problem("Registration", "controller-unreachable")
    told = vm.condition("Registration")
    assert re.fullmatch(r"POST https://\S+/v1/workloads: connection refused", told["message"])
    assert "nothing listens at" in told["hint"] and f"{NODE}:8081" in told["hint"]
    vm.start_controller()
    vm.wait_ready()
    vm.stop("controller", signal.SIGKILL)
    vm.wait_problem("Registration", "controller-unreachable")
    status = vm.status()
    assert status["phase"] == "Degraded"
    assert vm.condition("Proxy")["status"] == "True", "traffic goes on"
    assert "table inet meshexp" in ruleset(vm)
    vm.start_controller()
    vm.wait_ready()


def test_a_controller_with_another_identity_gets_nothing(vm: Mesh) -> None:
    certificates(vm.folder / "certs", "impostor.meshexp.svc")
    started(vm).wait_problem("Registration", "controller-misnamed")
    assert "impostor" not in (vm.folder / "controller.log").read_text()
    assert "registered" not in (vm.folder / "controller.log").read_text()


def test_an_identity_that_the_group_does_not_allow_is_refused_at_both_ends(vm: Mesh) -> None:
    vm.configure(identity={"spiffe_id": "spiffe://root.linkerd.cluster.local/color"})
    started(vm).wait_problem("Registration", "registration-refused")
    assert "identity-not-allowed" in vm.condition("Registration")["message"]
    assert "identity-not-allowed" in (vm.folder / "controller.log").read_text()
    assert vm.condition("Proxy")["status"] == "Unknown", "no proxy without a registration"


def test_the_workload_api_is_missing_at_the_start_and_vanishes_later(vm: Mesh) -> None:
    socket = vm.folder / "api" / "api.sock"
    vm.configure(identity={"mode": "external", "socket": str(socket)})
    started(vm).wait_problem("Identity", "identity-socket-missing")
    certs = vm.folder / "certs"
    server = (
        sys.executable, "-m", "harness.system.workload_api_server", "--socket", str(socket), "--ca-cert", f"{certs}/ca.crt",
        "--ca-key", f"{certs}/ca.key", "--spiffe-id", "spiffe://root.linkerd.cluster.local/face", "--uid", "2102",
    )  # fmt: skip
    vm.start("spiffe", vm.vm, *server)
    vm.wait_ready()
    vm.stop("spiffe", signal.SIGKILL)
    socket.unlink()
    vm.wait_problem("Identity", "identity-socket-missing")
    assert vm.status()["phase"] == "Degraded"
    assert vm.condition("Proxy")["status"] == "True"
    proxy = vm.status()["children"]["proxy"]["pid"]
    os.kill(proxy, signal.SIGKILL)
    vm.wait(lambda: vm.condition("Proxy")["message"] == "starts when the Workload API answers")
    assert "table inet meshexp" in ruleset(vm), "closed meanwhile"
    vm.start("spiffe", vm.vm, *server)
    vm.wait_ready()


def test_rotation_is_followed(vm: Mesh) -> None:
    vm.configure(identity={"embedded": {
        "ca_cert": f"{vm.folder}/certs/ca.crt", "ca_key": f"{vm.folder}/certs/ca.key", "svid_ttl": "4s",
    }})  # fmt: skip
    started(vm).wait_ready()
    time.sleep(6)
    status = vm.status()
    assert status["phase"] == "Ready", status
    vm.stop("controller")
    vm.start_controller()
    vm.wait(
        lambda: (
            "registered" in (vm.folder / "controller.log").read_text().partition("stopped")[2] or vm.status()["phase"] == "Ready"
        )
    )
    assert vm.stop("harness") == 0, "the renewed identity still opens the door"


def test_a_probe_that_fails_takes_the_readiness_away(vm: Mesh) -> None:
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1, "failureThreshold": 1}
    vm.group(probes=[probe])
    started(vm).wait_problem("Application", "probe-failed")
    vm.wait(lambda: vm.status()["reason"] == "ProbeFailed")
    server = vm.start("application", vm.vm, sys.executable, "-m", "http.server", "8000")
    vm.wait_ready()
    server.kill()
    vm.wait(lambda: not vm.status()["ready"])
    vm.wait(lambda: "ProbeFailed" in (vm.folder / "controller.log").read_text())


def test_an_edit_of_the_group_reaches_the_machine(vm: Mesh) -> None:
    started(vm).wait_ready()
    vm.group(probes=[{"tcpSocket": {"port": 9}, "periodSeconds": 1}])
    vm.wait(lambda: vm.status()["reason"] == "ProbeFailed")


def test_reload_takes_a_good_configuration_and_keeps_the_old_one_for_a_bad(vm: Mesh) -> None:
    started(vm).wait_ready()
    good = (vm.folder / "etc" / "harness.yaml").read_text()
    (vm.folder / "etc" / "harness.yaml").write_text(good + "\nproxi: {}\n")
    vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.wait(lambda: vm.condition("Configuration").get("problem") == "config-reload-failed")
    assert "proxi" in vm.condition("Configuration")["message"]
    vm.configure(network={"node": NODE, "pod_cidrs": ["10.50.0.0/16"], "service_cidrs": ["10.43.0.0/16"]})
    vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.wait(lambda: "10.50.0.0/16" in vm.vm.run("ip", "route") and "10.42.0.0/24" not in vm.vm.run("ip", "route"))
    vm.wait(lambda: "10.50.0.0/16" in ruleset(vm))
    vm.wait_ready()


def test_plan_says_what_a_start_would_do_and_then_that_there_is_nothing_to_do(vm: Mesh) -> None:
    before = vm.meshexp("plan")
    assert before.returncode == 0, before.stderr
    assert f"add route 10.43.0.0/16 via {NODE}" in before.stdout
    assert "proto 77" not in vm.vm.run("ip", "route"), "it changes nothing"
    started(vm).wait_ready()
    assert vm.meshexp("plan").stdout == "# nothing to do\n"
    vm.vm.run("ip", "route", "del", "10.43.0.0/16")
    vm.wait(lambda: "10.43.0.0/16" in vm.vm.run("ip", "route"), 10)  # by the event: the timer is 15 s


def test_wrong_configuration_wrong_user_no_root_no_capability(vm: Mesh) -> None:
    vm.configure(proxy={"user": "nobody-of-this-name"}, network={"node": "10.9.0.300"})
    found = vm.meshexp("run")
    assert (found.returncode, "network.node" in found.stderr) == (78, True)
    vm.configure(proxy={"user": "nobody-of-this-name"})
    found = vm.meshexp("run")
    assert (found.returncode, "no user" in found.stderr) == (78, True)
    vm.configure()
    argv = [sys.executable, "-s", "-m", "harness", "run"]
    for drop, word in (
        (["--reuid", "2105", "--clear-groups"], "root"),
        (["--bounding-set=-net_admin", "--inh-caps=-net_admin"], "CAP_NET_ADMIN"),
    ):
        result = subprocess.run(
            [*vm.vm.enter, "setpriv", *drop, "--", *argv], capture_output=True, text=True, check=False, env=vm.environment
        )
        assert (result.returncode, word in result.stderr) == (77, True), result.stderr


def test_the_embedded_identity_refuses_to_start_outside_a_demo(vm: Mesh) -> None:
    environment = {name: value for name, value in vm.environment.items() if name != "MESHEXP_DEMO"}
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "run"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 78
    assert "embedded is for demos" in result.stderr


def test_addresses_are_found_by_the_way_to_the_node(vm: Mesh) -> None:
    started(vm).wait_ready()
    assert vm.status()["workload"]["addresses"] == [VM]
