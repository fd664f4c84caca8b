"""Files that somebody has put in the place of ours: each reader ends, and says what is wrong."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import reading, yaml_text
from harness.config import load
from harness.errors import ConfigError, HarnessError, UnreadableError
from harness.paths import Paths
from harness.system import files, proxy_binary, proxy_source, redirect_exclusions


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a pipe": (lambda path: os.mkfifo(path), "it is a pipe"),
    "a socket": (socket_at, "it is a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "it is a device"),
    "huge": (huge, "it has more than 1048576 bytes"),
    "a loop": (lambda path: path.symlink_to(path), "levels of symbolic links"),
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    make, reason = WRONG[request.param]
    path = tmp_path / "x.yaml"
    make(path)
    return path, reason


def test_the_reason_is_told(wrong: tuple[Path, str]) -> None:
    path, reason = wrong
    with pytest.raises(OSError, match=reason) as caught:
        reading.text(path)
    assert caught.value.strerror
    with pytest.raises(HarnessError, match=reason):
        files.bounded(path)
    assert files.read_json(path) == {}
    for read in (files.text, files.read_line):
        if reason == "No such file":
            assert read(path) is None
        else:
            with pytest.raises(UnreadableError, match=reason):
                read(path)


def test_a_configuration_of_that_kind_is_a_fault(tmp_path: Path, wrong: tuple[Path, str]) -> None:
    path, reason = wrong
    (tmp_path / "etc/harness.d").mkdir(parents=True)
    (tmp_path / "etc/harness.yaml").write_text("workload: {group: face, namespace: faces}")
    (tmp_path / "etc/harness.d/50-x.yaml").symlink_to(path)
    if reason.startswith("No such"):
        assert load.load(Paths(config=tmp_path / "etc"), {}).workload.group == "face"
        return
    with pytest.raises(ConfigError, match=reason):
        load.load(Paths(config=tmp_path / "etc"), {})


def test_a_program_of_that_kind_is_not_waited_for(wrong: tuple[Path, str]) -> None:
    path, reason = wrong
    assert proxy_binary.problem_of(path) is None, "the attempt to start it says why"
    if "more than" not in reason:
        with pytest.raises(HarnessError, match=reason), proxy_source.opened(str(path), insecure=False):
            pass


def test_the_configuration_of_sshd_is_no_reason_to_stay_out(tmp_path: Path, wrong: tuple[Path, str]) -> None:
    path, reason = wrong
    folder = tmp_path / "etc/ssh/sshd_config.d"
    folder.mkdir(parents=True)
    (folder / "10-x.conf").symlink_to(path)
    (folder / "20-port.conf").write_text("Port 2222\n")
    ports, unread = redirect_exclusions.configured_ssh_ports(tmp_path)
    assert ports == {2222} and (reason in unread.message if unread else reason == "No such file")


def test_a_lock_that_is_no_file_is_held_by_nobody(wrong: tuple[Path, str]) -> None:
    assert not files.is_locked(wrong[0])


ALIASES = "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "x0: &x0 {a: 1}\n" + "".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}\n" for i in range(1, 10))
VALUES = {
    "a date that is none": "a: 2026-02-30",
    "a key that is a list": "? [a]\n: 1",
    "a key that is a mapping": "? {a: 1}\n: 1",
    "no truth": "a: !!bool x",
    "no number": "a: !!int ''",
    "no time": "a: !!timestamp x",
    "a number of many digits": f"a: {'9' * 5000}",
    "deep": "[" * 100_000,
    "deep values": "a: " + "[" * 100 + "]" * 100,
    "itself": "workload: &x {group: *x}",
    "aliases of aliases": ALIASES,
    "merges of merges": MERGES,
    "a merge of itself": "a: &x {<<: *x}",
    "a long number to the base 60": f"a: {':'.join(['59'] * 100_000)}",
    "such a number as a key": f"{':'.join(['5'] * 300)}: a",
    "a byte that is no text": "a: \x00",
}


@pytest.mark.parametrize("name", VALUES)
def test_any_text_is_values_or_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "harness.yaml").write_text(VALUES[name])
    with pytest.raises(ConfigError, match=r"is not YAML|nested too deeply|does not allow|more than"):
        load.load(Paths(config=tmp_path), {})
    with pytest.raises(ValueError, match=r"^(is|has) "):
        yaml_text.documents(VALUES[name])
