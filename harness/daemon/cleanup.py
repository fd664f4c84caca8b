"""`meshexp cleanup`: diff(nothing, observed) for everything that outlives a process. No configuration, no state file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness import terminal
from harness.clock import SystemClock
from harness.daemon import in_force, membership, names
from harness.errors import HarnessError, TemporaryError
from harness.paths import Paths, configured, is_name, with_run_directory
from harness.reconcilers.base import Reconciler
from harness.reconcilers.dns import NAME as DNS
from harness.reconcilers.dns import Dns
from harness.reconcilers.proxy import NAME as PROXY
from harness.reconcilers.redirect import Redirect, take_back_trial
from harness.reconcilers.routes import Routes
from harness.status import Phase
from harness.system import files, privileges, process, redirect_backend, snapshot_reader, units
from harness.system.iptables import Iptables
from harness.system.netlink import Netlink
from harness.system.nftables import Nftables
from harness.system.redirect_table import Marks
from harness.system.spire import Spire
from harness.system.units import Units
from harness.terminal import Answer

PROXY_GRACE = 2.0


def run(paths: Paths, after_exit: bool, dry: bool, answer: Answer) -> int:
    """0 when nothing is left, 1 when something could not be removed. Refuses to change anything while a daemon runs.

    Of the machine's first workload: all workloads' that ever were. after_exit: called by systemd when the daemon has ended; what
    the next daemon is to take over stays, and so do the other workloads. dry: only says what would be removed.
    """
    privileges.check("cleanup")
    meant = (paths,) if paths.instance or after_exit else everyone(paths)
    with contextlib.ExitStack() as locks:
        if not dry:
            for one in meant:
                locks.enter_context(_locked(one))
        return max(asyncio.run(_clean(one, after_exit, dry, answer)) for one in meant)


@contextlib.contextmanager
def _locked(paths: Paths) -> Iterator[None]:
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(files.lock(paths.lock))
        except TemporaryError as error:
            way = snapshot_reader.stop(files.holder(paths.lock) or "PID", paths.instance)
            raise TemporaryError(error.message, f"stop it first, which removes the same: {way}") from None
        yield


def everyone(paths: Paths) -> tuple[Paths, ...]:
    """Every workload of this machine of which there is a configuration, a run directory or a rule; the first is the last."""
    first = paths.first
    names = {where.instance for where in (*configured(first), *with_run_directory(first))}
    names |= instances_with_rules()
    return (*(first.of(name) for name in sorted(names) if is_name(name)), first)


def instances_with_rules() -> set[str]:
    """The workloads of this machine that have rules in the kernel, of either backend; empty is the first's name."""
    names = set()
    for backend in (Nftables(), Iptables()):
        with contextlib.suppress(HarnessError):
            names |= {marks.instance for marks in backend.marks()}
    return names


def stays(environ: Mapping[str, str], job: str) -> bool:
    """Whether the next daemon takes over what this one has left: always, unless an operator stopped it, also when that failed.

    `job`: what systemd is about to do with the unit. `environ`: as systemd gives it to ExecStopPost= (systemd.exec(5)).
    """
    if "restart" in job:
        return True
    return job != "stop" and environ.get("SERVICE_RESULT", "success") != "success"


