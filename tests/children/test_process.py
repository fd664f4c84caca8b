"""Children are real processes: three-line scripts that exit, hang, ignore SIGTERM and flood their output."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from harness.clock import SystemClock
from harness.errors import ConfigError, TemporaryError, UnavailableError
from harness.specs import User
from harness.supervisor import State, Supervised
from harness.system import files, process
from tests.processes import with_words
from tests.waiting import wait

ROOT = Path(__file__).resolve().parents[2]
SHELL = "/bin/sh"


class Lines(list[tuple[str, str]]):
    def __call__(self, name: str, line: str) -> None:
        self.append((name, line))


def command(script: str, **options: object) -> process.Command:
    return process.Command("child", (SHELL, "-c", script), **options)  # type: ignore[arg-type]


def test_its_lines_reach_the_log_under_its_name(tmp_path: Path) -> None:
    async def run() -> tuple[int, Lines]:
        lines = Lines()
        child = await process.Processes(tmp_path, lines).spawn(command("echo one; echo two >&2; printf three; exit 3"))
        return await child.wait(), lines

    code, lines = asyncio.run(run())
    assert code == 3
    assert sorted(lines) == [("child", "one"), ("child", "three"), ("child", "two")]


def test_one_that_cannot_be_recorded_does_not_live(tmp_path: Path) -> None:
    """Nobody would find it after the daemon."""
    (tmp_path / "file").touch()

    asked = f"sleep 1000.{uuid.uuid4().int}"

    async def run() -> None:
        with pytest.raises(UnavailableError):
            await process.Processes(tmp_path / "file" / "records", Lines()).spawn(command(asked))

    asyncio.run(run())
    wait(lambda: not with_words(asked.split()[1]))


def test_a_flood_without_newlines_is_cut_and_costs_no_memory(tmp_path: Path) -> None:
    async def run() -> Lines:
        lines = Lines()
        child = await process.Processes(tmp_path, lines).spawn(command("head -c 20000000 /dev/zero | tr '\\0' x"))
        await child.wait()
        return lines

    lines = asyncio.run(run())
    assert sum(len(line) for _, line in lines) <= process.MAX_LINE_BYTES


def test_one_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    async def run() -> tuple[int, float]:
        lines = Lines()
        child = await process.Processes(tmp_path, lines).spawn(command("trap '' TERM; sleep 1000 & echo $!; wait"))
        while not lines:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        return await child.stop(0.3), time.monotonic() - began

    code, seconds = asyncio.run(run())
    assert code == -signal.SIGKILL
    assert seconds < 200
    assert not list(tmp_path.glob("*.json")), "its record is gone with it"


def test_privileges_go_before_the_program_starts(tmp_path: Path) -> None:
    async def run() -> Lines:
        lines = Lines()
        script = "id -u; id -g; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status"
        child = await process.Processes(tmp_path, lines).spawn(command(script, user=User(2102, 2102)))
        await child.wait()
        return lines

    text = [line.split() for _, line in asyncio.run(run())]
    assert text[:3] == [["2102"], ["2102"], ["2102"]]
    assert {line[0]: int(line[1], 16) for line in text[3:]} == {"CapEff:": 0, "CapBnd:": 0, "NoNewPrivs:": 1}


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    async def run() -> None:
        await process.Processes(tmp_path, Lines()).spawn(process.Command("child", ("/nonexistent",)))

    with pytest.raises(UnavailableError, match="not there"):
        asyncio.run(run())


def test_it_dies_with_its_daemon_even_by_sigkill(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, pathlib
        from harness.specs import User
        from harness.system import process
        async def main():
            records = pathlib.Path({str(tmp_path)!r})
            spawned = process.Processes(records, lambda name, line: None)
            child = await spawned.spawn(process.Command("child", ("/bin/sleep", "1000"), user=User(2102, 2102)))
            print(child.pid, flush=True)
            await asyncio.sleep(1000)
        asyncio.run(main())
    """)
    daemon = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    wait(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    wait(lambda: process.start_time(pid) is None)
    assert process.orphans(tmp_path) == (), "a record of a dead child is dropped"


def test_an_orphan_is_found_by_its_record_and_ended(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    started = process.start_time(sleeper.pid)
    files.write_json(tmp_path / "proxy.json", {"name": "proxy", "pid": sleeper.pid, "start_time": started}, mode=0o600)
    files.write_json(tmp_path / "other.json", {"name": "other", "pid": os.getpid(), "start_time": 1}, mode=0o600)
    (tmp_path / "broken.json").write_text("{")
    found = process.orphans(tmp_path)
    assert [orphan.name for orphan in found] == ["proxy"], "a pid that was used again is somebody else"
    asyncio.run(process.end(found[0], 1.0))
    assert sleeper.wait() == -signal.SIGTERM
    assert not list(tmp_path.glob("*.json"))


def test_a_crash_is_started_again_after_a_growing_pause(tmp_path: Path) -> None:
    async def run() -> tuple[State, int, list[str]]:
        said: list[str] = []
        child = Supervised(process.Processes(tmp_path, Lines()), SystemClock(), said.append)
        for _ in range(2):
            await child.start(command("exit 1"))
            while child.state.state is not State.BACKOFF or "child may start again" not in said[-1:]:
                await asyncio.sleep(0.01)
        exits = child.state.exits
        await child.stop(0.1)
        return child.state.state, exits, said

    state, exits, said = asyncio.run(run())
    assert (state, exits) == (State.STOPPED, 2)
    assert said == [*("child exited", "child may start again") * 2, "a backoff is cut short"]


def test_a_stable_run_forgets_the_crashes_before_it(tmp_path: Path) -> None:
    class Quick(SystemClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds / 100)

    async def run() -> tuple[bool, bool]:
        said: list[str] = []
        child = Supervised(process.Processes(tmp_path, Lines()), Quick(), said.append)
        for _ in range(3):
            await child.start(command("exit 1"))
            while child.state.state is not State.BACKOFF:
                await asyncio.sleep(0.01)
        await child.start(command("exec sleep 600"))
        child.ready()
        before = child.state.crash_loop
        while "child runs steadily" not in said:
            await asyncio.sleep(0.01)
        after = child.state.crash_loop
        await child.stop(1.0)
        return before, after

    assert asyncio.run(run()) == (True, False)


def test_users_by_name_and_number() -> None:
    assert process.find_user("root").uid == 0
    assert process.find_user("2102") == User(2102, 2102)
    with pytest.raises(ConfigError, match="no user"):
        process.find_user("nobody-of-this-name")


def test_a_second_lock_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with files.lock(tmp_path / "lock"):
        assert files.is_locked(tmp_path / "lock")
        with pytest.raises(TemporaryError, match=str(os.getpid())), files.lock(tmp_path / "lock"):
            pass
    assert not files.is_locked(tmp_path / "lock")


def test_a_port_that_is_taken() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert process.port_taken(port)
    assert not process.port_taken(port)
