"""What each of docker/'s images promises, without a mesh."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import __version__
from tests.container.conftest import PROGRAMS
from tests.container.images import BASE, CONTROLLER, FACES, MINIMAL, PLAIN, build, with_busybox
from tests.container.playground import Playground
from tests.linkerd_lab_cluster import TRUST_DOMAIN
from tests.mesh import ROOT, certificates
from tests.package.root import sh
from tests.waiting import wait


def alone(
    playground: Playground, image: str, *words: str, env: dict[str, str] | None = None, command: tuple[str, ...] = ()
) -> tuple[int, str]:
    given = [word for key, value in (env or {}).items() for word in ("-e", f"{key}={value}")]
    return playground.engine.run("run", "--rm", "--network=none", *given, *words, image, *command)


def test_sizes(playground: Playground) -> None:
    """All that a minimal Debian lacked is in it."""
    engine = playground.engine
    print(f"{PLAIN}: {engine.mib(PLAIN) * 2**20 / 1e6:.1f} MB")
    assert engine.mib(PLAIN) * 2**20 < 150e6
    assert engine.mib(FACES) - engine.mib(BASE) < 1


def test_a_base_that_has_what_is_needed_builds_without_a_network(playground: Playground, programs: Path, tmp_path: Path) -> None:
    """And without a package that was left over: apt installs ours alone."""
    (tmp_path / "Dockerfile").write_text(f"FROM {PLAIN}\nRUN apt-get remove -q=2 -y meshexp-harness && userdel workload\n")
    playground.engine.do("build", "--network=none", "--tag", "debian-prepared", str(tmp_path))
    package = ROOT / sh(str(ROOT / "packaging/deb/build")).split()[-1]
    given = ("--base", "debian-prepared", "--programs", str(programs), "--package", str(package), "--flags", "--network=none")
    playground.engine.do("tag", BASE, "kept")
    try:
        build(playground.engine, *given, BASE)
        assert alone(playground, BASE, "--entrypoint=meshexp", command=("version",)) == (0, f"meshexp-harness {__version__}\n")
    finally:
        playground.engine.do("tag", "kept", BASE)


def described(package: Path) -> str:
    """What a package says of itself, its scripts, and its files with their modes and sums; not when it was built."""
    control = sh("sh", "-ec", 'cd "$(mktemp -d)"; dpkg-deb -e "$0" .; tail -n +1 *; rm -r "$PWD"', str(package))
    listed = [line.split(maxsplit=5) for line in sh("dpkg-deb", "-c", str(package)).splitlines()]
    return control + "\n".join(f"{mode} {owner} {size} {name}" for mode, owner, size, _, _, name in listed)


def test_the_package_out_of_the_container_is_that_of_make_deb(playground: Playground, tmp_path: Path) -> None:
    made = tmp_path / "meshexp-harness.deb"
    name = playground.engine.do("create", "meshexp-package", "nothing").strip()
    playground.engine.do("cp", f"{name}:/{made.name}", str(made))
    playground.engine.do("rm", name)
    package = ROOT / sh(str(ROOT / "packaging/deb/build")).split()[-1]
    assert "./usr/lib/meshexp-harness/harness/cli.py" in described(made)
    assert described(made) == described(package)


def test_there_is_no_tool_of_debian_or_gnu_where_images_are_built(playground: Playground) -> None:
    """What the images of these tests are built with."""
    names = "bash apt-get dpkg dpkg-deb dh debuild install-info python3 perl make git"
    assert with_busybox(playground.engine, "-c", f"command -v {names}") == (127, "")
    for name in ("cp", "find", "sed", "mktemp"):
        assert "BusyBox" in with_busybox(playground.engine, "-c", f"{name} --help")[1].splitlines()[0]


def test_only_sources_are_sent_to_the_engine(playground: Playground, tmp_path: Path) -> None:
    """Neither keys, nor history, nor what was built: an engine may be on another machine, and keeps what it got."""
    checkout = tmp_path / "checkout"
    sources = {
        "harness/cli.py",
        "harness/system/a.py",
        "controller/page/fleet.js",
        "demo/faces/page.html",
        "docs/join.md",
        "README.md",
    }
    others = {
        "certs/ca.key", "mesh.env", ".git/config", ".venv/bin/python", "build/deb/log", "dist/a.deb", "id_rsa", "demo/proxy/a.py",
        "harness/__pycache__/a.pyc", "controller/kubernetes/__pycache__/a.pyc", "docker/programs/digests",
        "deploy/chart/values.yaml",
    }  # fmt: skip
    for name in sources | others:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    shutil.copy(ROOT / ".dockerignore", checkout)
    (tmp_path / "Dockerfile").write_text(f"FROM {MINIMAL}\nCOPY . /sent/\n")
    playground.engine.do("build", "--tag", "sent", "--file", str(tmp_path / "Dockerfile"), str(checkout))
    sent = alone(playground, "sent", command=("find", "/sent", "-type", "f", "-printf", "%P\n"))[1]
    playground.engine.do("rmi", "sent")
    assert set(sent.splitlines()) == sources


@pytest.mark.parametrize("buildkit", [False, True], ids=["the classic builder", "BuildKit"])
def test_who_checked_out_does_not_decide_who_may_read(playground: Playground, tmp_path: Path, buildkit: bool) -> None:
    """With umask 077: the controller and the workload still have users of their own."""
    names = ("controller", "demo/faces", "docker", "harness", ".dockerignore")
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    sh("chmod", "-R", "go=", str(tmp_path))
    kept = [CONTROLLER, FACES]
    for image in kept:
        playground.engine.do("tag", image, f"{image}-kept")
    given = ("--controller-base", f"{CONTROLLER}-kept", "--flags", "--network=none", *kept)
    try:
        code, output = with_busybox(playground.engine, str(tmp_path / "docker/build"), *given, buildkit=buildkit)
        assert code == 0, output
        assert alone(playground, CONTROLLER, command=("version",)) == (0, f"{__version__}\n")
        words = ("--user=workload", "--entrypoint=/workload/start")
        assert "FACES_SERVICE must be" in alone(playground, FACES, *words, env={"FACES_SERVICE": "nose"})[1]
        python = ("--user=workload", "--entrypoint=python3", "--env=PYTHONPATH=/usr/lib/faces")
        assert alone(playground, FACES, *python, command=("-m", "demo.faces", "--help"))[0] == 0
    finally:
        for image in kept:
            playground.engine.do("tag", f"{image}-kept", image)


def test_the_image_explains_problems(playground: Playground) -> None:
    """A slim image has no pages of documentation."""
    code, output = alone(playground, BASE, "--entrypoint=meshexp", command=("explain", "probe-failed"))
    assert code == 0 and output.startswith("probe-failed\n")


def test_programs_come_from_the_folder_that_the_build_was_given(playground: Playground) -> None:
    for name, folder in PROGRAMS.items():
        code, output = alone(playground, BASE, f"--entrypoint={folder}/{name}")
        assert (code, output) == (0, f"{name}\n")


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"WORKLOAD_NAMESPACE": "faces"}, "WORKLOAD_NAME must be set"),
        ({"WORKLOAD_NAME": "face"}, "WORKLOAD_NAMESPACE must be set"),
        ({"WORKLOAD_NAME": "face", "WORKLOAD_NAMESPACE": "faces"}, "/opt/spire/certs/ca.crt is missing"),
    ],
)
def test_what_is_missing_is_one_line_and_exit_1(playground: Playground, env: dict[str, str], line: str) -> None:
    code, output = alone(playground, FACES, env=env)
    banner, said = output.splitlines()
    assert (code, said) == (1, line)
    assert "NOT for production" in banner


def test_without_a_key_beside_the_certificate(playground: Playground, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text((playground.certs / "ca.crt").read_text())
    env = {"WORKLOAD_NAME": "face", "WORKLOAD_NAMESPACE": "faces"}
    code, output = alone(playground, FACES, f"--volume={tmp_path}:/opt/spire/certs", env=env)
    assert (code, output.splitlines()[-1]) == (1, "/opt/spire/certs/ca.key is missing")


def test_without_a_workload_it_says_so_and_exits_1(playground: Playground) -> None:
    code, output = alone(playground, BASE)
    assert code == 1 and "There is no workload in this image" in output.splitlines()[-1]


def test_an_unknown_service_of_faces(playground: Playground) -> None:
    code, output = alone(playground, FACES, "--entrypoint=/workload/start", env={"FACES_SERVICE": "nose"})
    assert code == 1 and "FACES_SERVICE must be" in output


def test_the_controllers_image_runs_as_the_chart_runs_it(playground: Playground) -> None:
    hard = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    code, output = playground.engine.run("run", "--rm", "--network=none", *hard, "meshexp-controller", "version")
    assert (code, output.strip()) == (0, __version__)
    assert playground.engine.inspect("meshexp-controller")["Config"]["User"] == "65532:65532"


def test_the_controllers_image_serves_the_fleets_page(playground: Playground, tmp_path: Path) -> None:
    certificates(tmp_path / "certs")
    (tmp_path / "groups").mkdir()
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    given = {"tls-cert": "controller.crt", "tls-key": "controller.key", "trust-anchors": "ca.crt"}
    flags = [f"--{flag}=/given/certs/{name}" for flag, name in given.items()]
    flags += [
        f"--trust-domain={TRUST_DOMAIN}",
        "--groups=/given/groups",
        "--listen=127.0.0.1:8081",
        "--fleet-listen=127.0.0.1:9996",
    ]
    hard = ("--detach", "--network=none", "--name=fleet", f"--volume={tmp_path}:/given:ro", "--read-only", "--cap-drop=ALL")
    playground.engine.do("run", *hard, "meshexp-controller", "run", *flags)
    script = "import urllib.request as u; print(*(u.urlopen(f'http://127.0.0.1:9996/{n}').read().decode() for n in {names}))"
    read = ("exec", "fleet", "python3", "-c", script.replace("{names}", "('', 'fleet.css', 'fleet.js')"))
    wait(lambda: playground.engine.run(*read)[0] == 0, why=lambda: playground.engine.run("logs", "fleet")[1], every=0.2)
    assert "<html" in playground.engine.do(*read)
    playground.engine.do("rm", "--force", "fleet")
