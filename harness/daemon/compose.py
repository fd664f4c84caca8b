"""The composition root: which reconciler works with which adapter, and in which order they come up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.clock import Clock
from harness.config import schema
from harness.daemon import machine
from harness.daemon.head_start import HeadStart
from harness.daemon.names import dns
from harness.desired import Desired
from harness.paths import Paths
from harness.reconcilers.base import Reconciler
from harness.reconcilers.controller_calls import Calls, Counted
from harness.reconcilers.dns import Dns
from harness.reconcilers.dns_resolv_conf import ResolvConf
from harness.reconcilers.dns_resolved import ResolvedFront
from harness.reconcilers.lease import Lease
from harness.reconcilers.probes import Probes
from harness.reconcilers.proxy import Proxy
from harness.reconcilers.redirect import Redirect
from harness.reconcilers.registration import RegistrationKeeper
from harness.reconcilers.routes import Routes
from harness.reconcilers.shared import Shared
from harness.rules import RedirectSpec, Rules
from harness.specs import ProxySpec, RegistrationSpec, Route
from harness.system import files, proxy_binary, redirect_backend, resolved, tcp_sockets
from harness.system.control_plane import ControlPlane
from harness.system.netlink import Netlink
from harness.system.probe_call import Checker
from harness.system.proxy_admin import LoopbackAdmin
from harness.system.redirect_table import Marks
from harness.system.units import Units
from harness.values import IPNetwork

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Part:
    """A reconciler and what it is given of the desired state."""

    reconciler: Reconciler[Any, Any, Any]
    want: Callable[[Desired], Any]

    @property
    def name(self) -> str:
        return self.reconciler.name


@dataclass(frozen=True, slots=True)
class Parts:
    routes: Part
    dns: Part
    identity: Part
    registration: Part
    probes: Part
    proxy: Part
    redirect: Part
    redirect_changes: Callable[[], AsyncIterator[str]]
    redirect_in_place: Callable[[], Awaitable[bool]]
    redirect_found: Callable[[], Awaitable[Rules]]
    redirect_in_force: Callable[[], RedirectSpec | None]
    redirect_covers: Callable[[], tuple[IPNetwork, ...]]
    """Networks whose connections the rules in the kernel redirect or hold."""
    watch_nodes: Callable[[tuple[Route, ...] | None], Awaitable[None]]
    calls: Mapping[str, Calls]
    tell: Callable[[RegistrationSpec], Awaitable[None]]
    adopt: Callable[[int], Awaitable[bool]]
    stale: Callable[[ProxySpec | None], bool]
    restart_proxy: Callable[[], None]
    release: tuple[Callable[[], None], ...]
    """Let go of what is to outlive this process."""

    @property
    def up(self) -> tuple[Part, ...]:
        """The ExternalWorkload must exist before the proxy starts. At a first join the redirect is the last thing in; on a member
        its rules come first (`bring.order`)."""
        return self.routes, self.dns, self.identity, self.registration, self.probes, self.proxy, self.redirect


async def compose(config: schema.Config, paths: Paths, clock: Clock, begun: HeadStart) -> Parts:
    wake = begun.wakes
    choice = redirect_backend.Choice(config.redirect.backend.value)
    detected = await asyncio.to_thread(redirect_backend.detect, choice, marks=Marks(paths.instance))
    redirect = Redirect(detected, paths.redirect_lock)
    lease = Lease(clock, wake, begun.registration)
    counted = Counted(ControlPlane(), clock, lease)
    boot_id = files.read_line(BOOT_ID) or ""
    keeper = RegistrationKeeper(counted, paths.registration, clock, wake, paths.invitation, lease.silence, boot_id)
    runners = Units(paths.instance) if begun.unit else begun.processes
    routes: Routes | Shared
    names: Dns | Shared
    if paths.instance:
        routes = Shared("routes", "Routes", paths.first.status, wake)
        names = Shared("dns", "Names", paths.first.status, wake)
    else:
        routes = Routes(Netlink(), clock, wake)
        front = await _front(config.dns.mode, paths)
        # Not with systemd-resolved: its own address is in resolv.conf, and it would answer by what we have set in it.
        may_do_without = config.dns.mode is schema.DnsMode.AUTO and front == ResolvConf.name
        names = dns(paths, runners, front, clock, wake, only_if_needed=may_do_without)
    in_use = partial(machine.proxy_in_use, paths)
    proxy = Proxy(runners, LoopbackAdmin(), proxy_binary.problem_of, in_use, paths.proxy, clock, wake)
    return Parts(
        routes=Part(routes, lambda d: d.routes),
        dns=Part(names, lambda d: d.dns),
        identity=Part(begun.identity, lambda d: d.identity),
        registration=Part(keeper, lambda d: d.registration),
        probes=Part(Probes(Checker().check, tcp_sockets.listening, clock, wake), lambda d: d.application),
        proxy=Part(proxy, lambda d: d.proxy),
        redirect=Part(redirect, lambda d: d.redirect),
        redirect_changes=redirect.changes,
        redirect_in_place=redirect.in_place,
        redirect_found=redirect.found,
        redirect_in_force=lambda: redirect.in_force,
        redirect_covers=lambda: redirect.covered,
        watch_nodes=routes.watch,
        calls=counted.calls,
        tell=keeper.tell,
        adopt=proxy.adopt,
        stale=proxy.stale,
        restart_proxy=proxy.restart,
        release=(proxy.release, keeper.release, names.release),
    )


async def _front(mode: schema.DnsMode, paths: Paths) -> str:
    if mode is schema.DnsMode.AUTO:
        return ResolvedFront.name if await resolved.in_use(paths.resolv_conf) else ResolvConf.name
    return ResolvedFront.name if mode is schema.DnsMode.RESOLVED else ResolvConf.name
