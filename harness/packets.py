"""What the rules do with a packet: the meaning that both backends must give them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.rules import Family, Hook, Rule
from harness.values import IPAddress


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a TCP connection, as the rules see it."""

    hook: Hook
    source: IPAddress
    destination: IPAddress
    port: int
    interface: str
    uid: int = 0
    local: bool = True
    """Inbound: the destination is an address of this machine."""

    @property
    def family(self) -> Family:
        return Family(self.destination.version)


def target(rules: Iterable[Rule], packet: Packet) -> int | None:
    """The port to which `rules` redirect `packet`, None where they leave it alone: what both backends must make the kernel do."""
    return next((rule.redirect_to for rule in rules if _matches(rule, packet)), None)


def _matches(rule: Rule, packet: Packet) -> bool:
    far = packet.source if packet.hook is Hook.INBOUND else packet.destination
    prefix = rule.interface.removesuffix("*")
    return (
        rule.hook is packet.hook
        and rule.family in (None, packet.family)
        and not (rule.not_local and packet.local)
        and rule.uid in (None, packet.uid)
        and (packet.interface.startswith(prefix) if rule.interface.endswith("*") else rule.interface in ("", packet.interface))
        and (not rule.networks or any(far in network for network in rule.networks))
        and (not rule.ports or any(packet.port in ports for ports in rule.ports))
    )
