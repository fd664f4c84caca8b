"""How commands end whose output nobody takes, and what they print of hostile files and arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.check import report
from harness.check_problems import CONFIG_INVALID
from harness.config import load
from harness.errors import ConfigError
from harness.paths import Paths
from harness.system import cordon

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, module: str, *words: str, into: str = "") -> subprocess.CompletedProcess[bytes]:
    """`into`: what follows the command there."""
    places = {f"MESHEXP_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "STATE", "RUN")}
    argv = [sys.executable, "-m", module, *words]
    if into:
        argv = ["bash", "-c", f'"$@" {into}', "bash", *argv]
    return subprocess.run(argv, capture_output=True, cwd=ROOT, env=os.environ | places, timeout=60, check=False)


COMMANDS = (("harness", "explain"), ("harness", "status"), ("harness", "explain", "-o", "json"), ("controller", "version"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(tmp_path, *command, into=">/dev/full")
    assert (done.returncode, done.stderr) == (69, b"the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_an_output_the_exit_code_is_the_same(tmp_path: Path, command: tuple[str, ...]) -> None:
    closed, whole = run(tmp_path, *command, into=">&-"), run(tmp_path, *command)
    assert (closed.returncode, closed.stderr) == (whole.returncode, whole.stderr)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_makes_no_success(tmp_path: Path, command: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, timeout=60, check=False
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [("status", "--wait"), ("drain", "--timeout"), ("check", "--wait"), ("join", "x", "--wait")])
@pytest.mark.parametrize("value", ["nan", "-1", "soon"])
def test_what_is_no_time_is_not_waited_for(tmp_path: Path, words: tuple[str, ...], value: str) -> None:
    done = run(tmp_path, "harness", *words[:-1], f"{words[-1]}={value}")
    assert done.returncode == 64 and b"is not a number of seconds" in done.stderr


CORDONS = {
    "endless": '{"reason": "x", "since": 1e400}',
    "far": '{"reason": "x", "since": 1e18}',
    "before all": '{"reason": "x", "since": -1e17}',
    "no text": '{"reason": ["x"], "since": 1}',
    "commands": json.dumps({"reason": "\x1b[31mx\n√ all is well", "since": 1}),
    "half a character": '{"reason": "\\ud800", "since": 1}',
    "no mapping": "[]",
}


@pytest.mark.parametrize("name", CORDONS)
def test_whatever_a_cordon_says_it_is_one_line(tmp_path: Path, name: str) -> None:
    paths = Paths(state=tmp_path / "state")
    paths.state.mkdir()
    paths.cordon.write_text(CORDONS[name])
    found = cordon.read(paths.cordon)
    assert found is not None and found.reason.isprintable()
    found.reason.encode()  # raises for half a character
    done = run(tmp_path, "harness", "uncordon")
    assert done.returncode == 0 and b"Traceback" not in done.stderr and not paths.cordon.exists()


@pytest.mark.parametrize("text", ["a\0b", "a\x1b[31m", "a\nb", "\ud800"], ids=ascii)
@pytest.mark.parametrize("place", [{"proxy": {"user": 0}}, {"workload": {"users": [0]}}, {"proxy": {"env": {"0": "x"}}}], ids=str)
def test_no_key_of_the_configuration_takes_control_characters(tmp_path: Path, place: object, text: str) -> None:
    said = (
        json.dumps(place)
        .replace('"0"', json.dumps(text))
        .replace(" 0", f" {json.dumps(text)}")
        .replace("[0", f"[{json.dumps(text)}")
    )
    (tmp_path / "harness.yaml").write_text(said)
    with pytest.raises(ConfigError, match="control character"):
        load.load(Paths(config=tmp_path), {})
    with pytest.raises(ConfigError, match=r"PROXY|proxy.user.*\[environment\]"):
        load.load(Paths(config=tmp_path / "none"), {"MESHEXP_PROXY_USER": text})


def test_certificates_and_scripts_have_lines(tmp_path: Path) -> None:
    anchors = {"LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS": "-----BEGIN\nMII\n-----END\n"}
    script = ["/bin/sh", "-c", "if true; then\n\texit 0\nfi\n"]
    said = {"workload": {"group": "g", "namespace": "n"}, "proxy": {"env": anchors}, "probes": {"commands": {"ready": script}}}
    (tmp_path / "harness.yaml").write_text(json.dumps(said))
    found = load.load(Paths(config=tmp_path), {})
    assert found.proxy.env == anchors
    assert found.probes.commands == {"ready": tuple(script)}
    (tmp_path / "harness.yaml").write_text(json.dumps(said).replace("MII", "\\u001b").replace("exit", "\\u0000"))
    with pytest.raises(ConfigError, match="control character") as refused:
        load.load(Paths(config=tmp_path), {})
    assert {f"proxy.env.{next(iter(anchors))}", "probes.commands.ready[2]"} <= {fault.path for fault in refused.value.faults}


def test_a_program_with_a_name_that_is_too_long_is_none(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    path = {"workload": {"group": "g", "namespace": "n"}, "proxy": {"path": "/" + "a" * 5000}}
    (tmp_path / "config/harness.yaml").write_text(json.dumps(path))
    done = run(tmp_path, "harness", "config", "check")
    assert done.returncode == 78 and b"is no program on this machine" in done.stderr


def test_nothing_from_outside_looks_like_another_check() -> None:
    judge = report.Judge("meshexp-machine")
    hostile = "x\x1b[2J\n√ all is well"
    results = (judge.passed(hostile), judge.skipped(hostile, hostile), judge.failed(hostile, CONFIG_INVALID, hostile))
    lines = report.table(results, colour=False).split("\n")
    assert [line for line in lines if line.startswith("√")] == ["√ x?[2J"]
    assert not any("\x1b" in line for line in lines)
