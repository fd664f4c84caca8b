"""A Debian to install into: made once by debootstrap and kept in the user's cache, as the lower layer of what tests write to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import __version__
from tests.cache import cache, once
from tests.mesh import ROOT

SYSTEM = ("systemd", "systemd-sysv", "dbus", "iproute2", "iptables", "nftables", "ca-certificates", "passwd")
# The package's own dependencies, so that it is installed without a network, and what it suggests.
DEPENDENCIES = (
    "libnftables1", "openssl", "python3-h2", "python3-httpx", "python3-pyroute2", "python3-structlog", "python3-systemd",
    "python3-yaml", "python3-cryptography", "dnsmasq-base",
)  # fmt: skip
OPTIONAL = ("python3-iptables",)  # not every suite has it
# Only downloaded, into /opt, for the tests that install them: these have no network.
DOWNLOADS = ("systemd-standalone-sysusers", "systemd-resolved")
TESTS = ("rpm", "man-db", "bash-completion")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# It has its own mounts and processes, which end when the process that started it ends.
ALONE = ("setpriv", "--pdeathsig=KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--")
# Not the test run's own PYTHON*: with PYTHONPYCACHEPREFIX, dpkg's py3clean would look for compiled files in another place.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PATH": PATH, "LC_ALL": "C.UTF-8"}
# debootstrap's options, and mirror (its default) and script, for a suite that Debian 12's does not know. The keyring is Ubuntu's.
_UBUNTU = ("--components=main,universe", "--keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg")
_SOURCES = {"noble": (_UBUNTU, ("", "gutsy"))}


def sh(*argv: str, timeout: float = 600.0, check: bool = True) -> str:
    """The command's output, both streams; AssertionError with it when the command fails."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        env=_ENVIRONMENT, timeout=timeout,
    )  # fmt: skip
    assert not (check and done.returncode), f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def debian(suite: str) -> Path:
    """A root file system with systemd and our dependencies, not to be written to. The first to ask waits for minutes."""
    name = hashlib.sha256(" ".join((*SYSTEM, *DEPENDENCIES, *OPTIONAL, *TESTS, *DOWNLOADS)).encode()).hexdigest()[:12]
    return once(cache() / f"{suite}-{name}", lambda folder: _debootstrap(suite, folder))


def once_a_run(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of this test run share."""
    base = factory.getbasetemp()
    return once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name, make)


def package(factory: pytest.TempPathFactory) -> Path:
    """The deb of this checkout."""

    def build(folder: Path) -> None:
        shutil.copy(ROOT / sh(str(ROOT / "packaging/deb/build")).split()[-1], folder)

    return once_a_run(factory, "deb", build) / f"meshexp-harness_{__version__}_all.deb"


def debootstrap(*words: str) -> None:
    """A minimal Debian. What it mounts ends with it: killed, it would leave this machine's /proc in the cache."""
    sh(*ALONE, "debootstrap", "--variant=minbase", *words, timeout=1200)


def _debootstrap(suite: str, root: Path) -> None:
    flags, source = _SOURCES.get(suite, ((), ()))
    debootstrap(*flags, suite, str(root), *source)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    # Without lists of what else there is, apt goes by what is installed, and reads in a tenth of the time.
    script = f"""
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q=2
        apt-get install -q=2 -y --no-install-recommends {" ".join((*SYSTEM, *DEPENDENCIES, *TESTS))}
        for name in {" ".join(OPTIONAL)}; do
            apt-cache show $name >/dev/null 2>&1 && apt-get install -q=2 -y --no-install-recommends $name
        done
        cd /opt && apt-get download -q=2 {" ".join(DOWNLOADS)}
        apt-get clean
        rm -rf /etc/resolv.conf /etc/machine-id /var/log/*.log /var/log/apt/* /var/lib/apt/lists/*
        touch /etc/machine-id
    """
    sh("chroot", str(root), "sh", "-ec", script, timeout=1200)


@contextlib.contextmanager
def layered(*bases: Path, megabytes: int = 512) -> Iterator[Path]:
    """The bases, the first one uppermost, with a writable layer of that size in memory: a disk that can be full."""
    with tempfile.TemporaryDirectory(prefix="meshexp-layer-", dir="/var/tmp") as folder:
        layer = Path(folder) / "layer"
        layer.mkdir()
        sh("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "meshexp-layer", str(layer))
        try:
            with written_to(layer, *bases) as root:
                yield root
        finally:
            sh("umount", str(layer))


@contextlib.contextmanager
def written_to(layer: Path, *bases: Path) -> Iterator[Path]:
    """The bases; what is written lands in `layer`/upper, which may be a base itself afterwards."""
    for name in ("upper", "work", "root"):
        (layer / name).mkdir()
    lower, root = ":".join(str(base) for base in bases), layer / "root"
    sh("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work", "meshexp", str(root))
    try:
        yield root
    finally:
        sh("umount", str(root))
