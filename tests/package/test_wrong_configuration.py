"""A wrong configuration on real systemd: it is named, and takes nothing away; a machine that is no member waits."""

from __future__ import annotations

from tests.package.machine import PROXY, UNIT, Machine


def configuration_fault(vm: Machine) -> str:
    return str(vm.condition("Configuration").get("message", ""))


def test_a_member_keeps_what_it_has_whatever_is_configured_wrong(vm: Machine) -> None:
    """Through a reload, which says so, and through a restart: no request fails, and the registration stays."""
    wrong = vm.file("/etc/meshexp/harness.d/50-wrong.yaml")
    proxy, name = vm.pid(PROXY), vm.status()["workload"]["name"]
    faults = {
        "redirect.outbound": "redirect: {outbound: mash}\n",
        "controller.trust_anchors": "controller: {trust_anchors: /nonexistent}\n",
        "proxy.user": "proxy: {user: nobody-of-this-name}\n",
    }
    with vm.traffic():
        for path, text in faults.items():
            wrong.write_text(text)
            assert not vm.succeeds("systemctl", "reload", UNIT)
            vm.wait(lambda path=path: f"{path}:" in configuration_fault(vm))  # type: ignore[misc]
            assert vm.show("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
            daemon = vm.pid()
            vm.run("systemctl", "restart", UNIT)
            vm.wait(lambda daemon=daemon: vm.pid() not in (0, daemon))  # type: ignore[misc]
            vm.wait(lambda path=path: f"{path}:" in configuration_fault(vm) and vm.status()["ready"])  # type: ignore[misc]
            assert vm.condition("Configuration")["problem"] == "config-reload-failed"
            assert f"{path}:" in vm.show("StatusText")["StatusText"]
        vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1" and configuration_fault(vm) and vm.status()["ready"])
        wrong.unlink()
        vm.run("systemctl", "reload", UNIT)
        vm.wait_ready()
    assert (vm.pid(PROXY), vm.status()["workload"]["name"]) == (proxy, name)


def test_a_boot_of_a_member_whose_configuration_is_wrong(vm: Machine) -> None:
    """It is a member again, as what it was; only an operator's stop would have ended that."""
    wrong, name = "/etc/meshexp/harness.d/50-wrong.yaml", vm.status()["workload"]["name"]
    vm.file(wrong).write_text("redirect: {outbound: mash}\n")
    vm.reboot()
    vm.wait(lambda: "redirect.outbound:" in configuration_fault(vm) and vm.status()["ready"])
    assert vm.status()["workload"]["name"] == name
    vm.pull_the_plug()
    vm.boot()
    vm.wait(lambda: "redirect.outbound:" in configuration_fault(vm) and vm.status()["ready"])
    vm.file(wrong).unlink()
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()


def test_a_start_with_a_wrong_configuration_waits_until_it_is_right(vm: Machine) -> None:
    wrong = vm.file("/etc/meshexp/harness.d/50-wrong.yaml")
    vm.run("systemctl", "stop", UNIT)
    wrong.write_text("redirect: {outbound: mash}\nproxi: {}\n")
    vm.run("systemctl", "start", UNIT)
    vm.wait(lambda: vm.status()["phase"] == "Waiting")
    assert vm.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    status = vm.run("meshexp", "status", check=False)
    assert "Waiting" in status and "redirect.outbound" in status and "proxi" in status
    assert "redirect.outbound" in vm.show("StatusText")["StatusText"]
    wrong.write_text("controller: {trust_anchors: /opt/not-there-yet}\n")
    pid = vm.pid()
    assert not vm.succeeds("systemctl", "reload", UNIT)
    vm.wait(lambda: "controller.trust_anchors" in configuration_fault(vm))
    assert vm.pid() == pid and vm.show("ActiveState") == {"ActiveState": "active"}
    wrong.unlink()
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    assert vm.pid() == pid and vm.show("NRestarts") == {"NRestarts": "0"}
    said = vm.run("journalctl", "-u", UNIT, "--no-pager", "-o", "cat", f"_PID={pid}")
    assert said.count("redirect.outbound") == 1, "once"
