"""docs/playground.md: its commands are as few as it says, what it names is there, and the walk says what is missing.

What the walk and its verifications do on a cluster and an engine: tests/container/test_walk.py.
"""

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


VERIFY = "deploy/playground/verify "
SCRIPTS = ("walk", "verify", "common", "teardown", "cluster-env")


def lines() -> list[str]:
    """Of the shell blocks; a line that goes on is one command."""
    text = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def commands() -> list[str]:
    """Without those that verify."""
    return [line for line in lines() if not line.startswith(VERIFY)]


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
    for name in ("sh", "dirname", "openssl", "mktemp", "rm", "sed"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    walk = [str(ROOT / "deploy/playground/walk")]
    done = subprocess.run(walk, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.findall(r"^× (\w+) is missing: \S+", done.stdout, re.MULTILINE) == ["docker", "k3d", "kubectl", "helm", "linkerd"]
    assert "√ openssl" in done.stdout and "make demo" in done.stdout


@pytest.mark.parametrize("by", [("dash",), ("bash", "--posix")], ids=["dash", "bash"])
def test_the_walk_prints_the_documents_commands_in_order(tmp_path: Path, by: tuple[str, ...]) -> None:
    done = walk(tmp_path, "--print", by=by)
    printed = [line.removeprefix("+ ") for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert printed == [" ".join(line.split()) for line in lines()]


def test_each_step_is_verified() -> None:
    """Between two commands that change the mesh there is a verification, and the machine is Ready before color is scaled down."""
    found = lines()
    assert found[-1].startswith(VERIFY)
    for number, line in enumerate(found):
        if line.startswith("docker run"):
            (name,) = re.findall(r"--name=(\S+)", line)
            (group,) = re.findall(r"WORKLOAD_NAME=(\S+)", line)
            assert found[number + 1] == f"{VERIFY}machine {name} {group}"
        if line.startswith(("kubectl scale", "kubectl delete", "helm upgrade", "sed ")):
            assert found[number + 1].startswith(VERIFY)
    words = [" ".join(line.split()[:3]) for line in found]
    assert words.index(f"{VERIFY}linkerd") < words.index("helm upgrade --install")
    assert words.index(f"{VERIFY}crd") > words.index("kubectl apply -f")


def test_the_verifications_are_the_ones_there_are(tmp_path: Path) -> None:
    said = run(tmp_path, "verify", "--help").stdout
    known = re.findall(r"^([a-z-]+)[ A-Z.]*  \S", said, re.MULTILINE)
    assert {line.split()[1] for line in lines() if line.startswith(VERIFY)} == set(known) - {"verify"}
    assert run(tmp_path, "verify", "nothing").returncode == 64


@pytest.mark.parametrize("words", [("--no-such",), ("--timeout",), ("--timeout", "soon"), ("--network", "kind"), ("teardwon",)])
def test_a_wrong_option_is_one_line_and_exit_64(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = walk(tmp_path, *words)
    assert done.returncode == 64 and done.stdout.startswith("walk: ") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("image", ["controller", "localhost:5000/controller", "one/controller@sha256:00", "a:b; rm:c", "a:b:c"])
def test_an_image_without_a_name_and_a_tag_is_one_line_and_exit_64(tmp_path: Path, image: str) -> None:
    done = walk(tmp_path, "--existing", "--controller-image", image)
    assert done.returncode == 64 and done.stdout.count("\n") == 1
    assert done.stdout.startswith("walk: --controller-image takes NAME:TAG")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_for_any_posix_shell(name: str) -> None:
    """And for awk, sed and grep of any maker: without what only GNU's have."""
    path = ROOT / "deploy/playground" / name
    for shell in (["dash"], ["bash", "--posix"]):
        subprocess.run([*shell, "-n", str(path)], check=True)
    gnu = re.compile(
        r"\[\[ |<<<|\bpipefail\b|^\s*local |\bRS=|\bsed -[ri]|\bgrep -P|\breadlink -f|\bmktemp --|\bdate -d|\\b|^\s*timeout "
    )
    for line in path.read_text().splitlines():
        assert line.lstrip().startswith("#") or not gnu.search(line), line


def run(folder: Path, name: str, *words: str, by: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*by, str(ROOT / "deploy/playground" / name), *words]
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def walk(folder: Path, *words: str, by: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "k3d").write_text("#!/bin/sh\nexit 1\n")
    (folder / "k3d").chmod(0o755)
    return run(folder, "walk", *words, by=by)


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
