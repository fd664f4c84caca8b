"""The daemon's life: wake for any reason, look at the whole, do what is missing, say how things stand."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import replace

import structlog

from harness import decode, problems, tasks
from harness.clock import Clock
from harness.config import load, schema
from harness.daemon import in_force, machine, needs, shutdown
from harness.daemon.compose import Part, compose
from harness.daemon.export import Exporter
from harness.daemon.head_start import HeadStart
from harness.daemon.in_force import InForce
from harness.daemon.publish import Publisher
from harness.daemon.snapshot import Counters
from harness.desired import Desired, Progress, anchors_behind, desired, readiness
from harness.errors import HarnessError
from harness.messages import Reason
from harness.paths import Paths
from harness.status import Condition, Truth
from harness.system import files, kernel_events, systemd, units

TIMER_SECONDS, RESTART_RETRY_SECONDS, NEIGHBOURS_SECONDS = 15.0, 2.0, 0.1


class Daemon:
    def __init__(self, config: schema.Config, paths: Paths, environ: Mapping[str, str], clock: Clock, begun: HeadStart) -> None:
        self.config, self._paths, self._environ, self._clock = config, paths, environ, clock
        self._begun, self.wake = begun, begun.wakes
        self._stopping = self._reload = self._restart_proxy = False
        self._failures: dict[str, str] = {}
        self._right: dict[str, object] = {}
        self._in_force, self._reload_fault = begun.in_force, begun.in_force.fault if begun.in_force else ""
        self._bug: BaseException | None = None
        self._progress = Progress()
        self._proxy_seen = clock.now()
        self._restart_after = 0.0
        self._others: tuple[tuple[str, int], ...] = ()
        self._neighbours: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger().bind(component="harness")
        self._exporter = Exporter(clock)
        self._publisher = Publisher(paths, clock, self._log, self._exporter, begun.began)
        self._counters = Counters()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; 0 after a clean stop."""
        self._machine = self._begun.machine
        self._parts = await compose(self.config, self._paths, self._clock, self._begun)
        await self._take_over()
        self._listen_to_signals()
        tasks.on_bug(self._on_bug)
        route_events = kernel_events.watch_routes(self.wake)
        rule_events = tasks.spawn(self._watch_rules())
        systemd.notify(READY=1, STATUS="Starting")
        in_force.keep(self._paths, self._in_force, self._machine.anchors_pem, self._log)
        machine.wake_others(self._paths)
        self._log.info("started", group=self.config.workload.group, namespace=self.config.workload.namespace)
        try:
            while not self._stopping:
                await self._cycle()
                await self._sleep()
            await self._stop()
            if self._bug is not None:
                raise self._bug
        finally:
            rule_events.cancel()
            asyncio.get_running_loop().remove_reader(route_events)
            route_events.close()
        return 0

    async def _take_over(self) -> None:
        """What a daemon before this one left in place on purpose: its registration, its proxy and its rules."""
        adopted = await self._parts.adopt(self.config.proxy.admin_port)
        if adopted:
            self._log.info("the proxy of the daemon before this one goes on")
        # Rules that a killed daemon left stay until there is a proxy again: without them all would go on in plaintext.
        redirected = adopted or await self._parts.redirect_in_place()
        self._progress = Progress(registration=self._begun.registration, redirected=redirected)
        self._publisher.was_ready = adopted

    async def _watch_rules(self) -> None:
        try:
            async for sentence in self._parts.redirect_changes():
                self.wake(sentence)
        except OSError as error:
            self._log.warning(
                "the kernel does not tell of changes to the rules; they are looked at every cycle", reason=str(error)
            )

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGUSR1, self._on_proxy_restart)
        loop.add_signal_handler(signal.SIGUSR2, self.wake, "SIGUSR2")  # `meshexp cordon` has written its file
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def _on_stop(self, name: str) -> None:
        self._stopping = True
        shutdown.take_time(self.config, self._progress)  # at once: the cycle that goes on may be a long one
        self.wake(name)

    def _on_bug(self, error: BaseException) -> None:
        """Stops in good order and ends with an error, so that systemd starts a fresh one."""
        self._log.error("a bug in background work", exc_info=error)
        self._bug = error
        self._on_stop("bug")

    def _on_proxy_restart(self) -> None:
        self._restart_proxy = True
        self.wake("SIGUSR1")

    def _on_reload(self) -> None:
        self._reload = True
        self.wake("SIGHUP")

    async def _sleep(self) -> None:
        if not await self._publisher.rest(self.wake, systemd.beat(TIMER_SECONDS)):
            self.wake.reasons.add("timer")

    async def _cycle(self) -> None:
        reasons = self.wake.take()
        self._counters.cycles += 1
        self._log.debug("cycle", reasons=reasons)
        if self._reload:
            self._reload = False
            await self._load_again()
        fresh = await self._look_at_others()
        await self._look()
        want = desired(self.config, self._machine, self._progress)
        # A proxy takes long to end, and until then another's own connections would go through it: rules first.
        may_restart = not fresh and self._clock.now() >= self._restart_after
        if self._restart_proxy or (may_restart and self._parts.stale(want.proxy)):
            await self._prepare_restart()
        want = desired(self.config, self._machine, self._progress)
        conditions = [await self._reconcile(part, want) for part in self._parts.up]
        await self._watch_nodes(want)
        await self._look()
        if fresh or desired(self.config, self._machine, self._progress) != want:
            self.wake("the next step is possible")
        self._await_neighbours()
        await self._publish(tuple(conditions), want)
        systemd.notify(WATCHDOG=1)

    async def _look_at_others(self) -> bool:
        """Whether another workload of this machine came, went or changed: what it has for itself, this one leaves alone."""
        if (stamp := load.stamp(self._paths)) == self._others:
            return False
        with contextlib.suppress(HarnessError):  # of this one nothing has changed
            self._machine = await machine.look(self.config, self._paths, self._machine.anchors_pem)
        self._others = stamp
        return True

    def _await_neighbours(self) -> None:
        if self._neighbours is not None:
            self._neighbours.cancel()
        if not self._progress.left_alone:
            look, why = asyncio.get_running_loop().call_later, "another workload's rules may know this one's proxy"
            self._neighbours = look(NEIGHBOURS_SECONDS, self.wake, why)

    async def _watch_nodes(self, want: Desired) -> None:
        with contextlib.suppress(HarnessError):  # the routes' own condition has said it
            await self._parts.watch_nodes(want.routes)

    async def _prepare_restart(self) -> None:
        """A proxy that serves is stopped only when its peers no longer send, and when others of its group are there."""
        self._log.info("the proxy is to be started anew: first no new traffic")
        self._publisher.beat(shutdown.longest_seconds(self.config, self._progress))
        reason = Reason.RESTARTING
        granted = await shutdown.announce(self.config, self._machine, self._parts, self._progress, reason, self._log)
        if granted or self._restart_proxy:
            self._publisher.say_unready(reason, shutdown.longest_seconds(self.config, self._progress))
            self._parts.restart_proxy()
            await self._look()
        else:
            self._restart_after = self._clock.now() + RESTART_RETRY_SECONDS
            asyncio.get_running_loop().call_later(RESTART_RETRY_SECONDS, self.wake, "the proxy may ask again to be restarted")
        self._restart_proxy = False

    async def _load_again(self) -> None:
        """A bad configuration keeps the old one."""
        systemd.notify(RELOADING=1, MONOTONIC_USEC=int(self._clock.now() * 1e6))
        try:
            config, values = await asyncio.to_thread(needs.configuration, self._paths, self._environ, new=True)
            self._machine = await machine.look(config, self._paths)
            self.config, self._in_force, self._reload_fault = config, InForce(config, values), ""
            in_force.keep(self._paths, self._in_force, self._machine.anchors_pem, self._log)
            machine.wake_others(self._paths)
            self._log.info("configuration loaded again")
        except HarnessError as error:
            self._reload_fault = error.message
            self._log.error("the new configuration is wrong; the old one stays in force", reason=error.message)
        systemd.notify(READY=1)

    async def _look(self) -> None:
        """How far things are, from what the parts observe."""
        parts = self._parts
        identity = await parts.identity.reconciler.observe()
        registration = await parts.registration.reconciler.observe()
        probes = await parts.probes.reconciler.observe()
        proxy = await parts.proxy.reconciler.observe()
        now = self._clock.now()
        if proxy.certified:
            self._proxy_seen = now
        valid = identity.svid is not None and identity.svid.expires_at > identity.wall
        known = registration.registration or self._progress.registration
        if known is not None and known != self._progress.registration:
            files.write_json(self._paths.known_registration, decode.encode(known), mode=0o644)
        self._progress = replace(
            self._progress,
            svid=identity.svid if valid else None,
            identity_served=valid and identity.error is None,
            left_alone=proxy.pid is not None or machine.left_alone(self._paths, self._machine.user.uid),
            registration=known,
            probe_failure=probes.failing,
            probes_decided=probes.decided,
            proxy_certified=proxy.certified,
            proxy_lost_seconds=now - self._proxy_seen,
            cordon=read_cordon(self._paths),
        )

    async def _reconcile(self, part: Part, want: Desired) -> Condition:
        reconciler, wanted = part.reconciler, part.want(want)
        observed = await reconciler.observe()
        failure = None
        try:
            if actions := reconciler.diff(wanted, observed):
                for action in actions:
                    self._log.info(str(action).partition("\n")[0], part=part.name)
                    self._log.debug("action", text=str(action))
                    self._counters.changes[part.name] += 1
                    if wanted is not None and self._right.get(part.name) == wanted:
                        self._counters.repairs[part.name] += 1
                    await reconciler.apply(action)
                observed = await reconciler.observe()
        except HarnessError as error:
            self._counters.failures[part.name] += 1
            observed, failure = await reconciler.observe(), error
        self._note_failure(part.name, failure)
        condition = reconciler.condition(wanted, observed)
        self._right[part.name] = wanted if condition.truth is Truth.TRUE and condition.problem is None else None
        if part is self._parts.redirect:
            self._progress = replace(self._progress, redirected=wanted is not None and condition.truth is Truth.TRUE)
        if failure is not None and condition.problem is None:
            return replace(condition, truth=Truth.FALSE, message=failure.message)
        return condition

    def _note_failure(self, name: str, failure: HarnessError | None) -> None:
        """Logs a failure once, however often it comes again."""
        if failure is not None and self._failures.get(name) != failure.message:
            self._log.error(failure.message, part=name, hint=failure.hint)
        self._failures[name] = failure.message if failure else ""

    async def _publish(self, conditions: tuple[Condition, ...], want: Desired) -> None:
        if self._reload_fault:
            fault = Condition("Configuration", Truth.TRUE, self._reload_fault, problems.CONFIG_RELOAD_FAILED)
            conditions = (fault, *conditions)
        if self._progress.cordon is not None:
            conditions = (*conditions, Condition("Cordoned", Truth.TRUE, self._progress.cordon, problems.CORDONED))
        if anchors_behind(self._machine, self._progress.registration):
            behind = problems.ANCHORS_BEHIND
            conditions = (*conditions, Condition("Anchors", Truth.TRUE, "told by the controller", behind))
        if self._exporter.fault:
            unseen = Condition("Metrics", Truth.TRUE, self._exporter.fault, problems.METRICS_NOT_EXPORTED)
            conditions = (*conditions, unseen)
        redirect_off = want.redirect is None and self._progress.proxy_certified
        ready = readiness(self._progress, not redirect_off)
        await self._publisher.publish(
            self.config, self._machine, self._parts, self._progress, ready, conditions, self._stopping, self._counters
        )

    async def _stop(self) -> None:
        unit = units.own_unit()
        if unit is not None and self._progress.proxy_certified and await units.restarting(unit):
            self._log.info("restarting: proxy, rules, routes and registration stay for the next daemon")
            for release in self._parts.release:
                release()
            self._exporter.close()
            await shutdown.hand_over(self._parts, self._log)
            return
        systemd.notify(STOPPING=1, STATUS="Draining")
        self._log.info("draining")
        await self._look()
        await self._publish(self._publisher.said, desired(self.config, self._machine, self._progress))
        self._publisher.beat(shutdown.longest_seconds(self.config, self._progress))
        await shutdown.go_down(self.config, self._machine, self._parts, self._progress, self._clock, self._log)
        self._exporter.withdraw()
        for left in (self._paths.status, self._paths.known_registration):
            left.unlink(missing_ok=True)
        await in_force.forget(self._paths)
        self._log.info("stopped")


def read_cordon(paths: Paths) -> str | None:
    """The operator's reason; None when the machine is not cordoned."""
    return str(files.read_json(paths.cordon).get("reason", "")) if paths.cordon.exists() else None
