"""What `--once` proves, step by step. Each check is a name and a truth; all of them are in the last line's JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence

from demo import cluster, host_state
from demo.calls import CLIENT, FACE, GRINNING, HEART_EYES, MANY, RESOLVE, Calls, counts, listed
from demo.machine import APP_UID, PYTHON, Machine
from demo.playground import Playground, environment, service_of, until
from harness import phrases

PATIENCE_SECONDS = 30.0  # far more than anything takes: how long it took is in the text
SHARE_REQUESTS = 40  # the development proxy shares by turns, not by chance


class Scenario:
    def __init__(self, playground: Playground) -> None:
        self._playground, self._report = playground, playground.report
        self.checks: dict[str, bool] = {}
        self.figures: dict[str, float] = {"requests": 0, "failed_requests": 0}

    def _check(self, name: str, passed: bool, text: str) -> None:
        self.checks[name] = passed
        self._report.check(passed, text)

    async def run(self) -> None:
        await self._names()
        await self._mutual_tls()
        await self._second_face()
        await self._pod_and_machine()
        await self._canary()
        await self._failing_probe()
        await self._controller_away()
        await self._graceful_stop()
        await self._killed_daemon()

    async def join(self, *names: str) -> None:
        """Starts their daemons, and waits until the cluster has them as ready."""
        began = time.monotonic()
        await asyncio.gather(*(self._playground.join(name) for name in names))
        joined = await until(lambda: self._have_joined(names), PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        self.checks["all_join"] = self.checks.get("all_join", True) and joined
        self._report.check(joined, f"{listed(names)}: in the endpoints {seconds:.1f} s after `meshexp run`")
        self.figures["join_seconds"] = round(seconds, 3)

    async def _have_joined(self, names: Sequence[str]) -> bool:
        for name in names:
            if self._playground.machines[name].address not in await self._playground.cluster.ready(service_of(name)):
                return False
        return True

    async def call_face(self, seconds: float = PATIENCE_SECONDS, pause: float = 0.01, count: int = MANY) -> Calls:
        """Requests from gui-1, one connection each."""
        client = self._playground.machines["gui-1"]
        _, output = await client.run([PYTHON, "-c", CLIENT, FACE, str(seconds), str(pause), str(count)], uid=APP_UID)
        calls = Calls.read(output)
        self.figures["requests"] += len(calls)
        self.figures["failed_requests"] += calls.failed
        return calls

    async def _call_until_all(self, what: str, wanted: set[str]) -> Calls:
        """Until each of `wanted` has answered, or patience ends."""
        calls = Calls()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not wanted <= calls.by(what).keys() and time.monotonic() < deadline:
            calls = Calls((*calls, *await self.call_face(count=10)))
        return calls

    async def _names(self) -> None:
        self._report.heading("1. Split DNS: the cluster's names are asked of the cluster, all others as before")
        before, after = [await self._resolve(self._playground.machines[name]) for name in ("color-1", "gui-1")]
        good = before == [None, cluster.SITE_ADDRESS] and after == [cluster.cluster_ip("face"), cluster.SITE_ADDRESS]
        for joined, (own, site) in (("has not joined", before), ("has joined", after)):
            self._report.step("names", f"a machine that {joined}: {FACE} is {own or 'unknown'}, {cluster.SITE_NAME} is {site}")
        self._check("split_dns", good, "only who has joined knows the cluster's names; the site's are known to all")

    async def _resolve(self, here: Machine) -> list[str | None]:
        _, output = await here.run([PYTHON, "-c", RESOLVE, FACE, cluster.SITE_NAME], uid=APP_UID)
        return list(json.loads(output))

    async def _mutual_tls(self) -> None:
        self._report.heading("2. face → smiley on a machine, by service name, with mutual TLS; and color in its pod")
        calls = await self.call_face(count=5)
        good = calls.by("smiley").keys() == {GRINNING} and calls.by("color").keys() == {"blue"} and not calls.failed
        self._check("face_answers", good, f"face answers {listed(calls.by('smiley'))} on {listed(calls.by('color'))}: {calls}")
        await self._proof("smiley")

    async def _proof(self, name: str) -> None:
        caller, callee = identity("face"), identity(name)
        out = await self._metrics("face-1", 'direction="outbound"', 'tls="true"', f'server_id="{callee}"')
        into = await self._metrics(f"{name}-1", 'direction="inbound"', 'tls="true"', f'client_id="{caller}"')
        self._check(f"mtls_face_{name}", bool(out and into), f"face-1's proxy saw {callee}; {name}-1's proxy saw {caller}")

    async def _second_face(self) -> None:
        self._report.heading("3. face-2 joins, and is balanced over")
        await self.join("face-2")
        calls = await self._call_until_all("pod", {"face-1", "face-2"})
        text = f"{calls}, answered by {counts(calls.by('pod'))}"
        self._check("balanced", calls.by("pod").keys() == {"face-1", "face-2"} and not calls.failed, text)

    async def _pod_and_machine(self) -> None:
        self._report.heading("4. color: a machine next to the pod, then without it")
        await self.join("color-1")
        calls = await self._call_until_all("color", {"blue", "green"})
        both = calls.by("color").keys() == {"blue", "green"} and not calls.failed
        self._check("pod_and_machine", both, f"the pod shows blue and color-1 green: {counts(calls.by('color'))}; {calls}")
        await self._proof("color")
        calling = asyncio.create_task(self.call_face(2.0))
        await self._playground.scale_to_zero()
        meanwhile = await calling
        calls = await self.call_face(count=10)
        alone = calls.by("color").keys() == {"green"} and not meanwhile.failed and not calls.failed
        self._check("without_the_pod", alone, f"scaled to 0: {meanwhile}; then {counts(calls.by('color'))}")

    async def _canary(self) -> None:
        self._report.heading("5. A canary: smiley2-1 gets a share of smiley's requests, by an HTTPRoute")
        await self.join("smiley2-1")
        calls = await self.call_face(count=10)
        self._check("no_route_no_canary", calls.has_share("smiley", HEART_EYES, 0.0), f"no route: {counts(calls.by('smiley'))}")
        for weights in ((80, 20), (50, 50)):
            await self.canary(*weights)
            calls = await self.call_face(count=SHARE_REQUESTS)
            text = f"{weights[0]} to {weights[1]}: {counts(calls.by('smiley'))}; {calls}"
            self._check(f"canary_{weights[1]}", calls.has_share("smiley", HEART_EYES, weights[1] / 100), text)

    async def canary(self, *weights: int) -> None:
        """Applies the playground's HTTPRoute."""
        self._playground.cluster.routes[:] = [cluster.route(*weights)]
        await self._playground.cluster.publish()

    async def _failing_probe(self) -> None:
        self._report.heading("6. smiley-1's probe fails and passes again; smiley2-1 answers meanwhile")
        smiley = self._playground.machines["smiley-1"]
        await _set_ready(smiley, False)
        left, seconds = await self._timed("smiley", set())
        self.figures["unready_seconds"] = seconds
        calls = await self.call_face(count=10)
        only = calls.by("smiley").keys() == {HEART_EYES} and not calls.failed
        self._check("probe_fails", left and only, f"smiley-1 left the endpoints {seconds} s after its probe failed; {calls}")
        await _set_ready(smiley, True)
        back, seconds = await self._timed("smiley", {smiley.address})
        self._check("probe_returns", back, f"smiley-1 is back {seconds} s after its probe passed")

    async def _controller_away(self) -> None:
        """Longer than a lease: what runs goes on, and nobody is marked down when the controller is back."""
        self._report.heading(f"7. The controller is away, for longer than a lease of {cluster.LEASE_SECONDS:.0f} s")
        cluster_side = self._playground.cluster
        seconds = cluster.LEASE_SECONDS + 1
        before = {service: await cluster_side.ready(service) for service in cluster.SERVICES}
        await cluster_side.stop_controller()
        calls = await self.call_face(seconds, 0.02)
        await cluster_side.start_controller()
        await asyncio.sleep(seconds)  # one that is back waits a lease for those it held
        same = before == {service: await cluster_side.ready(service) for service in cluster.SERVICES}
        text = f"{calls}; and then {'as many are' if same else 'not as many are'} ready as before"
        self._check("controller_away", bool(calls) and not calls.failed and same, text)

    async def _graceful_stop(self) -> None:
        self._report.heading("8. SIGTERM to face-2 while a client calls face all the while")
        playground = self._playground
        calling = asyncio.create_task(self.call_face(5.0, 0.005))
        await asyncio.sleep(1.0)
        face = playground.machines["face-2"]
        face.signal("harness", signal.SIGTERM)
        code = await face.children["harness"].wait()
        calls = await calling
        gone = all(o["spec"]["workloadIPs"][0]["ip"] != face.address for o in await playground.cluster.workloads("face"))
        self.figures["requests_during_stop"] = len(calls)
        text = f"exit code {code}, ExternalWorkload {'gone' if gone else 'still there'}, {calls}"
        self._check("graceful_stop", code == 0 and gone and not calls.failed and len(calls) > 5, text)

    async def _killed_daemon(self) -> None:
        self._report.heading("9. SIGKILL to color-1's daemon, then meshexp cleanup")
        color = self._playground.machines["color-1"]
        before, names = self.untouched["color-1"]
        processes = await _processes(color)
        color.signal("harness", signal.SIGKILL)
        killed = time.monotonic()
        await color.children["harness"].wait()
        code, output = await color.run([PYTHON, "-s", "-m", "harness", "cleanup"], environment("color-1"))
        left = host_state.differences(before, await asyncio.to_thread(host_state.dump, color.enter))
        if _resolv_conf(color) != names:
            left.append("resolv.conf is not as before")
        remaining = await _processes(color)
        ours = sorted(command for command in remaining if "harness" in command or "proxy" in command or "dnsmasq" in command)
        for line in left[:20]:
            self._report.step("color-1", line)
        differences = phrases.counted(len(left), "difference")
        text = f"cleanup ended with {code}; {differences} in the dumps; processes left: {', '.join(ours) or 'none'}"
        self._check("cleanup", code == 0 and not left and not ours and len(remaining) < len(processes), text)
        if code:
            self._report.step("color-1", output.strip())
        gone, _ = await self._timed("color", set())
        self.figures["lease_seconds"] = round(time.monotonic() - killed, 2)
        self._check("lease_ends", gone, f"color-1 left the endpoints {self.figures['lease_seconds']} s after the kill")

    async def remember(self, names: Sequence[str]) -> None:
        """The state of each machine before it joins."""
        self.untouched = {}
        for name in names:
            here = self._playground.machines[name]
            self.untouched[name] = await asyncio.to_thread(host_state.dump, here.enter), _resolv_conf(here)

    async def _is_ready(self, service: str, addresses: set[str]) -> bool:
        return await self._playground.cluster.ready(service) == addresses

    async def _timed(self, service: str, addresses: set[str]) -> tuple[bool, float]:
        began = time.monotonic()
        reached = await until(lambda: self._is_ready(service, addresses), PATIENCE_SECONDS)
        return reached, round(time.monotonic() - began, 2)

    async def _metrics(self, name: str, *parts: str) -> list[str]:
        here = self._playground.machines[name]
        script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:4191/metrics', timeout=3).read().decode())"
        _, output = await here.run([PYTHON, "-c", script])
        return [line for line in output.splitlines() if all(part in line for part in parts) and not line.startswith("#")]


def identity(service: str) -> str:
    return f"spiffe://{cluster.TRUST_DOMAIN}/{service}"


def _resolv_conf(here: Machine) -> str:
    return here.path("/run/vm/resolv.conf").read_text()


async def _set_ready(here: Machine, ready: bool) -> None:
    script = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=3);"
        "c.request('PUT', '/ready', sys.argv[1]); r = c.getresponse(); sys.exit(r.status != 200)"
    )
    code, output = await here.run([PYTHON, "-c", script, json.dumps({"ready": ready})])
    if code:
        raise RuntimeError(f"{here.name}: readiness could not be set: {output}")


async def _processes(here: Machine) -> list[str]:
    _, output = await here.run(["ps", "-eo", "args="])
    return [line for line in output.splitlines() if not line.startswith("ps ")]
