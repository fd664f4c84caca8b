"""Words that come from elsewhere never become options of a command that we run."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, TemporaryError, UnavailableError
from harness.system import commands

HARNESS = Path(commands.__file__).parents[1]
STARTS = re.compile(r"subprocess\.(run|Popen|check_|call)|create_subprocess_")
# Where a process is started that is none of the table's: a child that is watched over, a program of ours, or the operator's own.
STARTERS = {
    "system/commands.py", "system/process.py", "system/iptables.py", "system/iptables_guard.py", "system/probe_exec.py",
    "system/proxy_binary.py", "system/exec_try.py", "join_start.py", "proxy_cli.py", "logs_cli.py", "container_cli.py",
}  # fmt: skip


@pytest.mark.parametrize("program", commands.KNOWS_END)
@pytest.mark.parametrize("word", ["--address=unixexec:path=/usr/bin/touch", "-h", "--x", "-"])
def test_a_foreign_word_is_never_an_option(program: str, word: str) -> None:
    try:
        words = commands.line(program, ("--quiet",), ("first", word))
    except UnavailableError as error:
        assert not commands.KNOWS_END[program] and program in error.message
        return
    assert words == (program, "--quiet", "--", "first", word)


@pytest.mark.parametrize(
    ("program", "options", "foreign"),
    [
        ("systemctl", ("show", "--property=LoadState"), ("--version",)),
        ("systemctl", ("list-jobs", "--no-legend"), ("--help",)),
        ("busctl", ("--json=short",), ("call", "--address=unixexec:path=/usr/bin/touch,argv1={marker}", "/", "a.b", "M")),
        ("busctl", ("--json=short",), ("--address=unixexec:path=/usr/bin/touch,argv1={marker}", "list")),
    ],
)
def test_the_programs_themselves_take_it_for_no_option(
    tmp_path: Path, program: str, options: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    """A program that took it would print its help or version with status 0, or run the command in it."""
    assert shutil.which(program), "systemd's tools are among what the tests need"
    marker = tmp_path / "marker"
    words = tuple(word.format(marker=marker) for word in foreign)
    done = asyncio.run(commands.run(program, *options, foreign=words))
    assert done.code != 0 or "LoadState" in done.text or not done.text.strip(), done
    assert not marker.exists()


def test_each_program_is_in_the_table() -> None:
    with pytest.raises(KeyError):
        commands.line("unknown", (), ())


def test_only_the_runner_and_the_watchers_start_programs() -> None:
    found = {str(path.relative_to(HARNESS)) for path in HARNESS.rglob("*.py") if STARTS.search(path.read_text())}
    assert found - STARTERS == set(), "run it by harness/system/commands.py"


def stub(folder: Path, text: str) -> str:
    """A program whose name is in the table."""
    path = folder / "openssl"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_what_says_too_much_or_nothing_is_ended(tmp_path: Path) -> None:
    endless = stub(tmp_path, "import sys\nwhile True: sys.stdout.write('x' * 65536)\n")
    with pytest.raises(UnavailableError, match="more than 100000 bytes"):
        asyncio.run(commands.run(endless, most=100_000))
    silent = stub(tmp_path, "import time\ntime.sleep(600)\n")
    with pytest.raises(TemporaryError, match="no answer within"):
        asyncio.run(commands.run(silent, seconds=0.3))
    with pytest.raises(TemporaryError, match="no answer within"):
        commands.run_blocking(silent, seconds=0.3)


def test_what_it_says_of_a_failure_is_the_reason(tmp_path: Path) -> None:
    failing = stub(tmp_path, "import sys\nprint('out')\nsys.exit('why')\n")
    done = asyncio.run(commands.run(failing))
    assert (done.code, done.text, done.reason) == (1, "out\n", "why")
    assert commands.run_blocking(failing) == done
    with pytest.raises(HarnessError, match="not installed"):
        asyncio.run(commands.run(str(tmp_path / "gone" / "openssl")))
