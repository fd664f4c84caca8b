"""The DNS part with its adapters: the daemon composes it, and so does `meshexp cleanup`, which needs little else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.clock import Clock
from harness.paths import Paths
from harness.reconcilers.dns import Dns
from harness.reconcilers.dns_answers import Answers
from harness.reconcilers.dns_own import OwnServers
from harness.reconcilers.dns_resolv_conf import ResolvConf
from harness.reconcilers.dns_resolved import ResolvedFront
from harness.system import resolved
from harness.system.netlink import Netlink


def dns(
    paths: Paths, runners: Any, chosen: str, clock: Clock, wake: Callable[[str], None], *, only_if_needed: bool = False
) -> Dns:
    """`only_if_needed`: not where the machine's own name servers know the cluster's names."""
    own = OwnServers(clock, wake) if only_if_needed else None
    fronts = ResolvConf(paths.resolv_conf, paths.run / "resolv.conf"), ResolvedFront(resolved.Resolved(Netlink()))
    return Dns(runners, fronts, chosen, paths.dnsmasq, clock, wake, own, Answers(paths.resolv_conf, clock, wake))
