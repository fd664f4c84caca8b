"""Which uid gets which X.509-SVID from the embedded Workload API, and when it gets a new one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from harness import values
from harness.clock import Clock
from harness.system import workload_api
from harness.system.workload_api_authority import Authority

_LONGEST_SLEEP_SECONDS = 5.0  # as SPIRE's agent; a machine that slept looks at the clock soon after it wakes


@dataclass(frozen=True, slots=True)
class Entry:
    """Processes of `uid` are `spiffe_id`."""

    uid: int
    spiffe_id: values.SpiffeId


@dataclass(frozen=True, slots=True)
class Lease:
    svid: workload_api.Svid
    renew_at: float


class Issuer:
    """Holds the present SVID of each entry."""

    def __init__(self, authority: Authority, entries: tuple[Entry, ...], ttl: float, now: float) -> None:
        self._authority = authority
        self._ttl = ttl
        self._leases = {entry: self._issue(entry, now) for entry in entries}

    def response(self, uid: int) -> bytes | None:
        """The X509SVIDResponse for `uid`; None when no entry selects it."""
        svids = [lease.svid for entry, lease in self._leases.items() if entry.uid == uid]
        return workload_api.encode_response(svids) if svids else None

    def renew(self, now: float) -> frozenset[int]:
        """Replaces the SVIDs past half of their life, returns the uids concerned; ConfigError when the CA has expired."""
        due = [entry for entry, lease in self._leases.items() if now >= lease.renew_at]
        self._leases.update({entry: self._issue(entry, now) for entry in due})
        return frozenset(entry.uid for entry in due)

    async def rotate(self, clock: Clock, push: Callable[[frozenset[int]], None]) -> None:
        while True:
            wait = min(lease.renew_at for lease in self._leases.values()) - clock.wall()
            await clock.sleep(min(max(wait, 0.0), _LONGEST_SLEEP_SECONDS))
            if uids := self.renew(clock.wall()):
                push(uids)

    def _issue(self, entry: Entry, now: float) -> Lease:
        svid = self._authority.issue(entry.spiffe_id, now, self._ttl)
        half = (svid.expires_at - now) / 2
        # A CA near its end gives ever shorter lives; the second keeps that from becoming a busy loop.
        return Lease(svid, now + max(half * random.uniform(0.9, 1.1), 1.0))  # noqa: S311 (spreads load, guards nothing)
