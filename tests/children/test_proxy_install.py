"""`meshexp proxy` as a process, with what it installs from files: versions side by side, refusals, a full disk, kills."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import problems
from harness.proxy_release import parse
from harness.system import oci
from tests import images
from tests.images import Blobs, layer
from tests.proxy_support import REAL, ROOT, Machine, binary, made, new_machine, own_manifest, top

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store belongs to root")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with new_machine() as found:
        yield found


@pytest.mark.skipif(REAL is None, reason="no linkerd2-proxy on PATH")
def test_the_real_binary_tells_its_version_and_is_installed_for_root_alone_to_change(machine: Machine) -> None:
    old = os.umask(0o077)
    try:
        machine.ok("install", "--from", REAL)
    finally:
        os.umask(old)
    (version,) = machine.versions
    installed = machine.state / "proxy" / "current" / "linkerd2-proxy"
    assert installed.read_bytes() == Path(str(REAL)).read_bytes()
    for path in (machine.state / "proxy", installed.parent, installed):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o7777) == (0, 0, 0o755), path
    as_nobody = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", installed], env={}, capture_output=True, check=False
    )
    assert as_nobody.returncode == 64 and f"release {version} ".encode() in as_nobody.stdout


def test_versions_side_by_side_use_rollback_remove(machine: Machine, tmp_path: Path) -> None:
    for version in ("2.331.0", "2.366.0", "2.350.0"):
        machine.ok("install", "--from", binary(tmp_path, version))
    assert machine.versions == ["2.331.0", "2.350.0", "2.366.0"] and machine.current == "2.331.0"
    machine.refuses(69, "was used before", "rollback")
    machine.ok("use", "2.366.0")
    machine.ok("use", "v2.350.0")
    machine.ok("use", "2.350.0")
    assert machine.current == "2.350.0"
    machine.ok("rollback")
    assert machine.current == "2.366.0"
    machine.ok("rollback")
    assert machine.current == "2.350.0"
    rows = json.loads(machine.ok("list", "-o", "json"))
    assert [(r["version"], r["current"], r["previous"]) for r in rows] == [
        ("2.331.0", False, False),
        ("2.350.0", True, False),
        ("2.366.0", False, True),
    ]
    machine.refuses(64, "is in use", "remove", "2.350.0")
    machine.refuses(69, "is not installed", "remove", "2.399.0")
    machine.refuses(69, "is not installed", "use", "2.399.0")
    machine.refuses(64, "is not a version", "use", "../../etc")
    machine.ok("remove", "2.366.0")
    machine.refuses(69, "was used before", "rollback")
    assert machine.versions == ["2.331.0", "2.350.0"]


def test_the_same_again_changes_nothing_and_another_build_of_the_same_version_is_refused(
    machine: Machine, tmp_path: Path
) -> None:
    first = binary(tmp_path, "2.366.0")
    machine.ok("install", "--from", first)
    assert "already" in machine.ok("install", "--from", first)
    first.write_bytes(first.read_bytes() + b"\n# another build")
    machine.refuses(69, "another build of 2.366.0", "install", "--from", first)


def test_bad_releases_are_refused_by_install_and_by_use(machine: Machine, tmp_path: Path) -> None:
    for version in ("2.329.0", "2.330.0"):
        machine.refuses(69, problems.PROXY_BAD_RELEASE.code, "install", "--from", binary(tmp_path, version))
        folder = machine.state / "proxy" / version
        folder.mkdir()
        (folder / "linkerd2-proxy").write_bytes(images.script(version))
        machine.refuses(69, problems.PROXY_BAD_RELEASE.hint, "use", version)
    assert problems.PROXY_BAD_RELEASE.code in machine.ok("list")


def test_a_binary_that_does_not_tell_its_version_needs_to_be_told(machine: Machine, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 64\n")
    machine.refuses(69, "does not tell its version", "install", "--from", silent)
    machine.ok("install", "--from", silent, "--version", "v2.340.0")
    machine.refuses(64, "says that it is 2.366.0", "install", "--from", binary(tmp_path, "2.366.0"), "--version", "2.341.0")
    machine.refuses(69, "proxy-bad-release", "install", "--from", silent, "--version", "2.330.0")


def test_what_cannot_run_here_is_refused(machine: Machine, tmp_path: Path) -> None:
    foreign, text, loader = tmp_path / "foreign", tmp_path / "text", tmp_path / "loader"
    elf = bytearray(Path("/bin/true").read_bytes())
    elf[18:20] = b"\xf3\x00"  # RISC-V
    foreign.write_bytes(elf)
    text.write_text("not a program")
    loader.write_text("#!/no/such/loader\n")
    for path in (foreign, text):
        machine.refuses(69, "no program for this machine's architecture", "install", "--from", path)
    machine.refuses(69, "cannot be run here", "install", "--from", loader)
    machine.state.chmod(0o700)
    machine.refuses(69, "open to others", "install", "--from", binary(tmp_path, "2.366.0"))
    machine.state.chmod(0o757)
    machine.refuses(77, "written by others than root", "install", "--from", binary(tmp_path, "2.366.0"))


def test_it_is_run_as_nobody_without_our_environment_and_not_for_ever(machine: Machine, tmp_path: Path) -> None:
    curious = tmp_path / "curious"
    curious.write_text(
        "#!/bin/sh\ntest $(id -u) = 65534 && grep -q 'NoNewPrivs:.1' /proc/self/status && grep -q 'CapBnd:.0*$' /proc/self/status"
        " && test -z \"$SECRET\" && echo 'release 2.366.0 (x) by y'\n"
        "head -c 1000000000 /dev/zero\nsleep 600 &\nexec sleep 600"
    )
    os.environ["SECRET"] = "s"
    try:
        started = time.monotonic()
        machine.ok("install", "--from", curious)
        assert time.monotonic() - started < 60
    finally:
        del os.environ["SECRET"]


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    """An image like Linkerd's: two platforms, the binary not in the top layer."""
    return made("2.366.0")


