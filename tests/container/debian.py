"""What stands in for debian:bookworm-slim where no image registry is to be had: made of the package tests' Debian."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cache import cache, once
from tests.package import root
from tests.package.root import sh

# The controller's dependencies, and what no container needs of that Debian.
CONTROLLER = ("python3-aiohttp", "python3-cryptography")
NOT_NEEDED = (*(name for name in root.SYSTEM if name not in ("ca-certificates", "passwd")), *root.TESTS, "python3-iptables")
_PURGE = "apt-get purge -q=2 -y --auto-remove -o APT::AutoRemove::RecommendsImportant=0 -o APT::AutoRemove::SuggestsImportant=0"
# As in Debian's own slim images, and without what only building needs.
_SLIM = """
    rm -rf usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/locale/* usr/share/lintian usr/share/groff opt/*
    rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/*.log var/log/apt var/cache/debconf/*-old etc/resolv.conf etc/hostname
"""


@dataclass(frozen=True, slots=True)
class Bases:
    """Archives of a root file system: with the package's dependencies, and with the controller's too."""

    package: Path
    controller: Path


def bases() -> Bases:
    """Made by the first who asks, which takes a minute or two."""
    key = hashlib.sha256(f"{root.debian('bookworm').name} {CONTROLLER} {NOT_NEEDED} {_PURGE} {_SLIM}".encode()).hexdigest()[:12]
    folder = once(cache() / f"images-{key}", _make)
    return Bases(folder / "package.tar", folder / "controller.tar")


def _make(folder: Path) -> None:
    with root.layered(root.debian("bookworm"), megabytes=1024) as debian:
        shutil.copy("/etc/resolv.conf", debian / "etc/resolv.conf")
        _chroot(
            debian,
            "apt-get update -q=2",
            f"apt-get install -q=2 -y --no-install-recommends {' '.join(CONTROLLER)}",
            f"{_PURGE} {' '.join(NOT_NEEDED)}",
            "dpkg --install /opt/systemd-standalone-sysusers*.deb",
        )
        _pack(debian, folder / "controller.tar")
        _chroot(debian, f"{_PURGE} {' '.join(CONTROLLER)}")
        _pack(debian, folder / "package.tar")


def _chroot(debian: Path, *commands: str) -> None:
    sh("chroot", str(debian), "sh", "-ec", "export DEBIAN_FRONTEND=noninteractive\n" + "\n".join(commands), timeout=600)


def _pack(debian: Path, to: Path) -> None:
    sh("sh", "-ec", f"cd {debian}\n{_SLIM}")
    sh("tar", "--numeric-owner", "-C", str(debian), "-cf", str(to), "./")
