"""What `--once` proves, step by step. Each check is a name and a truth; all of them are in the last line's JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Sequence

from demo import cluster, host_state
from demo.machine import APP_UID, PYTHON, Machine
from demo.playground import Playground, environment, until

# Calls face once per connection and prints one line per answer: status, and which face answered.
CLIENT = """
import http.client, sys, time
end = time.monotonic() + float(sys.argv[2])
pause = float(sys.argv[3])
while time.monotonic() < end:
    try:
        c = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
        c.request("GET", "/center/?row=0&col=0", headers={"Connection": "close"})
        r = c.getresponse(); body = r.read().decode()
        print(r.status, r.headers.get("X-Faces-Pod"), body.replace("\\n", ""), flush=True)
        c.close()
    except Exception as error:
        print("failed", type(error).__name__, error, flush=True)
    time.sleep(pause)
"""
PATIENCE_SECONDS = 30.0  # far more than anything takes: how long it took is in the text
FACE = f"face.{cluster.NAMESPACE}.svc.cluster.local"


class Failures(Counter[str]):
    """In what way requests failed, and how often; false when none did."""

    def __init__(self, answers: list[list[str]]) -> None:
        super().__init__(" ".join(answer)[:60] for answer in answers if answer[0] != "200")

    def __str__(self) -> str:
        return f"{self.total()} failed" + "".join(f"; {count} times {way}" for way, count in self.most_common(5))


class Scenario:
    def __init__(self, playground: Playground) -> None:
        self._playground, self._report = playground, playground.report
        self.checks: dict[str, bool] = {}
        self.figures: dict[str, float] = {}

    def _check(self, name: str, passed: bool, text: str) -> None:
        self.checks[name] = passed
        self._report.check(passed, text)

    async def run(self) -> None:
        await self._mutual_tls()
        await self._second_face()
        await self._failing_probe()
        await self._controller_away()
        await self._graceful_stop()
        await self._killed_daemon()

    async def call_face(self, seconds: float, pause: float = 0.02) -> list[list[str]]:
        """Requests from gui-1, one connection each: [status, pod, body] or [failed, …]."""
        client = self._playground.machines["gui-1"]
        _, output = await client.run([PYTHON, "-c", CLIENT, FACE, str(seconds), str(pause)], uid=APP_UID)
        return [line.split(" ", 2) for line in output.splitlines()]

    async def _mutual_tls(self) -> None:
        self._report.heading("1. face → smiley and color, by service name, with mutual TLS")
        answers = await self.call_face(0.5)
        body = json.loads(answers[-1][2]) if answers and answers[-1][0] == "200" else {}
        good = body.get("smiley") == "&#x1F603;" and body.get("color") == "#66CCEE" and not body.get("errors")
        self._check("face_answers", good, f"face answers with smiley {body.get('smiley')} and color {body.get('color')}")
        for name in ("smiley", "color"):
            caller, callee = f"{identity('face')}", f"{identity(name)}"
            out = await self._metrics("face-1", 'direction="outbound"', 'tls="true"', f'server_id="{callee}"')
            into = await self._metrics(f"{name}-1", 'direction="inbound"', 'tls="true"', f'client_id="{caller}"')
            self._check(f"mtls_face_{name}", bool(out and into), f"face-1's proxy saw {callee}; {name}-1's proxy saw {caller}")

    async def _second_face(self) -> None:
        self._report.heading("2. face-2 joins; smiley-1's probe fails and passes again")
        playground = self._playground
        await playground.boot("face-2")
        await playground.start_workload("face-2")
        began = time.monotonic()
        await playground.join("face-2")
        both = {playground.machines[name].address for name in ("face-1", "face-2")}
        joined = await until(lambda: self._is_ready("face", both), PATIENCE_SECONDS)
        self.figures["join_seconds"] = round(time.monotonic() - began, 3)
        answers, pods = list[list[str]](), set[str]()
        while len(pods) < 2 and time.monotonic() - began < PATIENCE_SECONDS:
            answers += await self.call_face(1.0)
            pods = {answer[1] for answer in answers if answer[0] == "200"}
        failed = Failures(answers)
        seconds = self.figures["join_seconds"]
        text = f"face-2 ready after {seconds} s; {len(answers)} requests, {failed}, answered by {sorted(pods)}"
        self._check("balanced", joined and pods == {"face-1", "face-2"} and not failed, text)

    async def _failing_probe(self) -> None:
        smiley = self._playground.machines["smiley-1"]
        await _set_ready(smiley, False)
        left, seconds = await self._timed("smiley", set())
        self.figures["unready_seconds"] = seconds
        self._check(
            "probe_fails",
            left and seconds <= 2 * cluster.PROBE_SECONDS,
            f"smiley-1 left the endpoints {seconds} s after its probe failed",
        )
        await _set_ready(smiley, True)
        back, seconds = await self._timed("smiley", {smiley.address})
        self._check("probe_returns", back, f"smiley-1 is back {seconds} s after its probe passed")

    async def _controller_away(self) -> None:
        """Longer than a lease: what runs goes on, and nobody is marked down when the controller is back."""
        cluster_side, seconds = self._playground.cluster, cluster.LEASE_SECONDS + 1
        before = {service: await cluster_side.ready(service) for service in cluster.SERVICES}
        await cluster_side.stop_controller()
        calls = asyncio.create_task(self.call_face(seconds, 0.02))
        await asyncio.sleep(seconds)
        answers = await calls
        await cluster_side.start_controller()
        await asyncio.sleep(seconds)  # one that is back waits a lease for those it held
        failed = Failures(answers)
        same = before == {service: await cluster_side.ready(service) for service in cluster.SERVICES}
        text = f"controller away for {seconds:.0f} s: {len(answers)} requests, {failed}; all as ready as before: {same}"
        self._check("controller_away", bool(answers) and not failed and same, text)

    async def _graceful_stop(self) -> None:
        self._report.heading("3. SIGTERM to face-2 while a client calls face all the while")
        playground = self._playground
        calls = asyncio.create_task(self.call_face(5.0, 0.005))
        await asyncio.sleep(1.0)
        face = playground.machines["face-2"]
        face.signal("harness", signal.SIGTERM)
        code = await face.children["harness"].wait()
        answers = await calls
        failed = Failures(answers)
        gone = all(o["spec"]["workloadIPs"][0]["ip"] != face.address for o in await playground.cluster.workloads("face"))
        self.figures["requests_during_stop"] = len(answers)
        there = "gone" if gone else "still there"
        text = f"exit code {code}, ExternalWorkload {there}, {len(answers)} requests, {failed}"
        self._check("graceful_stop", code == 0 and gone and not failed and len(answers) > 20, text)

    async def _killed_daemon(self) -> None:
        self._report.heading("4. SIGKILL to color-1's daemon, then meshexp cleanup")
        playground = self._playground
        color = playground.machines["color-1"]
        before = self.untouched["color-1"]
        processes = await _processes(color)
        color.signal("harness", signal.SIGKILL)
        killed = time.monotonic()
        await color.children["harness"].wait()
        code, output = await color.run([PYTHON, "-s", "-m", "harness", "cleanup"], environment("color-1"))
        left = host_state.differences(before, await asyncio.to_thread(host_state.dump, color.enter))
        remaining = await _processes(color)
        ours = sorted(command for command in remaining if "harness" in command or "proxy" in command)
        for line in left[:20]:
            self._report.step("color-1", line)
        text = f"cleanup ended with {code}; {len(left)} differences in the dumps; processes left: {', '.join(ours) or 'none'}"
        self._check("cleanup", code == 0 and not left and not ours and len(remaining) < len(processes), text)
        if code:
            self._report.step("color-1", output.strip())
        gone, _ = await self._timed("color", set())
        self.figures["lease_seconds"] = round(time.monotonic() - killed, 2)
        self._check("lease_ends", gone, f"color-1 left the endpoints {self.figures['lease_seconds']} s after the kill")

    async def remember(self, names: Sequence[str]) -> None:
        """The state of each machine before it joins."""
        self.untouched = {name: await asyncio.to_thread(host_state.dump, self._playground.machines[name].enter) for name in names}

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
