"""The packages with services that set-up installs, in an archive for a machine without a network: downloaded once."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.cache import cache, once
from tests.package import root
from tests.package.root import sh

# The last one comes with prometheus where recommended packages are installed, too.
PACKAGES = (
    "etcd-server", "docker-registry", "systemd-container", "docker.io", "firewalld", "ufw", "prometheus", "man-db",
    "prometheus-node-exporter",
)  # fmt: skip
ARCHIVE = "/opt/archive"
_DOWNLOAD = f"""
    apt-get update -q=2
    apt-get install -q=2 -y --no-install-recommends --reinstall --download-only {" ".join(PACKAGES)}
"""


def archive() -> Path:
    """A folder that apt takes packages from."""
    key = hashlib.sha256(f"{root.debian('bookworm').name} {_DOWNLOAD}".encode()).hexdigest()[:12]
    return once(cache() / f"services-{key}", _download)


def _download(folder: Path) -> None:
    with root.layered(root.debian("bookworm"), megabytes=1024) as debian:
        shutil.copy("/etc/resolv.conf", debian / "etc/resolv.conf")
        sh("chroot", str(debian), "sh", "-ec", _DOWNLOAD, timeout=1200)
        for package in (debian / "var/cache/apt/archives").glob("*.deb"):
            # Without a colon, which an archive's list of files must not have.
            shutil.copy(package, folder / package.name.replace("%3a", "_"))
    sh("sh", "-ec", f"cd {folder} && dpkg-scanpackages --multiversion . >Packages 2>/dev/null")
