"""How the proxy stands, in one sentence. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import phrases, problems
from harness.problems import Found
from harness.proxy_environment import SOCKET
from harness.specs import ProxySpec
from harness.status import Condition, Truth, wrong
from harness.supervisor import State

if TYPE_CHECKING:
    from harness.reconcilers.proxy import Observed

NAME = "Proxy"
STARTING_SECONDS = 5.0


def of(desired: ProxySpec | None, observed: Observed) -> Condition:
    child = observed.child
    if observed.certified:
        return _certified(desired, observed)
    if observed.refused:
        return wrong(NAME, Truth.FALSE, observed.refused)
    if desired is None and not child.alive:
        return Condition(NAME, Truth.UNKNOWN, "starts after the registration")
    if desired is not None and desired.waits_for and not child.alive:
        return Condition(NAME, Truth.UNKNOWN, f"starts when {desired.waits_for}")
    if found := _not_started(desired, observed):
        return wrong(NAME, Truth.FALSE, found)
    if child.state is State.STARTING and observed.now - child.since < STARTING_SECONDS:
        return Condition(NAME, Truth.UNKNOWN, "starting")
    told = dict(desired.env) if desired is not None else {}
    tried = f"asking its metrics (port {desired.admin_port})" if desired is not None else "asking its metrics"
    found = problems.PROXY_NOT_CERTIFIED.found(
        tried,
        f"it runs (pid {observed.pid}) without a certificate",
        socket=told.get(SOCKET, "").removeprefix("unix://"),
        uid=desired.user.uid if desired is not None else "",
    )
    return wrong(NAME, Truth.FALSE, found)


def _certified(desired: ProxySpec | None, observed: Observed) -> Condition:
    text = f"runs (pid {observed.pid}) with a certificate"
    by_hand = ", ".join(desired.overridden) if desired is not None else ""
    if observed.replaced:
        text += f", with {by_hand} set by hand" if by_hand else ""
        found = problems.PROXY_REPLACED.found("comparing with what a start would take", f"it runs from {observed.replaced}")
        return wrong(NAME, Truth.TRUE, found, stands=text)
    if by_hand:
        return wrong(NAME, Truth.TRUE, problems.PROXY_ENV_OVERRIDDEN.found("proxy.env", f"{by_hand} set by hand"), stands=text)
    return Condition(NAME, Truth.TRUE, text)


def _not_started(desired: ProxySpec | None, observed: Observed) -> Found | None:
    child = observed.child
    program = desired.path if desired is not None and desired.path else observed.in_use
    if observed.taken:
        ports = ", ".join(map(str, observed.taken))
        came = f"another process listens on {ports}"
        return problems.PROXY_PORT_TAKEN.found("taking the proxy's ports", came, port=observed.taken[0])
    if observed.error is not None:
        return problems.of_failure(f"starting {program}", observed.error, problems.PROXY_MISSING)
    if child.crash_loop or child.state is State.BACKOFF:
        times = phrases.counted(child.exits, "time")
        came = f"has exited {times}, last with {_exit(child.last_exit)}; it is started again"
        return problems.PROXY_CRASH_LOOP.found(f"running {program}", came)
    return None


def _exit(code: int | None) -> str:
    return "signal " + str(-code) if code is not None and code < 0 else f"status {code}"
