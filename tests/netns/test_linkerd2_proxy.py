"""With linkerd2-proxy on PATH the harness starts it with an environment that it accepts, and it gets its certificate."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from tests.mesh import VM, mesh, on_path

PROXY = on_path("linkerd2-proxy")


@pytest.mark.skipif(PROXY is None, reason="linkerd2-proxy is in no registry, and not on PATH")
def test_it_runs_is_certified_and_answers_ready() -> None:
    with mesh(proxy={"path": PROXY}) as vm:
        vm.start_controller()
        vm.start_daemon()
        vm.wait_ready()
        assert "with a certificate" in vm.condition("Proxy")["message"]
        assert vm.vm.run("curl", "-fsS", "http://127.0.0.1:4191/ready").strip() == "ready"
        metrics = vm.vm.run("curl", "-fsS", "http://127.0.0.1:4191/metrics")
        assert (
            'control_identity_cert_refreshes_total{result="ok"} 1' in metrics
            or "control_identity_cert_refreshes_total" in metrics
        )
        environment = json.loads(vm.vm.run("curl", "-fsS", "http://127.0.0.1:4191/env.json"))
        assert environment["LINKERD2_PROXY_POLICY_WORKLOAD"].startswith('{"ns": "faces", "external_workload": "face-')
        log = (vm.folder / "harness.log").read_text()
        assert "is not valid" not in log, "it accepts every variable"
        assert "Certified identity" in log
        lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
        said = {line["level"]: line["msg"] for line in lines if line.get("component") == "proxy"}
        assert " INFO " in said["info"] and " WARN " in said["warning"], "it finds no policy controller, and warns of it"
        listening = vm.vm.run("ss", "-ltnH")
        for port in (4140, 4143, 4191):
            assert f":{port} " in listening
        assert vm.stop("harness", signal.SIGTERM) == 0


@pytest.mark.skipif(PROXY is None, reason="linkerd2-proxy is in no registry, and not on PATH")
@pytest.mark.parametrize(("own", "wildcard"), [(VM, "0.0.0.0"), ("fd09::2", "[::]")], ids=["IPv4", "IPv6"])
def test_peers_reach_it_where_a_socket_for_both_families_takes_one_only(own: str, wildcard: str) -> None:
    """It cannot be told to ask for both, and listens at one address: that of the family by which peers know the machine."""
    with mesh(proxy={"path": PROXY}, workload={"addresses": [own]}) as vm:
        vm.vm.run("sysctl", "-w", "net.ipv6.bindv6only=1")
        vm.start_controller()
        vm.start_daemon()
        vm.wait_ready()
        assert f"{wildcard}:4143 " in vm.vm.run("ss", "-ltnH")
        with vm.vm.start(sys.executable, "-m", "http.server", "8000", "--bind", own) as application:
            try:
                host = f"[{own}]" if ":" in own else own
                vm.wait(lambda: ":8000 " in vm.vm.run("ss", "-ltnH"))
                redirected = "curl", "-sS", "-o", "/dev/null", "-w", "%{exitcode}", f"http://{host}:8000/"
                assert vm.node.run(*redirected, check=False) != "7", "refused: nobody listens where the rules lead"
            finally:
                application.kill()
