"""docker/build without an engine: what it asks the engine for, in every POSIX shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness import __version__
from tests.mesh import ROOT

BUILD = str(ROOT / "docker/build")
SUMS = {"a": "a" * 64, "b": "b" * 64}
# Answers as the engine does. What it was asked is in a file, without the folders that have a new name each time.
ENGINE = """#!/bin/sh
echo "$*" | sed "s|/tmp/[^ ]*/|TMP/|g" >>{folder}/calls
case $1 in
  pull) [ ! -e {folder}/unreachable ] || {{ echo "no route to the registry" >&2; exit 1; }} ;;
  image) printf 'other.example/x@sha256:{other}\\n%s@sha256:{sum}\\n' "${{5%:*}}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """With docker/build and what it reads; it may write there."""
    made = tmp_path / "checkout"
    for name in ("docker/build", "harness/__init__.py"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes((ROOT / name).read_bytes())
    (made / "docker/programs").mkdir()
    engine(tmp_path, SUMS["a"])
    return made


def engine(folder: Path, digest: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/docker").write_text(ENGINE.format(folder=folder, sum=digest, other=SUMS["b"]))
    (folder / "bin/docker").chmod(0o755)


def build(checkout: Path, *words: str, shell: tuple[str, ...] = ("sh",)) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{checkout.parent}/bin:{os.environ['PATH']}"}
    command = [*shell, str(checkout / "docker/build"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def calls(checkout: Path) -> list[str]:
    made = checkout.parent / "calls"
    return made.read_text().splitlines() if made.exists() else []


@pytest.mark.parametrize("shell", [("dash",), ("bash", "--posix")], ids=" ".join)
def test_every_shell_asks_for_the_same(checkout: Path, shell: tuple[str, ...]) -> None:
    words = ("--base", "trixie", "--controller-base", "other", "--package-base", "mine", "--flags", "--network=host --no-cache")
    done = build(checkout, *words, shell=shell)
    assert done.returncode == 0, done.stderr
    flags = "build --network=host --no-cache"
    programs = " ".join(
        f"--build-arg {name}={image}@sha256:{SUMS['a']}"
        for name, image in (
            ("SPIRE_SERVER", "ghcr.io/spiffe/spire-server:1.13.3"),
            ("SPIRE_AGENT", "ghcr.io/spiffe/spire-agent:1.13.3"),
            ("LINKERD_PROXY", "cr.l5d.io/linkerd/proxy:edge-26.8.3"),
        )
    )
    base, faces, controller = "demo-external-base", "faces-external-workload", "meshexp-controller"
    assert [call for call in calls(checkout) if call.startswith("build")] == [
        f"{flags} --tag meshexp-package --build-arg BASE=mine --file docker/meshexp-package/Dockerfile .",
        f"{flags} --tag meshexp-programs {programs} docker/programs",
        f"{flags} --tag {base} --tag {base}:{__version__} --file docker/{base}/Dockerfile --build-arg BASE=trixie"
        f" --build-arg PACKAGE=meshexp-package --build-arg PROGRAMS=meshexp-programs docker/{base}",
        f"{flags} --tag {faces} --tag {faces}:{__version__} --file docker/{faces}/Dockerfile --build-arg BASE={base} .",
        f"{flags} --tag {controller} --tag {controller}:{__version__} --file docker/{controller}/Dockerfile"
        " --build-arg BASE=other .",
    ]


def test_the_digests_of_the_first_build_are_those_of_the_next(checkout: Path) -> None:
    digests = checkout / "docker/programs/digests"
    assert build(checkout, "demo-external-base").returncode == 0
    pinned = digests.read_text()
    assert [line.partition("@")[2] for line in pinned.splitlines()] == [f"sha256:{SUMS['a']}"] * 3
    assert sum(call.startswith("pull") for call in calls(checkout)) == 3
    engine(checkout.parent, SUMS["b"])  # the tags name other images now
    first = [call for call in calls(checkout) if "meshexp-programs " in call]
    assert build(checkout, "demo-external-base").returncode == 0
    assert digests.read_text() == pinned and sum(call.startswith("pull") for call in calls(checkout)) == 3
    assert [call for call in calls(checkout) if "meshexp-programs " in call] == first * 2


def test_a_new_version_of_a_program_is_not_held_back_by_the_old_digest(checkout: Path) -> None:
    (checkout / "docker/programs/digests").write_text(f"ghcr.io/spiffe/spire-server:1.0.0@sha256:{SUMS['b']}\n")
    assert build(checkout, "demo-external-base").returncode == 0
    assert f"spire-server:1.13.3@sha256:{SUMS['a']}" in "\n".join(calls(checkout))


def test_a_registry_that_does_not_answer_ends_the_build_and_is_not_written_down(checkout: Path) -> None:
    (checkout.parent / "unreachable").touch()
    done = build(checkout, "demo-external-base")
    assert done.returncode != 0 and "no route to the registry" in done.stderr
    assert not (checkout / "docker/programs/digests").exists()
    assert "meshexp-programs" not in "\n".join(calls(checkout))


def test_git_ignores_the_digests_of_a_checkout() -> None:
    assert "/docker/programs/digests" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo-external-base", "demo-base"), 'there is no image "demo-base"'),
        (("meshexp-controller", "--k3d", "c"), 'there is no image "--k3d"'),
        (("--base",), "--base needs a value"),
    ],
)
def test_nothing_is_built_for_a_word_that_it_does_not_know(checkout: Path, words: tuple[str, ...], said: str) -> None:
    done = build(checkout, *words)
    assert done.returncode == 64 and said in done.stderr and calls(checkout) == []


def test_a_package_that_is_not_there_is_named_first(checkout: Path) -> None:
    done = build(checkout, "--package", "dist/none.deb")
    assert (done.returncode, done.stderr, calls(checkout)) == (66, "docker/build: there is no package dist/none.deb\n", [])


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    for name in ("dirname", "sed"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(["/bin/sh", BUILD], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (69, "docker/build: docker is not on PATH: a container engine is needed\n")
