"""What a person types who does not know the command yet; and sentences of its answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import __version__, cli, status_cli
from harness.config import environment, load
from harness.daemon import waiting
from harness.errors import ConfigError
from harness.paths import Paths
from tests.mesh import ROOT


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    return int(end.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("verb", [(), ("plan",), ("proxy", "install")], ids=" ".join)
def test_help_is_a_word_too(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "help", *verb) == said(capsys, *verb, "--help")


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"meshexp-harness {__version__}\n", "")


@pytest.mark.parametrize("words", [(), ("--instance", "color")], ids=" ".join)
def test_the_name_alone_tells_all_and_is_no_mistake(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *words) == said(capsys, "--help")


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (("statsu",), "there is no verb 'statsu'; did you mean status?"),
        (("help", "statsu"), "there is no verb 'statsu'; did you mean status?"),
        (("proxy", "instal"), "there is no verb 'instal'; did you mean install?"),
        (("Redirect", "show"), "there is no verb 'Redirect'; did you mean redirect?"),
        (("status", "-o", "jsn"), "there is no -o/--output 'jsn'; did you mean json?"),
        (("status", "-o", "1"), "there is no -o/--output '1'; there are text, json"),
        (("status", "--wathc"), "not known here: --wathc; did you mean --watch?"),
        (("status", "--wat"), "not known here: --wat; did you mean --wait?"),
        (("proxy", "list", "--outptu=json"), "not known here: --outptu=json; did you mean --output?"),
        (("version", "now"), "not known here: now"),
    ],
    ids=" ".join,
)
def test_a_mistyped_word(words: tuple[str, ...], guess: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = said(capsys, *words)
    assert (code, out) == (64, "") and error.splitlines()[-1].partition(": ")[2] == guess


def test_a_mistyped_instance(tmp_path: Path) -> None:
    """It may be the name of one that has been there, so the verb goes on."""
    (tmp_path / "instances/color").mkdir(parents=True)
    (tmp_path / "instances/color/harness.yaml").touch()
    environment = os.environ | {f"MESHEXP_{name}_DIR": str(tmp_path) for name in ("CONFIG", "STATE", "RUN")}
    command = [sys.executable, "-m", "harness", "status", "--instance"]
    for name, guess in (("colr", True), ("color", False), ("x", False)):  # `x` is like no name
        done = subprocess.run([*command, name], capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 1 and ("did you mean color?" in done.stderr) == guess


def test_an_instance_that_was_never_there(tmp_path: Path) -> None:
    environment = os.environ | {f"MESHEXP_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "STATE", "RUN")}
    command = [sys.executable, "-m", "harness", "--instance", "x", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert "no workload 'x' is configured on this machine; there is none but the first" in done.stderr


@pytest.mark.parametrize("group", [("proxy",), ("redirect",), ("config",), ("ca",)], ids=" ".join)
def test_who_says_no_verb_is_told_all(group: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _, told, _ = said(capsys, *group, "--help")
    code, nothing, error = said(capsys, *group)
    assert (code, nothing) == (64, "") and error.startswith(told)


def test_no_proxy_is_installed(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "MESHEXP_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "harness", "proxy", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout == "none is installed; next: `meshexp proxy install --from FILE|REFERENCE`\n"


def test_further_lines_of_a_condition_stand_below_its_first() -> None:
    condition: dict[str, Any] = {"name": "Configuration", "status": "False", "message": "1 fault\n  a: b", "problem": None}
    assert status_cli.text({"phase": "Waiting", "conditions": [condition]}).splitlines()[1:3] == [
        "× Configuration 1 fault",
        "                  a: b",
    ]


def test_what_to_set_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"set \w+.group and |set WORKLOAD_NAME and WORKLOAD_NAMESPACE"):
        load.load(paths, {})
    with pytest.raises(ConfigError, match=r"missing \(set (workload\.namespace|WORKLOAD_NAMESPACE) in"):
        load.load(paths, {"MESHEXP_WORKLOAD_GROUP": "face"})
    on_a_machine, in_a_container = (load.how_to_set("workload", paths, in_container=answer) for answer in (False, True))
    assert on_a_machine.startswith(f"set workload.group and workload.namespace in {tmp_path}/etc/harness.yaml, or ")
    assert in_a_container.startswith("set WORKLOAD_NAME and WORKLOAD_NAMESPACE in the container's environment, or ")


def test_a_container_is_known_by_its_marks(tmp_path: Path) -> None:
    assert not environment.in_container({}, tmp_path)
    assert environment.in_container({"container": "podman"}, tmp_path)
    for mark in (".dockerenv", "run/.containerenv"):
        root = tmp_path / mark.rpartition(".")[2]
        (root / mark).parent.mkdir(parents=True)
        (root / mark).touch()
        assert environment.in_container({}, root)


@pytest.mark.parametrize(("instance", "unit"), [("", "meshexp-harness"), ("color", "meshexp-harness@color")])
def test_who_waits_says_the_command_that_goes_on(
    instance: str, unit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run", instance=instance)
    for error in (None, ConfigError((), "the configuration")):
        waiting._tell(paths, error)
        assert f"`systemctl reload {unit}`" in status_cli.read(paths)["message"]
        assert capsys.readouterr().err.startswith("waiting: " if error else "waiting for configuration: run `meshexp join")
        assert not status_cli.text(status_cli.read(paths)).lower().startswith("waiting: waiting")


@pytest.mark.parametrize(
    "script",
    [
        "packaging/deb/build", "packaging/rpm/build", "packaging/release", "deploy/playground/certs", "deploy/playground/walk",
        "docker/build",
    ],
)  # fmt: skip
def test_a_script_does_not_begin_its_work_at_a_word_that_it_does_not_know(script: str) -> None:
    def run(word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ROOT / script, word], capture_output=True, text=True, check=False, timeout=60)

    assert (asked := run("--help")).returncode == 0 and asked.stdout.startswith(script.rsplit("/", maxsplit=1)[-1])
    assert (wrong := run("--nonsense")).returncode == 64 and 'there is no "--nonsense"' in wrong.stderr and not wrong.stdout