def test_image_archives(machine: Machine, blobs: Blobs, tmp_path: Path) -> None:
    layout, saved = tmp_path / "layout.tar", tmp_path / "saved.tar"
    blobs.save_layout(layout, [top(blobs)])
    blobs.save_docker(saved, own_manifest(blobs))
    machine.ok("install", "--from", layout, "--digest", own_manifest(blobs))
    assert "already" in machine.ok("install", "--from", saved, "--digest", oci.sha256(saved.read_bytes()))
    assert (machine.state / "proxy/current/linkerd2-proxy").read_bytes().startswith(b"#!/bin/sh\necho '[ ")
    machine.refuses(1, "not sha256:" + "0" * 64, "install", "--from", saved, "--digest", "sha256:" + "0" * 64)


def test_broken_archives(machine: Machine, blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    blobs.save_layout(path, [top(blobs)])
    whole = path.read_bytes()
    for cut in (600, len(whole) // 2, len(whole) - 12_000):
        path.write_bytes(whole[:cut])
        status, output = machine.run("install", "--from", path)
        assert status in (1, 69) and "Traceback" not in output, (cut, output)
    path.write_bytes(gzip.compress(whole))
    machine.refuses(69, "unpack gzip first", "install", "--from", path)
    path.write_bytes(layer(("a", b"b")))
    machine.refuses(69, "no image archive", "install", "--from", path)
    path.write_bytes(layer(("manifest.json", b'[{"Layers": ["../../etc/shadow"], "Config": "c"}]'), ("c", b"{}")))
    machine.refuses(69, "platform", "install", "--from", path)
    blobs.save_docker(path, own_manifest(blobs))
    path.write_bytes(path.read_bytes().replace(b"exit 64", b"exit 65"))
    machine.refuses(1, "what came for", "install", "--from", path)
    machine.refuses(69, "No such file", "install", "--from", tmp_path / "nothing")
    assert machine.versions == []


def test_a_full_disk(machine: Machine, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(images.script("2.366.0", 3_000_000))
    small = binary(tmp_path, "2.331.0")
    command = f"{sys.executable} -m harness proxy"
    script = f"""
        mount -t tmpfs -o size=2m,mode=0755 none {machine.state} || exit 99
        {command} install --from {small} || exit 98
        {command} install --from {large}; echo "status $?"
        ls -A {machine.state}/proxy
        dd if=/dev/zero of={machine.state}/fill bs=64k 2>/dev/null
        {command} install --from {large} | cat; {command} use 2.331.0 && {command} list
    """
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", textwrap.dedent(script)],
        env=os.environ | {"MESHEXP_STATE_DIR": str(machine.state)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result
    assert "status 69\n.change.lock\n.install.lock\n2.331.0\ncurrent\n" in result.stdout
    assert result.stdout.endswith(f"2.331.0      current   {small}\n")
    assert result.stderr.count("No space left on device") == 2 and "Traceback" not in result.stderr


def test_links_after_a_kill_between_their_steps(machine: Machine, tmp_path: Path) -> None:
    for version in ("2.331.0", "2.340.0", "2.350.0"):
        machine.ok("install", "--from", binary(tmp_path, version))
    machine.ok("use", "2.340.0")  # current 2.340.0, previous 2.331.0
    proxy = machine.state / "proxy"
    # Killed before the step that decides: the note about the current version is dropped.
    (proxy / ".previous").symlink_to("2.340.0")
    assert machine.store.rollback() == parse("2.331.0")
    machine.store.use(parse("2.340.0"))
    # Killed after it: the new version is in use, and the note becomes the way back.
    (proxy / ".previous").symlink_to("2.340.0")
    (proxy / "current").unlink()
    (proxy / "current").symlink_to("2.350.0")
    assert machine.store.rollback() == parse("2.340.0")
    assert not (proxy / ".previous").exists()


def test_a_half_removed_version_is_no_version(machine: Machine, tmp_path: Path) -> None:
    machine.ok("install", "--from", binary(tmp_path, "2.331.0"))
    proxy = machine.state / "proxy"
    (proxy / ".removed-2.340.0").mkdir()
    (proxy / "2.341.0").mkdir()
    (proxy / "2.342.0").symlink_to("/nowhere")
    assert machine.versions == ["2.331.0"]
    assert machine.run("use", "2.341.0")[0] == 69
    assert not (proxy / ".removed-2.340.0").exists()


def test_usage_errors(machine: Machine) -> None:
    machine.refuses(64, "belong together", "install", "--from", "x.io/p:t", "--signature", "s")
    machine.refuses(64, "neither a file nor an image reference", "install", "--from", "linkerd/proxy")
    machine.refuses(64, "required", "install")


def test_signed_by_a_key(machine: Machine, blobs: Blobs, tmp_path: Path) -> None:
    layout, key, public, signature = (tmp_path / name for name in ("layout.tar", "key", "public", "signature"))
    blobs.save_layout(layout, [top(blobs)])
    openssl: list[str | Path] = ["openssl", "dgst", "-sha256", "-sign", key, "-out", signature]
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    signed = ("--signature", signature, "--key", public)
    subprocess.run(openssl, input=b"something else", check=True)
    machine.refuses(1, "is no signature by", "install", "--from", layout, *signed)
    subprocess.run(openssl, input=blobs.stored[own_manifest(blobs)], check=True)
    machine.ok("install", "--from", layout, *signed)
    path = binary(tmp_path, "2.331.0")
    machine.refuses(1, "is no signature by", "install", "--from", path, *signed)
    subprocess.run([*openssl, path], check=True)
    machine.ok("install", "--from", path, *signed)
