"""A Debian to install into: made once by debootstrap, kept as an archive in the user's cache, unpacked for each run."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
SYSTEM = ("systemd", "systemd-sysv", "dbus", "iproute2", "iptables", "nftables", "ca-certificates", "procps", "passwd")
# The package's own dependencies, so that it is installed without a network, and what it suggests.
DEPENDENCIES = (
    "libnftables1", "python3-h2", "python3-httpx", "python3-pyroute2", "python3-structlog", "python3-systemd", "python3-yaml",
    "python3-cryptography", "python3-iptables", "dnsmasq-base",
)  # fmt: skip
# Only downloaded, into /opt, for the tests that install them: these have no network.
DOWNLOADS = ("systemd-standalone-sysusers", "systemd-resolved")
TESTS = ("rpm", "man-db", "bash-completion")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Not the test run's own PYTHON*: with PYTHONPYCACHEPREFIX, dpkg's py3clean would look for compiled files in another place.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PATH": PATH, "LC_ALL": "C.UTF-8"}


def sh(*argv: str, timeout: float = 600.0, check: bool = True) -> str:
    """The command's output, both streams; AssertionError with it when the command fails."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        env=_ENVIRONMENT, timeout=timeout,
    )  # fmt: skip
    assert not (check and done.returncode), f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshexp"


def archive(suite: str) -> Path:
    """The archive of a Debian with systemd and our dependencies; made by the first who asks, which takes a minute or two."""
    packages = (*SYSTEM, *DEPENDENCIES, *TESTS)
    name = hashlib.sha256(" ".join((*packages, *DOWNLOADS)).encode()).hexdigest()[:12]
    found = cache() / f"{suite}-{name}.tar.zst"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            _make(suite, packages, found)
    return found


def _make(suite: str, packages: tuple[str, ...], to: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="meshexp-root-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        sh("debootstrap", "--variant=minbase", suite, str(root), MIRROR, timeout=1200)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        script = f"""
            export DEBIAN_FRONTEND=noninteractive
            apt-get update -q=2
            apt-get install -q=2 -y --no-install-recommends {" ".join(packages)}
            cd /opt && apt-get download -q=2 {" ".join(DOWNLOADS)}
            apt-get clean
            rm -f /etc/resolv.conf /etc/machine-id /var/log/*.log /var/log/apt/*
            touch /etc/machine-id
        """
        sh("chroot", str(root), "sh", "-ec", script, timeout=1200)
        partial = to.with_suffix(".partial")
        sh("tar", "--zstd", "--numeric-owner", "--xattrs", "-C", str(root), "-cf", str(partial), ".")
        partial.rename(to)


@contextlib.contextmanager
def unpacked(suite: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="meshexp-root-", dir="/var/tmp") as folder:
        root = Path(folder) / suite
        root.mkdir()
        sh("tar", "--zstd", "--numeric-owner", "--xattrs", "-C", str(root), "-xf", str(archive(suite)))
        yield root


@contextlib.contextmanager
def layered(base: Path, megabytes: int = 512) -> Iterator[Path]:
    """`base` with a writable layer of that size in memory: a disk that can be full."""
    with tempfile.TemporaryDirectory(prefix="meshexp-layer-", dir="/var/tmp") as folder:
        layer, root = Path(folder) / "layer", Path(folder) / "root"
        layer.mkdir()
        root.mkdir()
        with contextlib.ExitStack() as mounts:
            sh("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "meshexp-layer", str(layer))
            mounts.callback(sh, "umount", str(layer))
            for name in ("upper", "work"):
                (layer / name).mkdir()
            options = f"lowerdir={base},upperdir={layer}/upper,workdir={layer}/work"
            sh("mount", "-t", "overlay", "-o", options, "meshexp-root", str(root))
            mounts.callback(sh, "umount", str(root))
            yield root
