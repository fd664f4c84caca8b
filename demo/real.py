"""`--real`: the scenario on the real programs: SPIRE, linkerd2-proxy and Linkerd's control plane on a real API server.

The cluster and its machines are the tests' lab: namespaces again, and nothing on the host. It needs all of them on PATH.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo import cluster, host_state, shell
from demo.calls import CLIENT, FACE, GRINNING, HEART_EYES, MANY, RESOLVE, Calls, counts, listed
from demo.machine import APP_UID, DNS_UID, PYTHON
from demo.playground import SHOWN, kind_of, service_of
from demo.relay import relay
from demo.report import Report, table
from demo.scenario import PATIENCE_SECONDS
from harness import phrases
from tests import linkerd_lab
from tests.container.color_pod import color_pod
from tests.linkerd_lab import Lab
from tests.linkerd_lab_box import box
from tests.linkerd_lab_vm import Vm

GROUPS = ("face", "smiley", "color", "gui", "smiley2")
LEASE_SECONDS = 10  # a busy machine takes seconds for a call
CLIENTS = 4
SHARE_REQUESTS = 600  # linkerd2-proxy shares by chance: ten points are 4.9 standard deviations of one half then


def run(folder: Path, page: socket.socket, host_proc: int, once: bool, report: Report) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, _interrupt)
    tempfile.tempdir = str(folder)  # for the lab's keys
    checks: dict[str, bool] = {}
    figures: dict[str, float] = {"requests": 0, "failed_requests": 0}
    finished = False
    report.heading("A cluster with Linkerd, and machines that join it by meshexp run")
    try:
        with linkerd_lab.lab() as lab:
            playground = Real(lab, report, checks, figures)
            playground.start()
            if once:
                playground.scenario()
                finished = True
            else:
                playground.stay(page, host_proc)
    except KeyboardInterrupt:
        report.heading("Taking everything down")
    return {"checks": checks, "figures": figures | {"seconds": round(report.seconds(), 1)}, "finished": finished}


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the outer process repeats it until this one ends
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
        for group in GROUPS:
            self._lab.group(group, leaseSeconds=LEASE_SECONDS, expirySeconds=30, drainSeconds=1)
        self._serve_site()
        self._pod = self._lab.stack.enter_context(color_pod(self._lab.cluster))
        for name in ("smiley-1", "face-1", "gui-1"):
            self._join(name)
        self._check("all_join", all(vm.is_ready() for vm in self._lab.vms.values()), f"{len(self._lab.vms)} machines are ready")

    @property
    def _source(self) -> Path:
        return self._lab.cluster.folder / "source"

    def _serve_site(self) -> None:
        """The machines' own DNS, which knows nothing of the cluster."""
        site = self._lab.stack.enter_context(box("site", self._lab.cluster.folder / "site", cluster.SITE_DNS))
        site.link(self._lab.cluster.node, "br0", f"{cluster.SITE_DNS}/24")
        record = f"--host-record={cluster.SITE_NAME},{cluster.SITE_ADDRESS}"
        quiet = ("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=")
        site.start("dnsmasq", "dnsmasq", *quiet, "--local=/#/", record)

    def _check(self, name: str, passed: bool, text: str) -> None:
        self._checks[name] = passed
        self._report.check(passed, text)

    def _join(self, name: str) -> Vm:
        vm = self._lab.vm(name, service_of(name), dns={"servers": [f"{cluster.NODE}:53"], "user": str(DNS_UID)})
        vm.box.stop("app", signal.SIGKILL)  # the lab's own; Faces takes its port
        vm.box.path("/run/resolv.conf").write_text(f"nameserver {cluster.SITE_DNS}\n")
        services = {f"{n.upper()}_SERVICE": f"{n}.{cluster.NAMESPACE}.svc.cluster.local" for n in ("smiley", "color", "face")}
        own = {"HOSTNAME": name, "HOST_IP": name, "PYTHONPATH": str(self._source), **SHOWN.get(name, {})}
        argv = (PYTHON, "-s", "-m", "demo.faces", kind_of(name), "--port", "8000")
        vm.box.start("faces", *argv, env=own | services, uid=APP_UID)
        shell.install(vm.folder / "shell", f"{vm.folder}/shell", name, sys.executable, vm.environment)
        if name == "color-1":
            self._untouched = host_state.dump(vm.box.enter)
            self._names_before = self._resolve(vm)
        began = time.monotonic()
        vm.join()
        self._lab.await_endpoints(vm.group, {v.address: True for v in self._lab.vms.values() if v.group == vm.group})
        self._report.step(name, f"Ready after {time.monotonic() - began:.1f} s as {vm.spiffe_id}")
        return vm

    def stay(self, page: socket.socket, host_proc: int) -> None:
        """The page on the host's own loopback, until Ctrl-C."""
        for name in ("face-2", "color-1", "smiley2-1"):
            self._join(name)
        self._lab.cluster.apply(cluster.route(80, 20))
        threading.Thread(target=relay, args=(page, self._lab.vms["gui-1"].box.pid, 8000), daemon=True).start()
        vms = sorted(self._lab.vms.items())
        rows = [(name, vm.address, vm.spiffe_id, "yes" if vm.is_ready() else "no") for name, vm in vms]
        pids = {name: shell.host_pid(host_proc, vm.box.pid) for name, vm in vms}
        shells = [(name, shell.command(pids[name], f"{vm.folder}/shell")) for name, vm in vms]
        self._report.up(table(("machine", "address", "identity", "ready"), rows), shells, page.getsockname())
        while True:
            signal.pause()

    def scenario(self) -> None:
        self._mutual_tls()
        self._second_face()
        self._pod_and_machine()
        self._canary()
        self._failing_probe()
        self._controller_away()
        self._graceful_stop()
        self._killed_daemon()

    def _call(self, seconds: float = PATIENCE_SECONDS, pause: float = 0.01, count: int = MANY, clients: int = 1) -> Calls:
        """`count` is for each of the clients, which call at the same time."""
        argv = (PYTHON, "-c", CLIENT, FACE, str(seconds), str(pause), str(count))

        def call(_: int) -> Calls:
            return Calls.read(self._lab.vms["gui-1"].box.run(*argv, uid=APP_UID)[1])

        with ThreadPoolExecutor(clients) as pool:
            calls = Calls(answer for part in pool.map(call, range(clients)) for answer in part)
        self._figures["requests"] += len(calls)
        self._figures["failed_requests"] += calls.failed
        return calls

    @contextlib.contextmanager
    def _calling(self, seconds: float) -> Iterator[list[Calls]]:
        found: list[Calls] = []
        thread = threading.Thread(target=lambda: found.append(self._call(seconds)))
        thread.start()
        yield found
        thread.join()

    def _call_until_all(self, what: str, wanted: set[str]) -> Calls:
        """Until each of `wanted` has answered; by several at once, since linkerd2-proxy prefers the quickest that is free."""
        calls = Calls()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not wanted <= calls.by(what).keys() and time.monotonic() < deadline:
            calls = Calls((*calls, *self._call(count=20, clients=CLIENTS)))
        return calls

    def _resolve(self, vm: Vm) -> list[str | None]:
        output = vm.box.run(PYTHON, "-c", RESOLVE, FACE, cluster.SITE_NAME, uid=APP_UID)[1]
        return list(json.loads(output))

    def _mutual_tls(self) -> None:
        self._report.heading("1. face → smiley on a machine, by service name, with mutual TLS; and color in its pod")
        calls = self._call(count=5)
        good = calls.by("smiley").keys() == {GRINNING} and calls.by("color").keys() == {"blue"} and not calls.failed
        self._check("face_answers", good, f"face answers {listed(calls.by('smiley'))} on {listed(calls.by('color'))}: {calls}")
        self._proof("smiley")

    def _proof(self, name: str) -> None:
        """Of every face, since the few calls to a new machine may all be of one of them."""
        callee = self._lab.vms[f"{name}-1"]
        faces = [vm for vm in self._lab.vms.values() if vm.group == "face"]
        to = ("request_total", 'direction="outbound"', 'tls="true"', f'server_id="{callee.spiffe_id}"')
        out = sum(face.metrics(*to) for face in faces)
        into = callee.metrics("request_total", 'direction="inbound"', 'tls="true"', f'client_id="{faces[0].spiffe_id}"')
        whose = listed(face.name for face in faces)
        text = f"linkerd2-proxy of {whose} counts {out:.0f} requests to {callee.spiffe_id}, {name}-1's {into:.0f} from face"
        self._check(f"mtls_face_{name}", bool(out and into), text)

    def _second_face(self) -> None:
        self._report.heading("2. face-2 joins, and is balanced over")
        began = time.monotonic()
        self._join("face-2")
        self._figures["join_seconds"] = round(time.monotonic() - began, 3)
        calls = self._call_until_all("pod", {"face-1", "face-2"})
        text = f"{calls}, answered by {counts(calls.by('pod'))}"
        self._check("balanced", calls.by("pod").keys() == {"face-1", "face-2"} and not calls.failed, text)

    def _pod_and_machine(self) -> None:
        self._report.heading("3. color: a machine next to the pod, then without it; and split DNS on that machine")
        names = self._resolve(self._join("color-1"))
        address = self._lab.cluster.get("service", "face", "-n", cluster.NAMESPACE)["spec"]["clusterIP"]
        split = self._names_before == [None, cluster.SITE_ADDRESS] and names == [address, cluster.SITE_ADDRESS]
        now = " and ".join(name or "unknown" for name in names)
        before = " and ".join(name or "unknown" for name in self._names_before)
        self._check("split_dns", split, f"{FACE} and {cluster.SITE_NAME} are {now}; before color-1 joined: {before}")
        calls = self._call_until_all("color", {"blue", "green"})
        both = calls.by("color").keys() == {"blue", "green"} and not calls.failed
        self._check("pod_and_machine", both, f"the pod shows blue and color-1 green: {counts(calls.by('color'))}; {calls}")
        self._proof("color")
        with self._calling(3.0) as meanwhile:
            self._pod.scale_to_zero()
        calls = self._call(count=20)
        alone = calls.by("color").keys() == {"green"} and not calls.failed and not meanwhile[0].failed
        self._check("without_the_pod", alone, f"scaled to 0: {meanwhile[0]}; then {counts(calls.by('color'))}")

    def _canary(self) -> None:
        self._report.heading("4. A canary: smiley2-1 gets a share of smiley's requests, by an HTTPRoute")
        self._join("smiley2-1")
        calls = self._call(count=20)
        self._check("no_route_no_canary", calls.has_share("smiley", HEART_EYES, 0.0), f"no route: {counts(calls.by('smiley'))}")
        for weights in ((80, 20), (50, 50)):
            self._lab.cluster.apply(cluster.route(*weights))
            good = False
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not good and time.monotonic() < deadline:  # the policy controller takes a moment
                calls = self._call(pause=0.0, count=SHARE_REQUESTS)
                good = calls.has_share("smiley", HEART_EYES, weights[1] / 100)
            self._check(f"canary_{weights[1]}", good, f"{weights[0]} to {weights[1]}: {counts(calls.by('smiley'))}; {calls}")

    def _failing_probe(self) -> None:
        self._report.heading("5. smiley-1's probe fails and passes again")
        smiley = self._lab.vms["smiley-1"]
        for check, ready in (("probe_fails", False), ("probe_returns", True)):
            words = ("-sS", "-X", "PUT", "-d", json.dumps({"ready": ready}), "http://127.0.0.1:8000/ready")
            smiley.box.do("curl", *words)
            reached, seconds = self._timed("smiley", {smiley.address: ready})
            self._check(check, reached, f"smiley-1's endpoint is {'ready' if ready else 'not ready'} {seconds:.1f} s later")

    def _controller_away(self) -> None:
        self._report.heading(f"6. The controller is killed, and away for longer than a lease of {LEASE_SECONDS} s")
        before = {service: self._lab.endpoints(service) for service in GROUPS}
        self._lab.kill_controller()
        calls = self._call(LEASE_SECONDS + 1, 0.03)
        self._lab.start_controller()
        self._lab.await_controller()
        time.sleep(LEASE_SECONDS + 1)  # one that is back waits a lease for those it held
        same = before == {service: self._lab.endpoints(service) for service in before}
        text = f"{calls}; and then {'as many are' if same else 'not as many are'} ready as before"
        self._check("controller_away", bool(calls) and not calls.failed and same, text)

    def _graceful_stop(self) -> None:
        self._report.heading("7. SIGTERM to face-2 while a client calls face all the while")
        face = self._lab.vms["face-2"]
        with self._calling(8.0) as found:
            time.sleep(1.0)
            code = face.leave()
        calls = found[0]
        gone = face.address not in self._lab.workloads()
        text = f"exit code {code}, ExternalWorkload {'gone' if gone else 'still there'}, {calls}"
        self._check("graceful_stop", code == 0 and gone and not calls.failed and len(calls) > 20, text)

    def _killed_daemon(self) -> None:
        self._report.heading("8. SIGKILL to color-1's daemon, then meshexp cleanup")
        color = self._lab.vms["color-1"]
        color.box.stop("harness", signal.SIGKILL)
        code, output = color.meshexp("cleanup")
        left = host_state.differences(self._untouched, host_state.dump(color.box.enter))
        if self._resolve(color) != self._names_before:
            left.append("names are not as before")
        for line in left[:20]:
            self._report.step("color-1", line)
        running = color.box.run("ps", "-eo", "args=")[1].splitlines()
        ours = [line for line in running if any(n in line for n in ("linkerd2-proxy", "spire-", "harness", "dnsmasq"))]
        differences = phrases.counted(len(left), "difference")
        text = f"cleanup ended with {code}; {differences} in the dumps; processes left: {', '.join(ours) or 'none'}"
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
