"""A workload that a user brings, copied into an image or mounted: a member's under its own user, or one line and exit code 1."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.container.images import BASE
from tests.container.playground import Playground
from tests.container.test_first_process import CAPABILITIES
from tests.container.test_images import alone
from tests.snapshots import snapshot
from tests.waiting import wait

OWN, NAME = "own-workload", "smiley2-1"
# It tells what it may do, and waits for a signal.
_TELLS = """#!/usr/bin/python3
import os, time
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print("workload-uid", os.getuid(), "may", status["CapEff"], status["CapBnd"], "nnp", status["NoNewPrivs"], flush=True)
while True:
    time.sleep(0.1)
"""


def put(folder: Path, text: str | bytes, mode: int = 0o755) -> Path:
    """`folder`/start, with that mode."""
    path = folder / "start"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def directory(folder: Path) -> Path:
    (folder / "start").mkdir()
    return folder / "start"


def foreign(folder: Path) -> Path:
    program = bytearray(Path("/bin/true").read_bytes())
    program[18] = 22  # e_machine: s390x
    return put(folder, bytes(program))


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "directory": (directory, "is a directory"),
    "not executable": (lambda folder: put(folder, _TELLS, 0o644), "chmod 755"),
    "for root only": (lambda folder: put(folder, _TELLS, 0o700), "chmod 755"),
    "no interpreter": (lambda folder: put(folder, "#!/no/such\n"), "/no/such, is not in this image"),
    "line ends": (lambda folder: put(folder, _TELLS.replace("\n", "\r\n")), "CR LF"),
    "line ends, by env": (lambda folder: put(folder, "#!/usr/bin/env python3\r\nprint(1)\r\n"), "CR LF"),
    "empty": (lambda folder: put(folder, ""), "is empty"),
    "another processor": (foreign, "program for s390x"),
    "no #! line": (lambda folder: put(folder, "echo hello\n"), "neither a program nor a script"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def copied(playground: Playground, folder: Path, line: str = "COPY start /workload/start") -> str:
    """The image that README.md and docs/playground.md tell to make."""
    (folder / "Dockerfile").write_text(f"FROM {BASE}\n{line}\n")
    playground.engine.do("build", "--network=none", "--tag", OWN, str(folder))
    return OWN


@pytest.mark.parametrize("how", WRONG)
def test_a_copied_one_that_cannot_run_is_one_line_and_exit_1(playground: Playground, folder: Path, how: str) -> None:
    make, line = WRONG[how]
    made = make(folder)
    if made.is_dir():
        (made / "file").write_text("COPY takes what is in a directory")
    code, output = alone(playground, copied(playground, folder))
    banner, said = output.splitlines()
    assert code == 1 and "NOT for production" in banner and line in said and "/workload/start" in said


@pytest.mark.parametrize("how", WRONG)
def test_a_mounted_one_that_cannot_run_is_one_line_and_exit_1(playground: Playground, folder: Path, how: str) -> None:
    make, line = WRONG[how]
    code, output = alone(playground, BASE, f"--volume={make(folder)}:/workload/start")
    banner, said = output.splitlines()
    assert code == 1 and "NOT for production" in banner and line in said and "/workload/start" in said


def test_a_command_that_is_not_there_is_one_line_and_exit_1(playground: Playground) -> None:
    code, output = alone(playground, BASE, command=("no-such", "--flag"))
    assert code == 1 and output.splitlines()[-1].startswith("no-such is in none of the folders of PATH")
    code, output = alone(playground, BASE, env={"WORKLOAD_USER": "nobody-at-all"}, command=("true",))
    assert code == 1 and output.splitlines()[-1].startswith("there is no user 'nobody-at-all'")


@pytest.mark.parametrize("way", ["copied", "mounted", "setuid"])
def test_one_that_can_run_is_a_members_under_its_own_user(playground: Playground, folder: Path, way: str) -> None:
    program = put(folder, _TELLS, 0o4755 if way == "setuid" else 0o755)
    assert (program.stat().st_mode & stat.S_ISUID != 0) is (way == "setuid")
    image = BASE if way == "mounted" else copied(playground, folder)
    flags = (f"--volume={program}:/workload/start",) if way == "mounted" else ()
    playground.start(NAME, "smiley2", image=image, flags=flags)
    engine = playground.engine
    wait(lambda: "workload-uid " in engine.run("logs", NAME)[1], why=lambda: playground.story(NAME))
    none = "0000000000000000"
    told = next(line for line in engine.do("logs", NAME).splitlines() if line.startswith("workload-uid "))
    assert told.endswith(f"may {none} {none} nnp 1") and not told.startswith("workload-uid 0 ")
    assert playground.condition(NAME, "Redirected")["status"] == "True"
    wait(lambda: playground.mesh.workloads().get(playground.address(NAME)) is not None)
    assert playground.stop(NAME)[0] == 143


def test_a_link_that_leads_nowhere_is_one_line_and_exit_1(playground: Playground, folder: Path) -> None:
    image = copied(playground, folder, "RUN ln -s /no/such /workload/start")
    code, output = alone(playground, image)
    assert code == 1 and output.splitlines()[-1].startswith("/workload/start is a symbolic link to /no/such")


def test_a_link_to_a_program_of_the_image_is_a_workload(playground: Playground, folder: Path) -> None:
    playground.start(NAME, "smiley2", image=copied(playground, folder, "RUN ln -s /usr/bin/env /workload/start"))
    # env prints the workload's variables, and the container ends with its exit code.
    assert playground.engine.do("wait", NAME).strip() == "0"
    assert "USER=workload" in playground.engine.do("logs", NAME)


def test_closed_it_does_not_start_outside_the_mesh(playground: Playground, folder: Path) -> None:
    """Nor by what a daemon of another time said; `open` starts it after some seconds, with a warning."""
    stale = folder / "run"
    stale.mkdir()
    condition = {"name": "Redirected", "status": "True", "message": "", "problem": None, "severity": None, "hint": None}
    said_before = snapshot() | {"pid": 1, "pid_started": None, "conditions": [condition]}
    (stale / "status.json").write_text(json.dumps(said_before))
    nobody = {"MESHEXP_CONTROLLER_ADDRESS": "10.77.0.9:8081"}
    engine, command = playground.engine, ("echo", "the workload runs")
    mounted = (f"--volume={stale}:/run/meshexp",)
    playground.start("open-1", "smiley2", *command, MESHEXP_REDIRECT_ON_PROXY_LOSS="open", **nobody)
    playground.start(NAME, "smiley2", *command, flags=mounted, **nobody)
    wait(lambda: engine.inspect("open-1")["State"]["Status"] == "exited", why=lambda: playground.story("open-1"))
    said = engine.do("logs", "open-1")
    assert "the workload runs" in said and "in plaintext" in said
    said = engine.do("logs", NAME)
    assert "the workload waits" in said and "the workload runs" not in said and "controller" in said
    assert playground.stop(NAME)[0] == 0
    engine.do("rm", "--force", "--volumes", "open-1")


def test_a_daemon_that_is_told_to_stop_ends_the_container(playground: Playground) -> None:
    """Its redirect goes with it: the workload would go on in plaintext."""
    playground.start(NAME, "smiley2", "sleep", "3600")
    wait(lambda: playground.condition(NAME, "Redirected").get("status") == "True", why=lambda: playground.story(NAME))
    find = 'kill -TERM $(python3 -c \'import json; print(json.load(open("/run/meshexp/status.json"))["pid"])\')'
    playground.inside(NAME, "sh", "-c", find)
    assert playground.engine.do("wait", NAME).strip() == "143"
    assert "the daemon was told to stop" in playground.engine.do("logs", NAME)


def test_hardened_it_is_ready_and_healthy(playground: Playground) -> None:
    """By the document's command, with a DNS Service in the cluster."""
    flags = ("--cap-drop=ALL", "--read-only", *(f"--cap-add={name}" for name in CAPABILITIES if name != "NET_ADMIN"))
    playground.join(NAME, "smiley2", FACES_SERVICE="smiley", flags=flags)
    wait(lambda: playground.phase(NAME) == "Ready", why=lambda: playground.story(NAME))
    wait(lambda: playground.engine.inspect(NAME)["State"]["Health"]["Status"] == "healthy", why=lambda: playground.story(NAME))
    playground.stop(NAME)
