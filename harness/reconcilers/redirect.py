"""Keeps the redirect as the spec says: every change on trial first, drift repaired, and nothing of ours in the other backend."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from harness import problems
from harness.errors import HarnessError, TemporaryError, UnavailableError, UnwritableError
from harness.reconcilers import excluded_ports
from harness.reconcilers.redirect_text import summary
from harness.rules import Inbound, RedirectSpec, Rules, differences, held, is_hold, merge_ports, networks_of, rules_for
from harness.status import Condition, Truth, wrong
from harness.system import iptables, redirect_exclusions, redirect_lock, redirect_selftest
from harness.system.redirect_backend import Detected
from harness.system.redirect_selftest import Outcome
from harness.system.redirect_table import Backend, BackendKind, NotRestoredError, TableState
from harness.values import IPNetwork

log = structlog.get_logger()

CONFIRM_SECONDS = 10.0
RETRY_SECONDS = 30.0
"""Before rules that failed their self-test are tried again: taking them back wakes the next cycle at once."""
MOST_REASONS = 4
LOCK = Path("/run/meshexp/redirect.lock")

SelfTest = Callable[[Rules], redirect_selftest.Report]
"""Blocking."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What of ours each backend finds in the kernel, and the ports on which SSH comes to this machine now."""

    tables: dict[BackendKind, TableState]
    ssh: redirect_exclusions.Ssh


