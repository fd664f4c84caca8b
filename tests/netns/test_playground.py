"""The playground as a person runs it: once with its checks, and until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import host_state
from tests.linkerd_lab import MISSING, WHY
from tests.namespaces import namespace
from tests.ports import free_port
from tests.processes import family
from tests.waiting import wait

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "demo"]
REAL = pytest.param(("--real",), marks=pytest.mark.skipif(bool(MISSING), reason=WHY))
MACHINES = {"face-1", "face-2", "smiley-1", "smiley2-1", "color-1", "gui-1"}

pytestmark = pytest.mark.skipif(
    os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") or sys.prefix != sys.base_prefix,
    reason="the playground runs on the distribution's interpreter",
)


def left_behind(before: dict[str, str]) -> list[str]:
    return host_state.by_us(host_state.differences(before, host_state.dump()))[0]


@contextlib.contextmanager
def started(*flags: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo that stays, and all that it said until it was up. Temporary files would be in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [*DEMO, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen = ""
    try:
        while not seen.endswith("/\n"):
            line = process.stdout.readline()
            assert line, seen
            seen += line
        yield process, seen
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def shells(seen: str) -> dict[str, list[str]]:
    """By machine, the command that the demo shows."""
    return {name: command.split() for name, command in re.findall(r"^(\S+) +((?:sudo )?nsenter .*)$", seen, re.MULTILINE)}


def typed(enter: list[str], command: str) -> str:
    """What a command prints in a machine's shell. It succeeds, and has nothing to complain about."""
    done = subprocess.run([*enter, *command.split()], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, ""), (enter, command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("flags", [(), REAL])
def test_the_scenario_passes_whatever_others_do_meanwhile(flags: tuple[str, ...]) -> None:
    with namespace() as host:  # stands for the host, so that others can change it
        argv = [*host.enter, *DEMO, "--once", *flags]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]  # the host has been looked at
        host.run("sysctl", "-qw", "net.ipv4.tcp_fin_timeout=33")
        host.run("ip", "link", "add", "others", "type", "veth", "peer", "name", "others2")
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
    output = "\n".join(lines)
    answer = json.loads(lines[-1])
    failed = [name for name, passed in answer["checks"].items() if not passed]
    assert (failed, process.returncode) == ([], 0), output
    assert len(answer["checks"]) == 18
    assert answer["figures"]["requests"] > 100 and answer["figures"]["failed_requests"] == 0
    assert "changed by others meanwhile" in output and "+net.ipv4.tcp_fin_timeout = 33" in output and "others@" in output
    assert "Traceback" not in output
    assert "&#x" not in output and "['" not in output, "texts are for people"
    times = [float(time) for time in re.findall(r"^ *(\d+\.\d\d) s  ", output, re.MULTILINE)]
    assert times == sorted(times) and len(times) > 20, "one clock"
    first = output.index("√")
    assert output[:first].count("\n") < 15, "what happens before the first check is told shortly"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_stays_until_it_is_told_and_leaves_nothing_however_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    before = host_state.dump()
    port = free_port()
    with started(f"--port={port}", folder=tmp_path) as (process, seen):
        assert seen.endswith(f"\nThe page: http://127.0.0.1:{port}/\n"), "the last line of the start"
        assert set(shells(seen)) == MACHINES
        for word in ("stand-in", "real", "split DNS", "spiffe://root.linkerd.cluster.local/face"):
            assert word in seen
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
        assert "<html" in page.lower()
        face = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/face/center/?row=1&col=1", timeout=10).read())
        assert face["smiley"] in ("&#x1F603;", "&#x1F60D;") and face["color"] in ("#66CCEE", "#228833")
        assert "errors" not in face
        ours = family(process.pid)
        assert len(ours) > 10, "the machines and their workloads"
        if number is signal.SIGKILL:
            process.kill()
        else:
            if number is signal.SIGHUP and process.stdout is not None:
                process.stdout.close()  # the terminal is gone
            os.killpg(process.pid, number)
        process.wait(60)
    assert number is signal.SIGKILL or process.returncode == 0
    wait(lambda: not any(one.lives for one in ours))
    assert left_behind(before) == []
    assert [*tmp_path.rglob("*")] == [], "no keys either"


