"""`--real`: the scenario on the real programs: SPIRE, linkerd2-proxy and Linkerd's control plane on a real API server.

The cluster and its machines are the tests' lab: namespaces again, and nothing on the host. It needs all of them on PATH.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import host_state
from demo.machine import APP_UID, PYTHON
from demo.playground import page_listener, service_of
from demo.relay import relay
from demo.report import Report
from demo.scenario import CLIENT, PATIENCE_SECONDS, Failures
from tests import linkerd_lab
from tests.linkerd_lab import Lab
from tests.linkerd_lab_vm import Vm

NAMESPACE, TRUST_DOMAIN = "faces", "root.linkerd.cluster.local"
FACE = f"face.{NAMESPACE}.svc.cluster.local"
LEASE_SECONDS = 5
Answers = list[list[str]]


def run(once: bool) -> int:
    if linkerd_lab.MISSING:
        print(f"demo: --real needs programs that are {linkerd_lab.WHY}; without it, stand-ins take their place", file=sys.stderr)
        return 69
    host_state.dump()  # looking at the legacy tables for the first time instantiates them
    before, report = host_state.dump(), Report()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    checks: dict[str, bool] = {}
    figures: dict[str, float] = {}
    report.heading("A cluster with Linkerd, and machines that join it by meshexp run")
    try:
        with linkerd_lab.lab() as lab:
            playground = Real(lab, report, checks, figures)
            playground.start()
            if once:
                playground.scenario()
            else:
                playground.stay()
    except KeyboardInterrupt:
        report.heading("taking everything down")
    left = host_state.differences(before, host_state.dump())
    for line in left:
        print(line, file=sys.stderr)
    checks["host_untouched"] = not left
    report.check(not left, "this host's routes, rules, sysctls and firewall tables are as before")
    passed = all(checks.values())
    if once:
        print(json.dumps({"checks": checks, "figures": figures | {"seconds": round(report.seconds(), 1)}, "passed": passed}))
    return 0 if passed else 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Real:
    def __init__(self, lab: Lab, report: Report, checks: dict[str, bool], figures: dict[str, float]) -> None:
        self._lab, self._report, self._checks, self._figures = lab, report, checks, figures

    def start(self) -> None:
        self._report.step("cluster", "API server, Linkerd's identity, destination and policy controllers, and ours")
        # Where every uid can read it.
        shutil.copytree(Path(__file__).parent, self._source / "demo", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (self._source, *self._source.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for group in ("face", "smiley", "color", "gui"):
            self._lab.group(group, leaseSeconds=LEASE_SECONDS, expirySeconds=30, drainSeconds=1)
        for name in ("smiley-1", "color-1", "face-1", "gui-1"):
            self._join(name)
        self._check("all_join", all(vm.is_ready() for vm in self._lab.vms.values()), f"{len(self._lab.vms)} machines are ready")

    @property
    def _source(self) -> Path:
        return self._lab.cluster.folder / "source"

    def _check(self, name: str, passed: bool, text: str) -> None:
        self._checks[name] = passed
        self._report.check(passed, text)

    def _join(self, name: str) -> Vm:
        vm = self._lab.vm(name, service_of(name))
        vm.box.stop("app", signal.SIGKILL)  # the lab's own; Faces takes its port
        services = {f"{n.upper()}_SERVICE": f"{n}.{NAMESPACE}.svc.cluster.local" for n in ("smiley", "color", "face")}
        environment = {"HOSTNAME": name, "HOST_IP": name, "PYTHONPATH": str(self._source), **services}
        argv = (PYTHON, "-s", "-m", "demo.faces", service_of(name), "--port", "8000")
        vm.box.start("faces", *argv, env=environment, uid=APP_UID)
        if name == "color-1":
            self._untouched = host_state.dump(vm.box.enter)
        began = time.monotonic()
        vm.join()
        self._lab.await_endpoints(vm.group, {v.address: True for v in self._lab.vms.values() if v.group == vm.group})
        self._report.step(name, f"ready after {time.monotonic() - began:.1f} s as {vm.spiffe_id}")
        return vm

    def stay(self) -> None:
        """The page on the host's own loopback, until Ctrl-C."""
        self._join("face-2")
        listener = page_listener()
        host, port = listener.getsockname()
        listener.listen()
        threading.Thread(target=relay, args=(listener, self._lab.vms["gui-1"].box.pid, 8000), daemon=True).start()
        print(f"\nthe page: http://{host}:{port}/        Ctrl-C takes everything down", flush=True)
        while True:
            signal.pause()

    def scenario(self) -> None:
        self._mutual_tls()
        self._second_face()
        self._failing_probe()
        self._controller_away()
        self._graceful_stop()
        self._killed_daemon()

    def _call(self, seconds: float) -> Answers:
        argv = (PYTHON, "-c", CLIENT, FACE, str(seconds), "0.03")
        _, output = self._lab.vms["gui-1"].box.run(*argv, uid=APP_UID)
        return [line.split(" ", 2) for line in output.splitlines()]

    @contextlib.contextmanager
    def _calling(self, seconds: float) -> Iterator[Answers]:
        answers: Answers = []
        thread = threading.Thread(target=lambda: answers.extend(self._call(seconds)))
        thread.start()
        yield answers
        thread.join()

    def _mutual_tls(self) -> None:
        self._report.heading("1. face → smiley and color, by service name, with mutual TLS")
        answer = next(iter(self._call(0.5)), ["none"])
        body: dict[str, Any] = json.loads(answer[2]) if answer[0] == "200" else {}
        good = body.get("smiley") == "&#x1F603;" and body.get("color") == "#66CCEE" and not body.get("errors")
        self._check("face_answers", good, f"face answers with smiley {body.get('smiley')} and color {body.get('color')}")
        for name in ("smiley", "color"):
            caller, callee = (self._lab.vms[f"{n}-1"] for n in ("face", name))
            out = caller.metrics("request_total", 'direction="outbound"', 'tls="true"', f'server_id="{callee.spiffe_id}"')
            into = callee.metrics("request_total", 'direction="inbound"', 'tls="true"', f'client_id="{caller.spiffe_id}"')
            text = f"face-1's linkerd2-proxy counts {out:.0f} requests to {callee.spiffe_id}, {name}-1's {into:.0f} from face"
            self._check(f"mtls_face_{name}", bool(out and into), text)

    def _second_face(self) -> None:
        self._report.heading("2. face-2 joins; smiley-1's probe fails and passes again")
        began = time.monotonic()
        self._join("face-2")
        self._figures["join_seconds"] = round(time.monotonic() - began, 3)
        answers: Answers = []
        # The balancer prefers the face that it knows to be quick; the new one is tried now and then.
        while len({a[1] for a in answers if a[0] == "200"}) < 2 and time.monotonic() - began < PATIENCE_SECONDS:
            answers += self._call(1.0)
        failed = Failures(answers)
        pods = sorted({a[1] for a in answers if a[0] == "200"})
        text = f"{len(answers)} requests, {failed}, answered by {pods}"
        self._check("balanced", pods == ["face-1", "face-2"] and not failed, text)

    def _failing_probe(self) -> None:
        smiley = self._lab.vms["smiley-1"]
        for check, ready in (("probe_fails", False), ("probe_returns", True)):
            words = ("-sS", "-X", "PUT", "-d", json.dumps({"ready": ready}), "http://127.0.0.1:8000/ready")
            smiley.box.do("curl", *words)
            reached, seconds = self._timed("smiley", {smiley.address: ready})
            self._check(check, reached, f"smiley-1's endpoint is {'ready' if ready else 'not ready'} {seconds:.1f} s later")

    def _controller_away(self) -> None:
        before = {service: self._lab.endpoints(service) for service in ("face", "smiley", "color", "gui")}
        self._lab.kill_controller()
        answers = self._call(LEASE_SECONDS + 1)
        self._lab.start_controller()
        self._lab.await_controller()
        time.sleep(LEASE_SECONDS + 1)  # one that is back waits a lease for those it held
        failed = Failures(answers)
        same = before == {service: self._lab.endpoints(service) for service in before}
        text = f"controller killed for longer than a lease: {len(answers)} requests, {failed}; as ready as before: {same}"
        self._check("controller_away", bool(answers) and not failed and same, text)

    def _graceful_stop(self) -> None:
        self._report.heading("3. SIGTERM to face-2 while a client calls face all the while")
        face = self._lab.vms["face-2"]
        with self._calling(8.0) as answers:
            time.sleep(1.0)
            code = face.leave()
        failed, gone = Failures(answers), face.address not in self._lab.workloads()
        there = "gone" if gone else "still there"
        text = f"exit code {code}, ExternalWorkload {there}, {len(answers)} requests, {failed}"
        self._check("graceful_stop", code == 0 and gone and not failed and len(answers) > 20, text)

    def _killed_daemon(self) -> None:
        self._report.heading("4. SIGKILL to color-1's daemon, then meshexp cleanup")
        color = self._lab.vms["color-1"]
        color.box.stop("harness", signal.SIGKILL)
        code, output = color.meshexp("cleanup")
        left = host_state.differences(self._untouched, host_state.dump(color.box.enter))
        for line in left[:20]:
            self._report.step("color-1", line)
        running = color.box.run("ps", "-eo", "args=")[1]
        ours = [line for line in running.splitlines() if "linkerd2-proxy" in line or "spire-" in line or "harness" in line]
        text = f"cleanup ended with {code}; {len(left)} differences in the dumps; processes left: {', '.join(ours) or 'none'}"
        self._check("cleanup", code == 0 and not left and not ours, text)
        reached, seconds = self._timed("color", {color.address: False})
        self._check("lease_ends", reached, f"color-1's endpoint is not ready {seconds:.1f} s later")
        if code:
            self._report.step("color-1", output.strip())

    def _timed(self, service: str, wanted: dict[str, bool]) -> tuple[bool, float]:
        began = time.monotonic()
        while not (reached := self._lab.endpoints(service) == wanted) and time.monotonic() - began < PATIENCE_SECONDS:
            time.sleep(0.1)
        return reached, time.monotonic() - began
