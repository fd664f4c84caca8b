"""status.json as anybody may have written it: an error in a sentence, never a crash, and never Ready."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import status_cli, status_fields
from harness.system import snapshot_reader
from tests.snapshots import snapshot


def read(file: Path, data: object) -> dict[str, Any]:
    """What the reader makes of it, and what `meshexp status` prints."""
    file.write_text(json.dumps(data))
    found = snapshot_reader.read(file)
    assert status_cli.text(found)
    assert isinstance(status_cli.wrong_here(found), tuple)
    return found


def test_a_whole_one_is_what_was_written(tmp_path: Path) -> None:
    data = snapshot()
    assert read(tmp_path / "status.json", data) == data


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in there, however deep."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    data: Any = snapshot()
    where = data
    for key in path[:-1]:
        where = where[key]
    change(where, path[-1])
    return dict(data)


def put(value: object, where: Any, key: Any) -> None:
    where[key] = value


def take_out(where: Any, key: Any) -> None:
    del where[key]


@pytest.mark.parametrize("path", list(places(snapshot())), ids=str)
def test_what_is_of_another_kind_or_missing_is_named(tmp_path: Path, path: tuple[Any, ...]) -> None:
    file = tmp_path / "status.json"
    nonsense: tuple[Any, ...] = ([[]], {"x": {"y": 1}}, True, -1e999, "\ud800", None)
    for value in nonsense:
        read(file, changed(path, functools.partial(put, value)))
    found = read(file, changed(path, functools.partial(put, [{"no": "such kind"}])))
    assert (found["phase"], found["ready"]) == ("Unknown", False)
    assert " is no " in found["message"] or " is missing" in found["message"]
    read(file, changed(path, take_out))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(max_examples=100, deadline=None)
def test_any_other_json_is_an_error(data: object) -> None:
    assert status_fields.fault(data)


FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_text(""),
    "a directory": lambda file: file.mkdir(),
    "a pipe that nobody writes to": lambda file: os.mkfifo(file),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "huge": lambda file: file.write_text('{"phase": "' + "x" * (2 << 20) + '"}'),
    "nested": lambda file: file.write_text("[" * 500_000),
    "a nested value": lambda file: file.write_text('{"phase": ' * 100_000),
    "not UTF-8": lambda file: file.write_bytes(b'{"phase": "\xff"}'),
    "not JSON": lambda file: file.write_text("Ready"),
    "no number": lambda file: file.write_text('{"pid": NaN}'),
    "a number of many digits": lambda file: file.write_text('{"pid": ' + "9" * 10_000 + "}"),
    "no mapping": lambda file: file.write_text("[]"),
    "a loop": lambda file: file.symlink_to(file),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_snapshot_is_an_error(tmp_path: Path, name: str) -> None:
    file = tmp_path / "status.json"
    FILES[name](file)
    found = snapshot_reader.read(file)
    assert (found["phase"], found["ready"]) == ("Unknown", False)
    assert found["message"].startswith(f"{file} cannot be read: ")
    assert status_cli.text(found).startswith("Unknown: ")
    assert status_cli.wrong_here(found) == ("the daemon",)


@pytest.mark.parametrize("pid", [0, -1, 1.5, 2**22 + 1, 2**70])
def test_what_is_no_pid_is_an_error(tmp_path: Path, pid: float) -> None:
    assert read(tmp_path / "status.json", snapshot() | {"pid": pid})["phase"] == "Unknown"


def test_no_file_is_no_daemon(tmp_path: Path) -> None:
    found = snapshot_reader.read(tmp_path / "status.json")
    assert (found["phase"], found["message"]) == ("Stopped", "no meshexp-harness runs here")


def test_a_process_that_began_at_another_time_is_another(tmp_path: Path) -> None:
    data = snapshot()
    assert read(tmp_path / "status.json", data | {"pid_started": data["pid_started"] - 1})["phase"] == "Stopped"


def test_a_daemon_that_waits_for_its_configuration_says_little(tmp_path: Path) -> None:
    data = {"phase": "Waiting", "ready": False, "message": "waiting for configuration", "pid": os.getpid()}
    assert read(tmp_path / "status.json", data) == data
    assert status_cli.wrong_here(data) == ("the configuration",)


@pytest.mark.parametrize("field", ["uptime", "valid_seconds"])
def test_a_number_that_is_too_large_is_a_fault(tmp_path: Path, field: str) -> None:
    data = snapshot()
    data["written"] |= {field: 10**400}
    assert read(tmp_path / "status.json", data)["phase"] == "Unknown"


def test_a_message_commands_no_terminal(tmp_path: Path) -> None:
    """Some are what the controller or the application has answered."""
    data = snapshot()
    data |= {"message": "\x1b[2J\x9b31m\r\x07"}
    data["conditions"][0] |= {"message": "two\nlines\x1b]0;title\x07"}
    text = status_cli.text(data)
    assert not {"\x1b", "\x9b", "\x07", "\r"} & set(text) and re.search(r"two\n +lines", text)
