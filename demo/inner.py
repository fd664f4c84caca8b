"""The playground inside its namespaces: set up, the scenario or a stay until Ctrl-C, and down again.

Keys are only in a tmpfs of the demo's own mount namespace: the kernel removes it with the last process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from demo.playground import Playground
from demo.report import Report
from demo.scenario import Scenario

FOLDER = Path("/dev/shm")  # not the host's: a tmpfs of our own is mounted over it
FIRST = ("gui-1", "face-1", "smiley-1")
LATER = ("face-2", "color-1", "smiley2-1")


def run(words: Sequence[str], once: bool, real: bool) -> int:
    """`words`, from the outer process: descriptors of the page's listener, of the host's /proc and of a pipe for the result, and
    when the clock started."""
    page_fd, host_proc, tell = map(int, words[:3])
    page = socket.socket(fileno=page_fd)
    report = Report(float(words[3]))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(FOLDER)], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # The controller and the stand-ins log in this process; what they say is not for the terminal.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory((FOLDER / "controller.log").open("w")))
    logging.basicConfig(filename=FOLDER / "stand-ins.log")
    if real:
        from demo import real as real_programs

        answer = real_programs.run(FOLDER, page, host_proc, once, report)
    else:
        answer = asyncio.run(_run(page, host_proc, once, report))
    with os.fdopen(tell, "w") as pipe:
        json.dump(answer, pipe)
    return 0


async def _run(page: socket.socket, host_proc: int, once: bool, report: Report) -> dict[str, object]:
    """Checks and figures, and whether all of it was done before somebody stopped it."""
    playground = Playground(FOLDER, page, host_proc, report)
    scenario = Scenario(playground)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    work = asyncio.create_task(_work(playground, scenario, once))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
        finished = work.done()
        if not once and work.done() and not work.exception():
            await stopped
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        report.heading("Taking everything down")
        await playground.stop()
    figures = {**scenario.figures, "seconds": round(report.seconds(), 1)}
    return {"checks": scenario.checks, "figures": figures, "finished": finished}


async def _work(playground: Playground, scenario: Scenario, once: bool) -> None:
    report = playground.report
    report.heading("The cluster side")
    await playground.start()
    report.heading("Machines outside the cluster join it, each by `meshexp run`")
    await asyncio.gather(*(playground.boot(name) for name in (*FIRST, *LATER)))
    await scenario.remember(("color-1",))
    await asyncio.gather(*(playground.start_workload(name) for name in (*FIRST, *LATER)))
    if once:
        await scenario.join(*FIRST)
        await scenario.run()
        return
    await scenario.join(*FIRST, *LATER)
    await scenario.canary(80, 20)
    await playground.serve_page()
    report.up(await playground.summary(), playground.shells(), playground.page_address)