def test_every_verb_works_in_a_healthy_machine(tmp_path: Path) -> None:
    """By the commands that the demo shows. Nothing is wrong anywhere, and no stand-in is upset by being looked at."""
    with started(folder=tmp_path) as (process, seen):
        for name, enter in shells(seen).items():
            check = typed(enter, "meshexp check")
            assert "×" not in check and "‼" not in check, check
            # The development proxy tells no release, so that one check is skipped.
            assert check.rstrip().endswith("Status check results are √ (1 skipped)") and check.count("√") > 30, check
            assert f"faces/{name.partition('-')[0]}-" in typed(enter, "meshexp status")
            assert typed(enter, "meshexp plan") == "# nothing to do\n"
            assert typed(enter, "meshexp diff") == "# no difference\n"
            logs = typed(enter, "meshexp logs --lines=1000")
            assert "phase=Ready" in logs and "component=proxy" in logs
            assert "Traceback" not in logs, logs
        logs = typed(enter, "tail -n +1 /dev/shm/stand-ins.log /dev/shm/controller.log")
        assert "Traceback" not in logs, logs
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout is not None
        seen += process.stdout.read()
        assert process.wait(60) == 0
    assert "Traceback" not in seen and "×" not in seen, seen


def test_a_scenario_that_was_stopped_has_not_passed() -> None:
    process = subprocess.Popen([*DEMO, "--once"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert process.stdout is not None
    next(line for line in process.stdout if "√" in line)
    process.send_signal(signal.SIGINT)
    last = process.stdout.read().splitlines()[-1]
    assert process.wait() == 1
    process.stdout.close()
    assert not json.loads(last)["passed"] and all(json.loads(last)["checks"].values())


BOOT = """
import asyncio, pathlib, subprocess, sys
from demo import machine
async def boot():
    await machine.command("ip", *machine.BRIDGE)
    here = await machine.boot("vm-1", machine.Link("10.77.0.9"), pathlib.Path(sys.argv[1]), None, "10.77.0.2")
    print((await here.run(["cat", "/etc/resolv.conf"]))[1])
    await here.stop()
asyncio.run(boot())
"""


def test_a_host_whose_resolv_conf_is_a_link_to_a_file_below_run(tmp_path: Path) -> None:
    """As with systemd-resolved; a machine has a /run of its own."""
    subprocess.run(["cp", "--archive", "/etc", str(tmp_path)], check=True)
    (tmp_path / "etc" / "resolv.conf").unlink()
    (tmp_path / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    inside = f"mount --bind {tmp_path}/etc /etc && exec {sys.executable} -c '{BOOT}' {ROOT}"
    argv = ["unshare", "--net", "--mount", "sh", "-c", inside]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "nameserver 10.77.0.2", done.stderr


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none(port: str) -> None:
    done = subprocess.run([*DEMO, f"--port={port}"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 64
    assert f"'{port}' is not a port from 1 to 65535" in done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*DEMO, f"--port={port}"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (69, "")
    assert f"port {port} of 127.0.0.1: Address already in use" in done.stderr and f"ss -ltnp 'sport = :{port}'" in done.stderr


def test_the_real_one_says_what_it_lacks() -> None:
    """Where the programs that no registry carries are not to be seen."""
    hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs tmpfs /usr/local/bin && exec "$@"',
        "sh",
        *DEMO,
        "--real",
        "--once",
    ]
    done = subprocess.run(hidden, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 69
    assert "--real needs programs that are not on PATH" in done.stderr and "linkerd2-proxy" in done.stderr
