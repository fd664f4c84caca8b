"""What every category is given: the configuration, what the daemon says of itself, and what follows from both. No I/O."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from harness import desired, hints, proxy_environment
from harness.check.report import NOT_LOOKED, Untried
from harness.config import schema
from harness.denied import is_denied
from harness.messages import ClusterFacts, Registration
from harness.paths import Paths
from harness.status import Phase
from harness.system.workload_api import Delivered, Frame, Svid
from harness.values import HostPort, IPNetwork, SpiffeId

NEEDS_ROOT = Untried("needs root: run it with sudo")
UNCONFIGURED = Untried("not configured yet")


def needs_root(why: str) -> Untried:
    """For what only root may look at: that this process may not says nothing about the machine."""
    return Untried(f"needs root ({why}): run it with sudo")


@dataclass(frozen=True, slots=True)
class Context:
    """`status`: what `meshexp status` reads. `anchors_pem` is empty when the file cannot be read, and `anchors_unread` says why.

    `configured`: whether `config` says what this machine is; if not, it has the defaults. `root`: whether this process is root.
    """

    config: schema.Config
    paths: Paths
    status: dict[str, Any]
    registration: Registration | None
    anchors_pem: str = field(repr=False)
    pre: bool
    wall: float
    frame: Frame | Untried = NOT_LOOKED
    """What the Workload API gave the proxy's user."""
    configured: bool = True
    root: bool = True
    anchors_unread: str = ""

    @property
    def svid(self) -> Svid | None:
        found = self.frame.svids if isinstance(self.frame, Delivered) else ()
        return next((svid for svid in found if svid.spiffe_id == self.spiffe_id), None)

    @property
    def hints(self) -> dict[str, str]:
        """The values that hints have places for."""
        controller = self.config.controller.address
        metrics = self.config.metrics.listen
        specific = {
            "address": str(controller),
            "host": controller.host,
            "socket": self.socket,
            "identity": str(self.spiffe_id),
            "uid": f"$(id -u {shlex.quote(self.config.proxy.user)})",
            "port": str(metrics.port) if metrics is not None else "",
            "key": "identity.spire",
            "file": shlex.quote(self.config.identity.local.ca_cert),
        }
        return specific | hints.general(self.paths, self.config)

    @property
    def registration_unread(self) -> str:
        """Why it cannot be read; empty where it can, or is not there."""
        path = self.paths.known_registration
        return needs_root(f"{path} cannot be read by this user").why if not self.root and is_denied(path) else ""

    @property
    def running(self) -> bool:
        return self.status.get("phase") not in (Phase.STOPPED.text, Phase.WAITING.text)

    @property
    def facts(self) -> ClusterFacts:
        return self.registration.facts if self.registration else ClusterFacts()

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        return proxy_environment.cluster_networks(self.config, self.facts)

    @property
    def peers(self) -> tuple[IPNetwork, ...]:
        """The networks that peers' packets come from."""
        return proxy_environment.peer_networks(self.config, self.facts)

    @property
    def spiffe_id(self) -> SpiffeId:
        return desired.spiffe_id(self.config)

    @property
    def socket(self) -> str:
        return desired.workload_api(self.config, self.paths)

    @property
    def destination(self) -> tuple[HostPort, str] | None:
        """Address and TLS name of Linkerd's destination service; None while nobody has told where it is."""
        told = self.registration is not None or self.config.proxy.destination_address is not None
        return proxy_environment.destination(self.config, self.facts) if told else None

    @property
    def policy(self) -> tuple[HostPort, str] | None:
        told = self.registration is not None or self.config.proxy.policy_address is not None
        return proxy_environment.policy(self.config, self.facts) if told else None
