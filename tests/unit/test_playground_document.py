"""docs/playground.md: its commands are as few as it says, what it names is there, and the walk says what is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import __version__
from tests.mesh import ROOT

TEXT = (ROOT / "docs/playground.md").read_text()
ORIGINAL = 39


def commands() -> list[str]:
    """Of the shell blocks; a line that goes on is one command."""
    text = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    found = re.sub(r"'\[.*?\]'", "'[]'", text, flags=re.DOTALL)
    return [line for line in found.splitlines() if line.strip()]


def test_at_most_half_of_the_originals_commands() -> None:
    assert len(commands()) <= ORIGINAL / 2
    assert f"That was {len(commands())} commands" in TEXT and f"has {ORIGINAL}," in TEXT


def test_what_the_commands_name_is_there() -> None:
    named = {word for line in commands() for word in line.split() if word.startswith(("deploy/", "docker/"))}
    assert named and all((ROOT / word).exists() for word in named), named
    targets = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)


def test_every_machine_has_the_originals_delays() -> None:
    started = [line for line in commands() if line.startswith("docker run")]
    assert len(started) == 5
    assert all("-e DELAY_BUCKETS=0,50,100,200,500,1000" in line for line in started)


def test_the_tests_of_the_nine_rows_exist() -> None:
    rows = re.findall(r"^\| (\d)\. .*$", TEXT, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 10)]
    everything = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)`", TEXT):
        assert f"def {name}(" in everything, name
    for path in re.findall(r"`(tests/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path


def test_the_walk_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "openssl"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    walk = [str(ROOT / "deploy/playground/walk")]
    done = subprocess.run(walk, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.findall(r"^× (\w+) is missing: \S+", done.stdout, re.MULTILINE) == ["docker", "k3d", "kubectl", "helm", "linkerd"]
    assert "√ openssl" in done.stdout and "make demo" in done.stdout


def test_the_walk_runs_the_documents_commands_in_order(tmp_path: Path) -> None:
    """With programs that only say that they were called."""
    for name in ("docker", "k3d", "kubectl", "helm", "linkerd", "make"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    root = tmp_path / "root"
    shutil.copytree(ROOT / "deploy", root / "deploy")
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs/playground.md", root / "docs")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    walk = [str(root / "deploy/playground/walk")]
    done = subprocess.run(walk, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "docker info" and calls[1].startswith("k3d cluster create mesh-exp")
    assert calls[2] == "make images ARGS=--k3d mesh-exp"
    started = [re.findall(r"--name=(\S+)", call)[0] for call in calls if call.startswith("docker run")]
    assert started == ["face-1", "smiley-1", "face-2", "color-1", "smiley2-1"]
    assert {"ca.crt", "ca.key", "issuer.crt", "issuer.key"} == {path.name for path in (root / "certs").iterdir()}
    assert "WORKLOAD_NAMESPACE=faces" in (root / "mesh.env").read_text()


def test_the_cluster_gets_the_controllers_image_once_it_is_built(tmp_path: Path) -> None:
    for name in ("docker", "k3d"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    build = [str(ROOT / "docker/build"), "--k3d", "mesh-exp", "meshexp-controller"]
    subprocess.run(build, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    built, imported = (tmp_path / "calls").read_text().splitlines()
    assert built.startswith(f"docker build --tag meshexp-controller --tag meshexp-controller:{__version__} ")
    assert imported == f"k3d image import --cluster mesh-exp meshexp-controller:{__version__}"


@pytest.mark.parametrize("name", ["issuer", "ca"])
def test_the_certificates_are_ones_that_linkerd_takes(tmp_path: Path, name: str) -> None:
    subprocess.run([str(ROOT / "deploy/playground/certs"), str(tmp_path)], check=True)
    words = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / f"{name}.crt")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.endswith("OK\n")
