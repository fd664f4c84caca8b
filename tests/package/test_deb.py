"""The deb as a file, and where there is no systemd."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.mesh import ROOT
from tests.package.debs import Debs
from tests.package.root import layered, sh


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(deb: Path) -> dict[str, str]:
    """Path → mode."""
    lines = (line.split(maxsplit=5) for line in sh("dpkg-deb", "--contents", str(deb)).splitlines())
    return {words[5].removeprefix("."): words[0] for words in lines}


def test_two_builds_are_the_same_to_the_bit_and_lintian_finds_nothing(debs: Debs) -> None:
    built = ROOT / "dist" / debs.present.name
    before = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "COLUMNS": "40", "PYTHONHASHSEED": "1"}
    script = f"umask 077; {ROOT}/packaging/deb/build --lint"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env=before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout, done.stderr) == (f"dist/{built.name}\n", ""), "where the package is, and nothing else"
    assert digest(built) == digest(debs.present), "whoever builds, wherever, whenever"


def test_only_the_harness_is_in_it(debs: Debs) -> None:
    found = contents(debs.present)
    python = {path for path in found if path.endswith(".py")}
    assert python
    assert all(path.startswith("/usr/lib/meshexp-harness/harness/") for path in python)
    installed = {path.removeprefix("/usr/lib/meshexp-harness/") for path in python}
    assert installed == {str(path.relative_to(ROOT)) for path in (ROOT / "harness").rglob("*.py")}
    for path in ("/usr/bin/meshexp", "/etc/meshexp/harness.yaml", "/usr/share/man/man8/meshexp.8.gz"):
        assert path in found
    for path in (
        "bash-completion/completions/meshexp",
        "zsh/vendor-completions/_meshexp",
        "fish/vendor_completions.d/meshexp.fish",
    ):
        assert f"/usr/share/{path}" in found
    assert [path for path, mode in found.items() if mode[8] == "w"] == [], "nobody else may write"


def test_small(debs: Debs) -> None:
    """Not a measurement of speed: 2 MB is the issue's bar, and 600 KiB what it is."""
    assert int(sh("dpkg-deb", "--field", str(debs.present), "Installed-Size")) < 2000


def test_without_systemd_nothing_fails(debian: Path, debs: Debs) -> None:
    """A container's file system: no systemd, no init, nobody to start the daemon."""
    with layered(debian) as root:
        (root / "opt/package.deb").write_bytes(debs.present.read_bytes())
        script = """
            export DEBIAN_FRONTEND=noninteractive
            force="--force-depends --force-remove-essential --force-remove-protected"
            dpkg --purge $force systemd-sysv systemd libpam-systemd dbus 2>/dev/null
            dpkg --install /opt/systemd-standalone-sysusers_*.deb
            ! command -v systemctl
            dpkg --install /opt/package.deb
            meshexp version
            getent passwd meshexp-proxy
            dpkg --install /opt/package.deb
            dpkg --purge meshexp-harness
            test ! -e /etc/meshexp && test ! -e /usr/lib/meshexp-harness && test ! -e /var/lib/meshexp
        """
        output = sh("unshare", "--net", "--mount", "chroot", str(root), "sh", "-exc", script)
    assert "meshexp-harness 0" in output


def test_man_page_and_completion(debian: Path, debs: Debs) -> None:
    with layered(debian) as root:
        sh("dpkg-deb", "--extract", str(debs.present), str(root / "opt/x"))
        page = sh("man", "--warnings", "-l", str(root / "opt/x/usr/share/man/man8/meshexp.8.gz"))
        for word in ("NAME", "makes this machine a member of a Linkerd mesh", "redirect show", "EXIT STATUS", "FILES"):
            assert word in page
        complete = f"""
            . {root}/opt/x/usr/share/bash-completion/completions/meshexp
            COMP_WORDS=(meshexp redirect ""); COMP_CWORD=2; _meshexp; echo "${{COMPREPLY[@]}}"
        """
        assert {"show", "apply", "remove", "test"} <= set(sh("bash", "-c", complete).split())
