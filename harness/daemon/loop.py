"""The daemon's life: wake for any reason, look at the whole, do what is missing, say how things stand."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import structlog

from harness import tasks
from harness.clock import Clock
from harness.config import schema
from harness.daemon import adoption, bugs, in_force, machine, membership, needs, own_conditions, shutdown, surroundings
from harness.daemon.anchors import Anchors
from harness.daemon.bring import Bringer, guarded, is_left, order, with_routed
from harness.daemon.bugs import Bugs
from harness.daemon.compose import Part
from harness.daemon.export import Exporter
from harness.daemon.head_start import HeadStart
from harness.daemon.in_force import InForce
from harness.daemon.progress import Finder
from harness.daemon.publish import Publisher
from harness.daemon.snapshot import Counters
from harness.daemon.surroundings import Surroundings
from harness.desired import Desired, desired, hold, readiness
from harness.errors import HarnessError, InternalError
from harness.known import Progress
from harness.messages import Reason
from harness.paths import Paths
from harness.rules import RedirectSpec
from harness.status import Condition, Truth
from harness.system import early_signals, kernel_events, systemd
from harness.values import IPAddress, IPNetwork

TIMER_SECONDS, RESTART_RETRY_SECONDS, NEIGHBOURS_SECONDS = 15.0, 2.0, 0.1


class Daemon:
    def __init__(self, config: schema.Config, paths: Paths, environ: Mapping[str, str], clock: Clock, begun: HeadStart) -> None:
        self.config, self._paths, self._environ, self._clock = config, paths, environ, clock
        self._begun, self.wake = begun, begun.wakes
        self._stopping = self._reload = self._restart_proxy = False
        self._in_force = begun.in_force
        self._reload_fault = begun.in_force.fault if begun.in_force else ""
        self._progress = Progress()
        self._want = Desired()
        self._conditions: tuple[Condition, ...] = ()
        self._restart_after = 0.0
        self._neighbours: asyncio.TimerHandle | None = None
        self._former: frozenset[IPAddress] = frozenset()
        self._member_kept: tuple[IPNetwork, ...] | None = None
        self._log = structlog.get_logger().bind(component="harness")
        self._surroundings = Surroundings(paths, self._log)
        self._anchors = Anchors(paths, clock, self.wake, self._log)
        self._exporter = Exporter(clock)
        self._counters = Counters()
        self._bugs = Bugs(paths, clock, self.wake, self._log, begun.unit)
        self._bringer = Bringer(self._counters, self._log)
        self._finder = Finder(paths, clock, self._bugs, self._bringer, begun.registration)
        self._publisher = Publisher(paths, clock, self._log, self._exporter, self._bringer, begun.began)

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; 0 after a clean stop, 70 after a bug: then the next daemon takes over."""
        self._machine = self._begun.machine
        tasks.on_bug(self._bugs.note)
        self._listen_to_signals()
        await tasks.persist("the start", self._begin, self._clock, self._begin_again)
        watch = partial(kernel_events.watch_rules, self._parts.redirect_changes, self.wake, self._log)
        rule_events = tasks.keep("the watch over the rules", watch, self._clock)
        systemd.notify(READY=1, STATUS="Starting")
        await in_force.keep(self._paths, self._in_force, self._machine.anchors_pem, self._log)
        machine.wake_others(self._paths)
        self._log.info("started", group=self.config.workload.group, namespace=self.config.workload.namespace)
        try:
            while not self._stopping and not self._bugs.fatal:
                if not await self._bugs.attempt("the cycle", self._cycle()):
                    await self._bugs.attempt("the status", self._publish(self._conditions, self._want))
                systemd.notify(WATCHDOG=1)
                if not self._bugs.fatal and not await self._bugs.attempt("the rest until the next look", self._sleep()):
                    await self._clock.sleep(1.0)
            before = self._bugs.number
            if self._stopping:
                await self._stop()
            return InternalError.exit_code if self._bugs.fatal or self._bugs.number > before else 0
        finally:
            rule_events.cancel()
            asyncio.get_running_loop().remove_reader(self._route_events)
            self._route_events.close()

    async def _begin(self) -> None:
        """Takes over what a daemon before this one left in place on purpose: its registration, its proxy and its rules."""
        self._parts, adopted, self._progress = await adoption.begin(self.config, self._paths, self._clock, self._begun)
        if adopted:
            self._log.info("the proxy of the daemon before this one goes on")
        self._publisher.was_ready = adopted
        self._route_events = kernel_events.watch_network(self.wake)

    def _begin_again(self) -> bool:
        """Whether a start that failed by a bug is tried again in this process. If so, the status names the bug meanwhile."""
        if self._stopping or self._bugs.fatal:
            return False
        self._publisher.begin(self._bugs.conditions())
        return True

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGUSR1, self._on_proxy_restart)
        loop.add_signal_handler(signal.SIGUSR2, self.wake, "SIGUSR2")  # `meshexp cordon` has written its file
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        self._reload = early_signals.reload_was_asked()

    def _on_stop(self, name: str) -> None:
        self._stopping = True
        self.wake(name)
        shutdown.take_time(self.config, self._progress)  # at once: the cycle that goes on may be a long one

    def _on_proxy_restart(self) -> None:
        self._restart_proxy = True
        self.wake("SIGUSR1")

    def _on_reload(self) -> None:
        self._reload = True
        self.wake("SIGHUP")

    async def _sleep(self) -> bool:
        if not await self._publisher.rest(self.wake, systemd.beat(TIMER_SECONDS)):
            self.wake.reasons.add("timer")
        return True

    async def _cycle(self) -> bool:
        reasons = self.wake.take()
        before = self._bugs.number
        self._counters.cycles += 1
        self._log.debug("cycle", reasons=reasons)
        if self._reload:
            self._reload = False
            await self._load_again()
        fresh = bool(await self._bugs.attempt("the look at this machine's surroundings", self._look_around()))
        await self._look()
        want = desired(self.config, self._machine, self._progress)
        # A proxy takes long to end, and until then another's own connections would go through it: rules first.
        may_restart = not fresh and self._clock.now() >= self._restart_after
        if self._restart_proxy or (may_restart and self._parts.stale(want.proxy)):
            await self._bugs.attempt("the proxy's restart", self._prepare_restart())
        want = await self._wanted()
        self._want = want
        in_order = order(self._parts, want, self._progress)
        conditions = {part.name: await self._reconcile(part, want) for part in in_order}
        self._conditions = tuple(conditions[part.name] for part in self._parts.up)
        await self._bugs.attempt("the watch over the nodes", self._watch_nodes(want))
        await self._look()
        # After a bug the next try comes after a pause: the part that failed may be what differs.
        if before == self._bugs.number and (fresh or await self._wanted() != want):
            self.wake("the next step is possible")
        self._await_neighbours()
        await self._bugs.attempt("the status", self._publish(self._conditions, want))
        return True

    async def _wanted(self) -> Desired:
        want = desired(self.config, self._machine, self._progress)
        try:
            return with_routed(want, await self._bringer.last(self._parts.routes), self._progress)
        except HarnessError:
            return want  # routes that cannot be listed cannot be removed either

    async def _look_around(self) -> bool:
        """Whether this machine's address or its other workloads came, went or changed: what those have, this one leaves alone."""
        before = self._machine
        found, changed = await self._surroundings.look_again(self.config, before)
        self._machine = await self._anchors.look_again(self.config, found, self._progress)
        if self._machine.anchors_pem != before.anchors_pem:
            await in_force.keep(self._paths, self._in_force, self._machine.anchors_pem, self._log)
        if self._machine.addresses != before.addresses:
            self._log.info("another address", address=", ".join(map(str, self._machine.addresses)))
        former = self._former | set(before.addresses)
        self._former = await surroundings.leave_addresses(former, self._machine, self._log)
        return changed or self._machine != before

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
        by_hand = self._restart_proxy
        self._restart_proxy = False
        self._log.info("the proxy is going to be started again: first no new traffic")
        self._publisher.beat(shutdown.longest_seconds(self.config, self._progress))
        reason = Reason.RESTARTING
        granted = await shutdown.announce(self.config, self._machine, self._parts, self._progress, reason, self._log)
        if granted or by_hand:
            self._publisher.say_unready(reason, shutdown.longest_seconds(self.config, self._progress))
            self._parts.restart_proxy()
            await self._look()
        else:
            self._restart_after = self._clock.now() + RESTART_RETRY_SECONDS
            asyncio.get_running_loop().call_later(RESTART_RETRY_SECONDS, self.wake, "the proxy may ask again to be restarted")

    async def _load_again(self) -> None:
        """A wrong configuration leaves the old one in force. So does a bug: the next daemon would read the same files."""
        systemd.notify(RELOADING=1, MONOTONIC_USEC=int(self._clock.now() * 1e6))
        try:
            with tasks.unexpected("the reload", partial(bugs.log, self._log)):
                config, values = await asyncio.to_thread(needs.configuration, self._paths, self._environ, new=True)
                looked = await machine.look(config, self._paths, before=self._machine)
                found = await surroundings.with_networks(looked, self._paths, self._machine)
                desired(config, found, self._progress)
            self.config, self._machine = config, found
            self._in_force = InForce(config, values)
            self._reload_fault = ""
            await in_force.keep(self._paths, self._in_force, self._machine.anchors_pem, self._log)
            self._log.info("configuration loaded again")
        except HarnessError as error:
            self._reload_fault = error.message
            self._log.error("the new configuration is wrong; the old one stays in force", reason=error.message)
        systemd.notify(READY=1)
        machine.wake_others(self._paths)

    async def _look(self) -> None:
        self._progress = await self._finder.look(self.config, self._parts, self._machine, self._progress)

    async def _reconcile(self, part: Part, want: Desired) -> Condition:
        wanted = part.want(want)
        left = is_left(self.config, self._progress)
        if left and part in (self._parts.proxy, self._parts.redirect):
            return self._bringer.leave(part)
        # Without an identity or an address for a while nothing is asked of the controller; only a stop leaves.
        stays = part is self._parts.registration and wanted is None
        stays |= part is self._parts.routes and not left and not guarded(self._parts, want, self._progress)
        keeps = left and part in (self._parts.routes, self._parts.dns)  # some of it may be what the controller told
        condition = await self._bringer.bring(part, wanted, change=not stays, keeps=keeps)
        # Rules that cannot be looked at are as they were.
        if part is self._parts.redirect and (wanted is None or condition.truth is not Truth.UNKNOWN):
            redirected = wanted is not None and not wanted.hold and condition.truth is Truth.TRUE
            self._progress = replace(self._progress, redirected=redirected)
            await self._bugs.attempt("keeping that this machine is a member", self._keep_member(wanted))
        return condition

    async def _keep_member(self, wanted: RedirectSpec | None) -> None:
        """Marks this machine as a member when the redirect is first in force. Later starts hold until it is in force again."""
        if self.config.redirect.on_proxy_loss is schema.OnProxyLoss.OPEN:
            if self._progress.member is not None:
                self._progress = replace(self._progress, member=None)
                await membership.forget(self._paths)
        elif wanted is not None and self._progress.redirected and wanted.outbound_networks != self._member_kept:
            self._progress = replace(self._progress, member=wanted.outbound_networks)
            await asyncio.to_thread(membership.keep, self._paths, wanted.outbound_networks)
            self._member_kept = wanted.outbound_networks

    async def _publish(self, conditions: tuple[Condition, ...], want: Desired) -> None:
        added = partial(own_conditions.added, reload_fault=self._reload_fault, metrics_fault=self._exporter.fault)
        anchors = self._anchors.condition(self.config, self._machine, self._progress)
        conditions = added(conditions, self._machine, self._progress, anchors=anchors, bugs=self._bugs.conditions())
        redirect_off = want.redirect is None and self._progress.proxy_certified and not is_left(self.config, self._progress)
        ready = readiness(self._progress, not redirect_off)
        await self._publisher.publish(
            self.config, self._machine, self._parts, self._progress, ready, conditions, self._stopping, self._counters
        )

    async def _stop(self) -> None:
        """Every step is tried, also when one before it failed."""
        holds = hold(self.config, self._machine, self._progress) is not None
        if (self._progress.proxy_certified or holds) and await shutdown.comes_back(self._begun.unit, self._log):
            self._log.info("restarting: proxy, rules, routes and registration stay for the next daemon")
            for release in self._parts.release:
                release()
            self._exporter.close()
            await shutdown.hand_over(self._parts, self._log)
            self._bugs.forget()
            return
        systemd.notify(STOPPING=1, STATUS="Draining")
        self._log.info("draining")
        await self._look()
        await self._bugs.attempt("the status", self._publish(self._conditions, self._want))
        self._publisher.beat(shutdown.longest_seconds(self.config, self._progress))
        keep = self._begun.keep_redirect
        await shutdown.go_down(self.config, self._machine, self._parts, self._progress, self._clock, self._log, keep)
        await self._bugs.attempt("taking the status away", self._withdraw())
        await self._bugs.attempt("forgetting the configuration in force", in_force.forget(self._paths))
        if not keep:  # in a container a stop is no operator's leave: it may be started again
            await self._bugs.attempt("forgetting that this machine is a member", membership.forget(self._paths))
        self._log.info("stopped")

    async def _withdraw(self) -> None:
        self._exporter.withdraw()
        for left in (self._paths.status, self._paths.known_registration, self._paths.bug):
            left.unlink(missing_ok=True)
