"""Where things are on the machine. systemd, a container or a test may move them by environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    config: Path = Path("/etc/meshexp")
    state: Path = Path("/var/lib/meshexp")
    run: Path = Path("/run/meshexp")
    resolv_conf: Path = Path("/etc/resolv.conf")

    @property
    def harness_yaml(self) -> Path:
        return self.config / "harness.yaml"

    @property
    def drop_ins(self) -> Path:
        return self.config / "harness.d"

    @property
    def joined(self) -> Path:
        """What `meshexp join` sets, as a drop-in: what stands in another file with a later name stands over it."""
        return self.drop_ins / "50-join.yaml"

    @property
    def invitation(self) -> Path:
        """The token that lets this machine in, 0600; shown at its first registration."""
        return self.config / "invitation"

    @property
    def cordon(self) -> Path:
        """Why an operator keeps traffic away, over restarts and reboots; not there when nobody does."""
        return self.state / "cordon.json"

    @property
    def instance_id(self) -> Path:
        return self.state / "instance-id"

    @property
    def registration(self) -> Path:
        """Name and secret of this machine's registration, 0600."""
        return self.state / "registration.json"

    @property
    def proxy_versions(self) -> Path:
        """The installed versions of linkerd2-proxy, and links to the one in use and the one before."""
        return self.state / "proxy"

    @property
    def lock(self) -> Path:
        return self.run / "harness.lock"

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def known_registration(self) -> Path:
        """What the controller last told, without the secret: for `meshexp plan`."""
        return self.run / "registration.json"

    @property
    def proxy(self) -> Path:
        """What the running proxy was started with, for the daemon that adopts it."""
        return self.run / "proxy.json"

    @property
    def dnsmasq(self) -> Path:
        """Configuration of the dnsmasq that splits the machine's DNS where systemd-resolved does not."""
        return self.run / "dnsmasq.conf"

    @property
    def children(self) -> Path:
        """One record per child, so that `cleanup` finds orphans by pid and start time."""
        return self.run / "children"

    @property
    def workload_api(self) -> Path:
        """The socket of a Workload API that the harness itself runs."""
        return self.run / "workload-api" / "api.sock"


def from_environment(environ: Mapping[str, str] = os.environ) -> Paths:
    default = Paths()
    return Paths(
        config=Path(environ.get("MESHEXP_CONFIG_DIR", default.config)),
        state=Path(environ.get("MESHEXP_STATE_DIR", default.state)),
        run=Path(environ.get("MESHEXP_RUN_DIR", default.run)),
        resolv_conf=Path(environ.get("MESHEXP_RESOLV_CONF", default.resolv_conf)),
    )
