"""What stands in for debian:bookworm-slim where no image registry is reachable, and a mirror for what builds install.

The base is what debootstrap makes of a minimal Debian, as Debian's own image is: none of what our images need is in it.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cache import cache, once
from tests.mesh import ROOT
from tests.package import root
from tests.package.root import sh

PORT = 8099  # of the mirror, on the loopback of the engine's network
# All that builds may ask for, besides what the Debian package is built with; apt decides what it takes.
PACKAGES = (
    *root.DEPENDENCIES, "systemd-standalone-sysusers", "ca-certificates", "python3-aiohttp", "python3-cryptography"
)  # fmt: skip
CONTROL = ROOT / "packaging/deb/debian/control"
# As in Debian's own slim images.
_EXCLUDED = "\n".join(f"path-exclude /usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "groff", "lintian"))
_SLIM = """
    rm -rf usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/locale/* usr/share/groff/* usr/share/lintian/*
    rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/*.log var/log/apt var/cache/debconf/*-old etc/resolv.conf etc/hostname
"""


@dataclass(frozen=True, slots=True)
class Base:
    """`archive`: a root file system. `mirror`: a folder to be served at PORT, which the base's apt asks. `busybox`: a program."""

    archive: Path
    mirror: Path
    busybox: Path


def base() -> Base:
    """Made by the first to ask, which takes a minute or two."""
    key = hashlib.sha256(f"{PACKAGES} {CONTROL.read_text()} {_EXCLUDED} {_SLIM} {PORT}".encode()).hexdigest()[:12]
    folder = once(cache() / f"images-{key}", _make)
    return Base(folder / "base.tar", folder / "mirror", folder / "busybox/bin/busybox")


def _make(folder: Path) -> None:
    made, mirror = folder / "root", folder / "mirror"
    root.debootstrap("bookworm", str(made))
    with root.layered(made, megabytes=1024) as debian:
        shutil.copy("/etc/resolv.conf", debian / "etc/resolv.conf")
        (debian / "needed/debian").mkdir(parents=True)
        shutil.copy(CONTROL, debian / "needed/debian")
        script = f"""
            rm -f /etc/apt/apt.conf.d/docker-clean
            apt-get update -q=2
            apt-get install -q=2 -y --download-only --no-install-recommends {" ".join(PACKAGES)}
            apt-get build-dep -q=2 -y --download-only --no-install-recommends /needed
            cd / && apt-get download -q=2 busybox && dpkg-deb -x busybox_*.deb /busybox
        """
        sh("chroot", str(debian), "sh", "-ec", script, timeout=1200)
        shutil.copytree(debian / "var/cache/apt/archives", mirror, ignore=shutil.ignore_patterns("lock", "partial"))
        shutil.copytree(debian / "busybox", folder / "busybox", symlinks=True)
    sh("sh", "-ec", f"cd {mirror} && dpkg-scanpackages --multiversion . >Packages 2>/dev/null")
    (made / "etc/apt/sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{PORT} ./\n")
    (made / "etc/dpkg/dpkg.cfg.d/docker").write_text(_EXCLUDED + "\n")
    sh("sh", "-ec", f"cd {made}\n{_SLIM}")
    sh("tar", "--numeric-owner", "-C", str(made), "-cf", str(folder / "base.tar"), "./")
    shutil.rmtree(made)