@dataclass(frozen=True, slots=True)
class Apply:
    """Put `rules` in force; `why` says why by this backend, `reasons` say what differed."""

    kind: BackendKind
    why: str
    rules: Rules
    reasons: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        """The first line is what the log tells; all is input for the backend's tool."""
        more = len(self.reasons) - MOST_REASONS
        reasons = "; ".join(self.reasons[:MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
        return f"# {'hold' if is_hold(self.rules) else 'redirect'} by {self.why}; {reasons}\n{self.text}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take away everything that is ours in one backend."""

    kind: BackendKind
    text: str

    def __str__(self) -> str:
        return f"# remove the redirect from {self.kind.value}\n{self.text}"


Action = Apply | Remove


class Redirect:
    """Satisfies Reconciler with Desired = RedirectSpec."""

    name = "redirect"

    def __init__(
        self,
        detected: Detected,
        lock: Path = LOCK,
        self_test: SelfTest = redirect_selftest.self_test,
        confirm_seconds: float = CONFIRM_SECONDS,
    ) -> None:
        self._detected = detected
        self._confirm_seconds = confirm_seconds
        self._lock = lock
        self._self_test = self_test
        self._failure: problems.Found | None = None
        self._report = redirect_selftest.Report(())
        self._refused: tuple[Rules, float, SelfTestError] | None = None
        self._before: Rules | None = None
        """Of a trial that failed, where they could not be put back."""
        self.in_force: RedirectSpec | None = None
        """The last look found exactly its rules in the kernel."""
        self.covered: tuple[IPNetwork, ...] = ()
        """Networks whose connections the rules in the kernel redirect or hold, by the last look."""

    @property
    def kind(self) -> BackendKind:
        return self._detected.backend.kind

    @property
    def _backends(self) -> tuple[Backend, Backend]:
        return self._detected.backend, self._detected.other

    async def observe(self) -> Observed:
        tables = {backend.kind: await backend.observe() for backend in self._backends}
        return Observed(tables, await asyncio.to_thread(redirect_exclusions.ssh))

    async def found(self) -> Rules:
        """The rules of ours that are in force, also those of an earlier daemon."""
        states = [await backend.observe() for backend in self._backends]
        return next((state.rules for state in states if state.rules), ())

    async def in_place(self) -> bool:
        """Whether rules of ours are there, also those of an earlier daemon."""
        return any(state.present for state in (await self.observe()).tables.values())

    async def hold(self) -> None:
        """From now on the rules that are there refuse what they redirected. Needs no configuration. Raises HarnessError."""
        async with redirect_lock.exclusive(self._lock, 2 * self._confirm_seconds):
            for backend in self._backends:
                if rules := (await backend.observe()).rules:
                    await backend.replace(held(rules))

    def diff(self, desired: RedirectSpec | None, observed: Observed) -> tuple[Action, ...]:
        backend, other = self._backends
        rules = _rules(desired, observed)
        actions: list[Action] = []
        if observed.tables[other.kind].present:
            actions.append(Remove(other.kind, other.render_text(())))
        state = observed.tables[backend.kind]
        if not rules:
            if state.present:
                actions.append(Remove(backend.kind, backend.render_text(())))
        elif reasons := self._reasons(rules, state):
            actions.append(Apply(backend.kind, self._detected.reason, rules, reasons, backend.render_text(rules)))
        return tuple(actions)

    async def apply(self, action: Action) -> None:
        """Raises TemporaryError when the rules did not pass their self-test and the ones before them are back."""
        backend = next(backend for backend in self._backends if backend.kind is action.kind)
        try:
            async with redirect_lock.exclusive(self._lock, 2 * self._confirm_seconds):
                await self._take_back(action)
                if isinstance(action, Remove):
                    await backend.replace(())
                    self._before = None
                elif is_hold(action.rules):  # nobody is logged in by what it refuses: no trial, at whose end it would be gone
                    await backend.replace(action.rules)
                    self._before = None
                else:
                    await self._on_trial(backend, action)
        except HarnessError as error:
            self._failure = _found(action, error)
            raise
        self._failure = None

    async def _take_back(self, action: Action) -> None:
        """What a workload left that was killed in its trial. Only another trial with iptables needs the place of its record."""
        try:
            await asyncio.to_thread(iptables.take_back, _record(self._lock))
        except HarnessError as error:
            if isinstance(action, Apply) and action.kind is BackendKind.IPTABLES:
                raise
            log.warning("the redirect rules that were on trial are not taken back", reason=error.message, hint=error.hint)

    async def _on_trial(self, backend: Backend, action: Apply) -> None:
        if self._before is not None:
            await backend.replace(self._before)
            self._before = None
        now = asyncio.get_running_loop().time()
        if self._refused and self._refused[0] == action.rules and now < self._refused[1]:
            raise self._refused[2]
        previous = (await backend.observe()).rules
        try:
            async with backend.trial(action.rules, previous, self._confirm_seconds, _record(self._lock)) as trial:
                self._report = await asyncio.to_thread(self._self_test, action.rules)
                if failed := self._report.having(Outcome.FAILED):
                    error = SelfTestError("; ".join(map(str, failed)), "the redirect rules before this change are back in force")
                    self._refused = action.rules, now + RETRY_SECONDS, error
                    raise error
                await trial.confirm()
        except NotRestoredError:
            self._before = previous
            raise

    def _reasons(self, rules: Rules, state: TableState) -> tuple[str, ...]:
        if self._before is not None:
            return ("rules whose trial failed are still in force", *_reasons(rules, state))
        return _reasons(rules, state)

    def changes(self) -> AsyncIterator[str]:
        """Wakes the cycle: a sentence for every change of our rules by anybody. Raises OSError where the kernel tells nothing."""
        return self._detected.backend.changes()

    def condition(self, desired: RedirectSpec | None, observed: Observed) -> Condition:
        name = "Redirected"
        differs = bool(self.diff(desired, observed))
        self.in_force = None if differs else desired
        self.covered = networks_of(observed.tables[self.kind].rules)
        if self._failure:
            return wrong(name, Truth.FALSE, self._failure)
        if differs:
            return Condition(name, Truth.FALSE, "the redirect is not as it should be yet")
        if desired is None:
            return Condition(name, Truth.UNKNOWN, "comes last, when the proxy has its certificate")
        if desired.hold:
            return Condition(name, Truth.FALSE, f"{summary(desired)}, by {self._detected.reason}")
        text = f"{summary(desired)}, by {self._detected.reason}{self._verified()}"
        if (doubt := self._doubt(desired) or _taken_for_ssh(desired, observed.ssh)) is not None:
            return wrong(name, Truth.TRUE, doubt, stands=text)
        return Condition(name, Truth.TRUE, text, applies=bool(rules_for(desired)))

    def _verified(self) -> str:
        unverified = self._report.having(Outcome.UNVERIFIED)
        if not self._report.checks or not unverified:
            return ""
        return f"; {', '.join(check.name for check in unverified)} unverified ({unverified[0].message})"

    def _doubt(self, desired: RedirectSpec) -> problems.Found | None:
        """Set while nothing has shown that what peers send to a port of the group goes to the proxy."""
        unseen = [check for check in self._report.having(Outcome.UNVERIFIED) if check.name in redirect_selftest.FROM_OUTSIDE]
        if not unseen or desired.inbound is Inbound.OFF:
            return None
        return problems.INBOUND_UNVERIFIED.found("a connection from outside, through the new rules", unseen[0].message)


def _record(lock: Path) -> Path:
    """Of the trial that is under way while `lock` is held."""
    return lock.with_name("redirect-trial.json")


async def take_back_trial(lock: Path) -> bool:
    """The rules before a trial of which all was killed are in force again; False when there is none. Raises HarnessError."""
    record = _record(lock)
    if not record.exists():  # the usual case: nothing waits for the lock
        return False
    async with redirect_lock.exclusive(lock, 2 * CONFIRM_SECONDS):
        return await asyncio.to_thread(iptables.take_back, record)


class SelfTestError(TemporaryError):
    """The rules did not do in the kernel what their records say."""


def _found(action: Action, error: HarnessError) -> problems.Found:
    tried = f"{'setting' if isinstance(action, Apply) else 'removing'} the rules by {action.kind.value}"
    match error:
        case SelfTestError():
            return problems.REDIRECT_REVERTED.found("the self-test through the new rules", error.message)
        case UnwritableError():
            return problems.of_failure(tried, error)
        case UnavailableError():
            return problems.REDIRECT_BACKEND_UNAVAILABLE.found(tried, error.message)
    return problems.REDIRECT_FAILED.found(tried, error.message)


def _taken_for_ssh(desired: RedirectSpec, ssh: redirect_exclusions.Ssh) -> problems.Found | None:
    """Set while a port that peers may use is left alone because nobody can say that it is not SSH's."""
    wanted = {
        Inbound.ALL: ssh.unsure,
        Inbound.PORTS: tuple(port for port in ssh.unsure if any(port in ports for ports in desired.inbound_ports)),
        Inbound.OFF: (),
    }[desired.inbound]
    if not wanted and ssh.unread is not None and desired.inbound is not Inbound.OFF:
        return problems.SSH_UNREAD.found("the look at which ports are SSH's", ssh.unread.came, file=ssh.unread.path)
    if not wanted:
        return excluded_ports.found(desired, ssh)
    ports = ", ".join(f"port {port}" for port in wanted)
    came = f"not redirected: {ports}, where root's program that listens is in the same cgroup as an SSH daemon"
    return problems.PORT_TAKEN_FOR_SSH.found("the look at which ports are SSH's", came, port=wanted[0])


def _rules(desired: RedirectSpec | None, observed: Observed) -> Rules:
    """Whatever is desired, a port by which somebody may be logged in is left alone."""
    if desired is None:
        return ()
    ports = merge_ports((*desired.ignore_inbound_ports, *observed.ssh.ports))
    return rules_for(dataclasses.replace(desired, ignore_inbound_ports=ports))


def _reasons(rules: Rules, state: TableState) -> tuple[str, ...]:
    if not state.present:
        return ("there are no rules of ours",)
    if is_hold(state.rules) and not is_hold(rules):
        return ("the hold becomes the redirect",)
    if is_hold(rules) and state.rules and not is_hold(state.rules):
        return ("the redirect becomes the hold",)
    trial = ("a change that nobody confirmed",) if state.on_trial else ()
    return trial + state.strange + differences(rules, state.rules)
