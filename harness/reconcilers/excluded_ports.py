"""Ports of the group that the redirect leaves alone because SSH comes by them: what peers send there reaches no proxy. Pure."""

from __future__ import annotations

from harness import problems
from harness.rules import Inbound, RedirectSpec
from harness.system.redirect_exclusions import Ssh
from harness.values import PortRange


def found(desired: RedirectSpec, ssh: Ssh) -> problems.Found | None:
    """None for a redirect of all ports: there SSH's are left alone by intent."""
    if desired.inbound is not Inbound.PORTS:
        return None
    both = sorted({port for wanted in desired.inbound_ports for left in ssh.ports for port in _common(wanted, left)})
    if not both:
        return None
    came = f"not redirected: {', '.join(f'port {port}' for port in both)}, by which SSH comes to this machine"
    return problems.GROUP_PORT_EXCLUDED.found("the look at which ports are SSH's", came, port=both[0])


def _common(one: PortRange, other: PortRange) -> range:
    return range(max(one.first, other.first), min(one.last, other.last) + 1)
