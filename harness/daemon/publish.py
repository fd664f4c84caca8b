"""How things stand, to everybody who wants to know: the snapshot file, systemd's status line, and the log of what changed."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from harness import status
from harness.clock import Clock
from harness.config import schema
from harness.daemon.bring import Bringer
from harness.daemon.compose import Parts
from harness.daemon.export import Exporter
from harness.daemon.snapshot import Counters, Observed, snapshot
from harness.desired import Machine, Progress
from harness.errors import HarnessError
from harness.paths import Paths
from harness.specs import Readiness
from harness.status import Condition, Phase
from harness.supervisor import ChildState
from harness.system import files, systemd


class Publisher:
    """Remembers what it said last: only changes are logged."""

    def __init__(self, paths: Paths, clock: Clock, log: Any, exporter: Exporter, bringer: Bringer, began: float) -> None:
        self._paths, self._clock, self._log, self._began = paths, clock, log, began
        self._exporter, self._bringer = exporter, bringer
        self._joined_seconds: float | None = None
        self._phase, self._since, self._was_ready = Phase.STARTING, clock.wall(), False
        self.said: tuple[Condition, ...] = ()

    def begin(self, conditions: tuple[Condition, ...]) -> None:
        """Before there are parts to tell of."""
        text = "; ".join(condition.message for condition in conditions)
        systemd.notify(STATUS=text)
        data = {"phase": Phase.STARTING.text, "ready": False, "message": text, "pid": os.getpid()}
        with contextlib.suppress(HarnessError):  # the log has said it
            files.write_json(self._paths.status, data, mode=0o644)

    async def publish(
        self,
        config: schema.Config,
        machine: Machine,
        parts: Parts,
        progress: Progress,
        readiness: Readiness,
        conditions: tuple[Condition, ...],
        stopping: bool,
        counters: Counters,
    ) -> None:
        phase = status.phase(conditions, was_ready=self._was_ready, stopping=stopping)
        if phase is Phase.READY and not self._was_ready:
            self._was_ready, self._joined_seconds = True, round(self._clock.now() - self._began, 3)
        if phase is not self._phase:
            self._phase, self._since = phase, self._clock.wall()
            self._log.info("phase", phase=phase.text)
        self._log_changes(conditions)
        worst = status.worst(conditions)
        systemd.notify(STATUS=f"{phase.text}: {worst.message}" if worst else phase.text)
        look = await self._observed(parts, counters, machine.others.proxies if progress.redirected else None)
        data = snapshot(config, machine, phase, self._since, conditions, readiness, progress.registration, look)
        files.write_json(self._paths.status, data, mode=0o644)
        await self._exporter.export(config.metrics, data)

    def _log_changes(self, conditions: tuple[Condition, ...]) -> None:
        before = {c.name: c for c in self.said}
        for condition in conditions:
            old = before.get(condition.name)
            if old is None or (old.truth, old.problem) != (condition.truth, condition.problem):
                fields: dict[str, Any] = {"status": condition.truth.value, "detail": condition.message}
                if condition.problem:
                    fields |= {"problem": condition.problem.code, "hint": condition.problem.hint}
                (self._log.warning if condition.problem else self._log.info)(f"condition {condition.name}", **fields)
        self.said = conditions

    async def _observed(self, parts: Parts, counters: Counters, neighbours: tuple[int, ...] | None) -> Observed:
        identity = await self._bringer.look(parts.identity)
        proxy = await self._bringer.look(parts.proxy)
        registration = await self._bringer.look(parts.registration)
        probes = await self._bringer.look(parts.probes)
        children: dict[str, tuple[int | None, ChildState]] = {
            "identity": (None, identity.stream),
            "workload-api": (None, identity.server),
            "spire-server": (identity.spire.server.pid, identity.spire.server.child),
            "spire-agent": (identity.spire.agent.pid, identity.spire.agent.child),
            "proxy": (proxy.pid, proxy.child),
        }
        signing = identity.spire.server.prepared
        ends = {
            "svid": identity.svid.expires_at if identity.svid else 0.0,
            "proxy": proxy.certified_until,
            "signing": signing.ends if signing else 0.0,
        }
        boot = self._clock.wall() - self._clock.now()
        return Observed(
            children=children,
            proxy=proxy.program,
            ends=ends,
            reported=registration.reported,
            neighbours=neighbours,
            counters=counters,
            probes=tuple(zip(probes.probes or (), probes.health, strict=True)),
            calls=parts.calls,
            boot=boot,
            began=self._began,
            joined_seconds=self._joined_seconds,
        )
