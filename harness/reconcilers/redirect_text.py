"""What the rules do, in one sentence. Pure."""

from __future__ import annotations

from harness import phrases
from harness.rules import Inbound, Outbound, RedirectSpec, rules_for


def summary(spec: RedirectSpec) -> str:
    if not rules_for(spec):
        return "nothing to redirect"
    count = len(spec.outbound_networks)
    if spec.hold:
        return (
            f"held: new connections to {phrases.counted(count, 'network')} of the mesh are refused until the proxy can take them"
        )
    outbound = {
        Outbound.MESH: f"outbound to {phrases.counted(count, 'network')} → {spec.outbound_port}",
        Outbound.ALL: f"all outbound → {spec.outbound_port}",
        Outbound.OFF: "outbound not redirected",
    }
    inbound = {
        Inbound.PORTS: f"inbound ports {', '.join(map(str, spec.inbound_ports)) or 'none'} → {spec.inbound_port}",
        Inbound.ALL: f"all inbound → {spec.inbound_port}",
        Inbound.OFF: "inbound not redirected",
    }
    return f"{outbound[spec.outbound]}, {inbound[spec.inbound]}"
