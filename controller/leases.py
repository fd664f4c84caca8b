"""Which workloads have fallen silent, and what follows. No I/O; time is an argument, in seconds that only grow.

A lease lives here, never on the ExternalWorkload: there, each renewal would wake every watcher of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.model import Key

FLEET = 10
"""From so many workloads on, many silent at once are rather our fault than theirs."""
HOLD_SECONDS = 120.0
"""How long a mass silence is believed to be our fault; then each workload is dialled."""


@dataclass(slots=True)
class Lease:
    """`presumed`: taken over from the store at start, not heard of since."""

    lease_seconds: float
    expiry_seconds: float
    seen: float
    presumed: bool = False
    vouched: float = float("-inf")
    unreachable: bool = False

    def silent(self, now: float) -> float:
        return now - self.seen


@dataclass(frozen=True, slots=True)
class Share:
    """What one replica hears of a fleet: its workloads, those whose leases hold, and the overdue among these."""

    size: int = 0
    held: int = 0
    missing: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.size + other.size, self.held + other.held, self.missing + other.missing)

    @property
    def falls_silent(self) -> bool:
        return self.size >= FLEET and 2 * self.missing > self.held


@dataclass(frozen=True, slots=True)
class Findings:
    """`silent`: not ready from now on. `doubtful`: dial them, then `vouch` or `give_up`. `expired`: delete."""

    silent: tuple[Key, ...] = ()
    doubtful: tuple[Key, ...] = ()
    expired: tuple[Key, ...] = ()


NOTHING = Share()


class Leases:
    def __init__(self, now: float) -> None:
        self._leases: dict[Key, Lease] = {}
        self._started = self._swept = now
        self._held_since: float | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self._leases

    def adopt(self, key: Key, lease_seconds: float, expiry_seconds: float, now: float, *, unreachable: bool) -> None:
        """A workload found in the store: it has a whole lease to be heard."""
        self._leases[key] = Lease(lease_seconds, expiry_seconds, now, presumed=True, unreachable=unreachable)

    def renew(self, key: Key, lease_seconds: float, expiry_seconds: float, now: float) -> None:
        self._leases[key] = Lease(lease_seconds, expiry_seconds, now)

    def retime(self, key: Key, lease_seconds: float, expiry_seconds: float) -> None:
        lease = self._leases[key]
        lease.lease_seconds, lease.expiry_seconds = lease_seconds, expiry_seconds

    def drop(self, key: Key) -> None:
        self._leases.pop(key, None)

    def unreachable_for(self, key: Key, now: float) -> float | None:
        """Seconds of silence of a workload whose lease has ended, None while it holds."""
        lease = self._leases.get(key)
        return lease.silent(now) if lease and lease.unreachable else None

    def vouch(self, key: Key, now: float) -> None:
        """It answered on its proxy port: it is given another lease to be heard."""
        if key in self._leases:
            self._leases[key].vouched = now

    def give_up(self, key: Key) -> None:
        """It did not answer either."""
        if key in self._leases:
            self._leases[key].unreachable = True

    def reprieve(self, now: float) -> None:
        """Everybody has another lease to be heard."""
        for lease in self._leases.values():
            lease.vouched = now

    def share(self, now: float) -> Share:
        """Whoever missed a report counts: in one outage the leases end one after another, in the order of the last reports."""
        held = [lease for lease in self._leases.values() if not lease.unreachable]
        return Share(len(self._leases), len(held), sum(lease.silent(now) > lease.lease_seconds / 2 for lease in held))

    def sweep(self, now: float, others: Share = NOTHING) -> Findings:
        """Marks the silent and names the expired; call it several times a lease. `others`: what the other replicas hear."""
        self._forgive_own_pause(now)
        held = [(key, lease) for key, lease in self._leases.items() if not lease.unreachable]
        over = [(key, lease) for key, lease in held if now - max(lease.seen, lease.vouched) >= lease.lease_seconds]
        expired = tuple(k for k, lease in self._leases.items() if lease.unreachable and lease.silent(now) >= lease.expiry_seconds)
        own = self.share(now)
        fleet = own + others
        if fleet.size < FLEET:
            self._held_since = None
            return Findings(self._mark(over), (), expired)
        if not own.falls_silent and not fleet.falls_silent:
            return Findings(*self._sort_out(over, now), expired)
        if self._held_since is None:
            self._held_since = now
        return Findings((), self._after_hold(over, self._held_since, now), expired)

    def _sort_out(self, over: list[tuple[Key, Lease]], now: float) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """Silent and doubtful of a fleet of which most are heard."""
        if self._held_since is not None:
            # An outage has ended, and the others are about to report as well: they get another lease.
            self._held_since = None
            for _, lease in over:
                lease.vouched = now
            return (), ()
        presumed = [(key, lease) for key, lease in over if lease.presumed]
        silent = self._mark([(key, lease) for key, lease in over if not lease.presumed])
        return silent, self._after_hold(presumed, self._started, now)

    def _after_hold(self, over: list[tuple[Key, Lease]], began: float, now: float) -> tuple[Key, ...]:
        return tuple(key for key, _ in over) if now - began >= HOLD_SECONDS else ()

    def _mark(self, over: list[tuple[Key, Lease]]) -> tuple[Key, ...]:
        for _, lease in over:
            lease.unreachable = True
        return tuple(key for key, _ in over)

    def _forgive_own_pause(self, now: float) -> None:
        """While this process stood still it heard nobody: that time counts against none."""
        pause = now - self._swept
        self._swept = now
        for lease in self._leases.values():
            if pause > lease.lease_seconds / 2:
                lease.seen = min(now, lease.seen + pause)