async def _clean(paths: Paths, after_exit: bool, dry: bool, answer: Answer) -> int:
    failed = 0
    unit = units.own_unit()
    proxy: units.UnitChild | None = None
    try:
        proxy = await Units(paths.instance).find(PROXY) if units.booted() else None
    except HarnessError as error:  # it may run: the rest is removed, and this is told as a failure
        failed += _failed(error, PROXY)
    try:
        if not dry and await take_back_trial(paths.redirect_lock):
            answer.say("the redirect rules that were on trial are taken back; those before them are in force")
    except HarnessError as error:
        failed += _failed(error, "taking back the redirect rules that were on trial")
    if after_exit and unit and stays(os.environ, await units.job(unit)):
        if proxy:
            answer.say("the proxy runs on for the next daemon, and so do its rules and routes; `meshexp cleanup` removes them")
        return 0
    redirect = Redirect(await asyncio.to_thread(redirect_backend.detect, marks=Marks(paths.instance)), paths.redirect_lock)
    if not after_exit:
        await _warn(redirect, proxy is not None, paths)
    reconcilers: tuple[Reconciler[Any, Any, Any], ...] = ()
    if not paths.instance:
        reconcilers = _dns(paths), Routes(Netlink(), SystemClock(), lambda reason: None)
    # The redirect first: from then on the proxy has no traffic. A member's becomes the hold, which goes after the routes: while
    # they are there nothing goes to the mesh in plaintext. While the whole machine goes down, the hold does not.
    member = membership.kept(paths) is not None
    if member:
        failed += await _try("refuse new connections to the mesh", redirect.hold, dry, answer)
        failed += await _end_proxy(paths, proxy, dry, answer)
        reconcilers += () if after_exit and await membership.lasts() else (redirect,)
    else:
        reconcilers = (redirect, *reconcilers)
    for reconciler in reconcilers:
        try:
            for action in reconciler.diff(None, await reconciler.observe()):
                failed += await _try(
                    str(action).partition("\n")[0].removeprefix("# "), partial(reconciler.apply, action), dry, answer
                )
        except HarnessError as error:
            failed += _failed(error, reconciler.name)
        if reconciler is redirect and not member:
            failed += await _end_proxy(paths, proxy, dry, answer)
    if dry:
        return 1 if failed else 0
    for name in (PROXY, DNS) if units.booted() else ():
        await Units(paths.instance).forget(name)
    Spire(paths).remove()
    # A daemon that waits for its configuration holds no lock, since it has set nothing. Its status is still in use.
    if snapshot_reader.read(paths.status, paths.instance)["phase"] != Phase.WAITING.text:
        failed += _removed(paths.status)
    for left in (paths.known_registration, paths.proxy, paths.bug):
        failed += _removed(left)
    for forget in (in_force.forget, membership.forget):
        try:
            await forget(paths)
        except HarnessError as error:
            failed += _failed(error)
    if paths.instance:
        shutil.rmtree(paths.run, ignore_errors=True)
    return 1 if failed else 0


async def _end_proxy(paths: Paths, proxy: units.UnitChild | None, dry: bool, answer: Answer) -> int:
    failed = 0
    if proxy is not None:
        failed += await _try(f"stop {PROXY}", partial(proxy.stop, PROXY_GRACE), dry, answer)
    for orphan in process.orphans(paths.children):
        failed += await _try(str(orphan), partial(process.end, orphan, PROXY_GRACE), dry, answer)
    return failed


def _dns(paths: Paths) -> Dns:
    clock = SystemClock()
    runners = Units() if units.booted() else process.Processes(paths.children, lambda name, line: None)
    return names.dns(paths, runners, "", clock, lambda reason: None)


async def _warn(redirect: Redirect, proxy: bool, paths: Paths) -> None:
    """What this does to traffic, before it is done; nothing where no member is: a daemon that was stopped has taken its status
    with it, and a container's first process removes the rules as the last thing."""
    ways = snapshot_reader.start(paths.instance)
    with contextlib.suppress(HarnessError):  # the step that removes the rules meets the same, and says so
        if proxy or (paths.status.exists() and await redirect.in_place()):
            effect = "open connections through the proxy break, and what programs send to the cluster is no longer encrypted"
            text = f"‼ this takes the machine out of the mesh: {effect}; to go on as a member instead: {ways}"
            terminal.say(text, stream=sys.stderr)


def _removed(left: Path) -> int:
    try:
        files.remove(left)
    except HarnessError as error:
        return _failed(error)
    return 0


def _failed(error: HarnessError, what: str = "") -> int:
    """Says so; one failure more."""
    terminal.say(f"× {what}: {error.message}" if what else f"× {error.message}", stream=sys.stderr)
    return 1


async def _try(what: str, step: Callable[[], Awaitable[object]], dry: bool, answer: Answer) -> int:
    if dry:
        answer.say(what, "-")
        return 0
    try:
        await step()
    except HarnessError as error:
        return _failed(error, what)
    answer.say(what, "√")
    return 0
