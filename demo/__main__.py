"""`python3 -m demo [--once] [--real]`: the playground on one machine. The host is compared before and after, and must not differ.

The outer process stays in the host's namespaces, only to compare; all else happens in namespaces of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog

from demo import host_state
from demo.machine import NAMESPACES
from demo.playground import Playground, page_listener, until
from demo.report import Report
from demo.scenario import Scenario

MACHINES = ("face-1", "smiley-1", "color-1", "gui-1")


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="The playground on this one machine.")
    parser.add_argument("--once", action="store_true", help="check the scenario, print one JSON line, and end")
    parser.add_argument("--real", action="store_true", help="on SPIRE, linkerd2-proxy and Linkerd's control plane, from PATH")
    parser.add_argument("--inner", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: network namespaces need root; use `make demo`, which calls sudo", file=sys.stderr)
        return 77
    if options.inner:
        return asyncio.run(inner(int(options.inner[0]), Path(options.inner[1]), options.once))
    if options.real:
        from demo import real

        return real.run(options.once)
    return outer(options.once)


def outer(once: bool) -> int:
    host_state.dump()  # looking at the legacy tables for the first time instantiates them
    before = host_state.dump()
    page = page_listener()
    folder = Path(tempfile.mkdtemp(prefix="meshexp-demo-"))
    try:
        code, result = _run_inner(page, folder, once)
    finally:
        page.close()
        shutil.rmtree(folder, ignore_errors=True)
    left = host_state.differences(before, host_state.dump())
    for line in left:
        print(line, file=sys.stderr)
    report = Report()
    report.check(not left, "this host's routes, rules, sysctls and firewall tables are as before")
    if once:
        result.setdefault("checks", {})["host_untouched"] = not left
        result["passed"] = code == 0 and bool(result["checks"]) and all(result["checks"].values())
        print(json.dumps(result))
        return 0 if result["passed"] else 1
    return code or (1 if left else 0)


def _run_inner(page: socket.socket, folder: Path, once: bool) -> tuple[int, dict[str, Any]]:
    """The playground in its own network, mount, PID and UTS namespace; whatever happens, they end with it."""
    command = [
        *NAMESPACES,
        sys.executable,
        "-m",
        "demo",
        "--inner",
        str(page.fileno()),
        str(folder),
        *(["--once"] if once else []),
    ]
    # Ctrl-C reaches the inner process by the terminal; this one waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, pass_fds=(page.fileno(),), cwd=Path(__file__).resolve().parent.parent)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(process))
    code = process.wait()
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads((folder / "result.json").read_text())
    return code, result


def _pass_on(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the playground itself, which is the child of unshare."""
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGTERM)


async def inner(page_fd: int, folder: Path, once: bool) -> int:
    report = Report()
    # The controller logs in this process; its lines go beside the machines' logs.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory((folder / "controller.log").open("w")))
    playground = Playground(folder, socket.socket(fileno=page_fd), report)
    scenario = Scenario(playground)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work = asyncio.create_task(_work(playground, scenario, once, stop))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        report.heading("taking everything down")
        await playground.stop()
        figures = {**scenario.figures, "seconds": round(report.seconds(), 1)}
        (folder / "result.json").write_text(json.dumps({"checks": scenario.checks, "figures": figures}))
    return 0


async def _work(playground: Playground, scenario: Scenario, once: bool, stop: asyncio.Event) -> None:
    report = playground.report
    report.heading("The cluster side, and machines that join it")
    await playground.start()
    await asyncio.gather(*(playground.boot(name) for name in MACHINES))
    await scenario.remember(("color-1",))
    for name in MACHINES:
        await playground.start_workload(name)
        await playground.join(name)

    async def all_ready() -> bool:
        return len([w for service in ("face", "smiley", "color", "gui") for w in await playground.cluster.ready(service)]) == len(
            MACHINES
        )

    scenario.checks["all_join"] = await until(all_ready, 30)
    report.check(scenario.checks["all_join"], f"{len(MACHINES)} machines are ready")
    await playground.serve_page()
    if once:
        await scenario.run()
        return
    await playground.boot("face-2")
    await playground.start_workload("face-2")
    await playground.join("face-2")
    await until(lambda: _count(playground, "face", 2), 15)
    report.heading("The playground is up")
    print(await playground.summary())
    host, port = playground.page_address
    print(f"\nthe page: http://{host}:{port}/        Ctrl-C takes everything down", flush=True)
    await stop.wait()


async def _count(playground: Playground, service: str, number: int) -> bool:
    return len(await playground.cluster.ready(service)) == number


if __name__ == "__main__":
    sys.exit(main())
