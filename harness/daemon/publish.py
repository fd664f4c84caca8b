"""How things stand, to everybody who wants to know: the snapshot file, systemd's status line, and the log of what changed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from harness import freshness, hints, status, times
from harness.clock import Clock
from harness.config import schema
from harness.daemon.bring import Bringer
from harness.daemon.compose import Parts
from harness.daemon.export import Exporter
from harness.daemon.head_start import Wakes
from harness.daemon.snapshot import Counters, Observed, snapshot, written
from harness.daemon.standing import Standing
from harness.errors import HarnessError
from harness.known import Machine, Progress
from harness.messages import Reason
from harness.paths import Paths
from harness.specs import Readiness
from harness.status import Condition, Phase
from harness.supervisor import ChildState
from harness.system import files, procfs, systemd


class Publisher:
    """Remembers what it said last: only changes are logged. `was_ready`: also under the daemon before this one."""

    def __init__(self, paths: Paths, clock: Clock, log: Any, exporter: Exporter, bringer: Bringer, began: float) -> None:
        self._paths, self._clock, self._log, self._began = paths, clock, log, began
        self._exporter, self._bringer = exporter, bringer
        self._joined_seconds: float | None = None
        self._phase = Phase.STARTING
        self._since = clock.wall()
        self.was_ready = False
        self.said: tuple[Condition, ...] = ()
        self._stands = Standing()
        self._data: dict[str, Any] = {}
        self._lease_seconds: float | None = None
        self._looked_at = clock.boot()

    async def rest(self, wakes: Wakes, seconds: float) -> bool:
        """Whether there was a reason to look again within so many seconds.

        When the machine was suspended meanwhile, everything may have changed, and nothing is written before a look.
        """
        now = self._clock.boot()
        due = now + seconds
        while now < due:
            began = now
            if await wakes.within(min(due - now, freshness.beat_seconds(self._lease_seconds))):
                return True
            now = self._clock.boot()
            if now - began > freshness.valid_seconds(self._lease_seconds):
                return False  # the machine was suspended
            if now < due:
                self.beat()
        return False

    def say_unready(self, reason: Reason, busy_seconds: float) -> None:
        """What was said last, but not ready. The reason of a cordon stays."""
        if self._data.get("reason") != Reason.CORDONED.value:
            self._data |= {"ready": False, "reason": reason.value, "message": "the proxy is started again"}
        self.beat(busy_seconds)

    def beat(self, busy_seconds: float = 0.0) -> None:
        """Writes what was said last again, so that it counts for longer. `busy_seconds`: a step that takes so long follows.

        Not when the last look is too old for that: then a reader must see that the cycle does not go on.
        """
        if busy_seconds:
            systemd.feed(busy_seconds)
        if not self._data or self._clock.boot() - self._looked_at > freshness.VALID_MOST:
            return
        self._data |= {"written": written(self._clock, self._lease_seconds, busy_seconds)}
        self._exporter.show(self._data)
        with contextlib.suppress(HarnessError):  # the reader sees that nothing was written
            files.write_json(self._paths.status, self._data, mode=0o644)

    def begin(self, conditions: tuple[Condition, ...]) -> None:
        """Before there are parts to tell of."""
        text = "; ".join(condition.message for condition in conditions)
        systemd.notify(STATUS=text)
        said = [status.encoded(condition, known=hints.general(self._paths)) for condition in conditions]
        own = procfs.own()
        data = {"phase": Phase.STARTING.text, "ready": False, "message": text, "conditions": said}
        data |= {"pid": own.pid, "pid_started": own.started}
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
        phase = status.phase(conditions, was_ready=self.was_ready, stopping=stopping)
        if phase is Phase.READY and self._joined_seconds is None:
            self.was_ready = True
            self._joined_seconds = round(self._clock.now() - self._began, 3)
        if phase is not self._phase:
            self._phase, self._since = phase, self._clock.wall()
            self._log.info("phase", phase=phase.text)
        known = hints.general(self._paths, config)
        self._log_changes(conditions, known)
        worst = status.worst(conditions)
        systemd.notify(STATUS=f"{phase.text}: {worst.message}" if worst else phase.text)
        look = await self._observed(parts, counters, machine.others.proxies if progress.redirected else None)
        data = snapshot(config, machine, phase, self._since, conditions, readiness, progress.registration, look, known)
        self._lease_seconds = progress.registration.lease_seconds if progress.registration else None
        self._looked_at = self._clock.boot()
        self._data = data | {"written": written(self._clock, self._lease_seconds)}
        files.write_json(self._paths.status, self._data, mode=0o644)
        await self._exporter.export(config.metrics, self._data)

    def _log_changes(self, conditions: tuple[Condition, ...], known: Mapping[str, str]) -> None:
        for change in self._stands.take(conditions, self._clock.wall()):
            condition = change.condition
            fields: dict[str, Any] = {"status": condition.truth.value, "detail": condition.message}
            if condition.problem:
                fields |= {"problem": condition.problem.code, "hint": f"{condition.hint(known)}; {condition.problem.explain}"}
            if change.before:
                fields |= {"before": f"{change.before} for {times.span(change.seconds)}"}
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
        life = identity.svid.lifetime if identity.svid else 0.0
        lifetimes = {
            "svid": life,
            # The proxy tells only the end of its certificate. One source issues both, so it lives as long as the SVID.
            "proxy": life if proxy.certified_until else 0.0,
            "signing": signing.ends - signing.begins if signing else 0.0,
        }
        boot = self._clock.wall() - self._clock.now()
        return Observed(
            children=children,
            proxy=proxy.program,
            ends=ends,
            lifetimes=lifetimes,
            reported=registration.reported,
            neighbours=neighbours,
            counters=counters,
            probes=tuple(zip(probes.probes, probes.health, strict=True)),
            calls=parts.calls,
            boot=boot,
            began=self._began,
            joined_seconds=self._joined_seconds,
            silence=registration.silence,
            looked=self._clock.wall(),
            since=self._stands.since,
        )
