"""A Debian with the programs that our users' machines have as well: installed once, kept in the cache, none of them enabled."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.cache import cache, once
from tests.package import root
from tests.package.root import ALONE, sh

PROGRAMS = (
    "openssh-server", "openssh-client", "isc-dhcp-client", "systemd-resolved", "network-manager", "netplan.io",
    "ufw", "firewalld", "unbound", "e2fsprogs", "iputils-ping", "cloud-init", "podman", "netavark", "crun", "busybox-static",
    "libvirt-daemon-system", "libvirt-clients",
)  # fmt: skip
_LINKS = "etc/systemd/system"


def layers(suite: str) -> tuple[Path, Path]:
    """The uppermost first; not to be written to."""
    debian = root.debian(suite)
    name = hashlib.sha256(" ".join((debian.name, *PROGRAMS)).encode()).hexdigest()[:12]
    return once(cache() / f"neighbors-{name}", lambda folder: _install(debian, folder)) / "upper", debian


def _install(debian: Path, folder: Path) -> None:
    with root.written_to(folder, debian) as tree:
        before = _links(tree)
        shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
        script = f"""
            export DEBIAN_FRONTEND=noninteractive
            apt-get update -q=2
            apt-get install -q=2 -y --no-install-recommends {" ".join(PROGRAMS)}
            apt-get clean
            rm -rf /var/lib/apt/lists/* /etc/resolv.conf /etc/ssh/ssh_host_*
        """
        sh(*ALONE, "chroot", str(tree), "sh", "-ec", script, timeout=1200)
        for link in _links(tree) - before:
            link.unlink()


def _links(tree: Path) -> set[Path]:
    """By which units are enabled."""
    return {path for path in (tree / _LINKS).rglob("*") if path.is_symlink()}
