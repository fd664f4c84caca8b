"""`python3 -m demo [--once] [--real] [--port N]`: the playground on one machine. The host is compared before and after.

The outer process stays in the host's namespaces, only to listen and to compare; all else happens in namespaces of its own
(`demo/inner.py`), which end with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo import host_state, relay
from demo.machine import NAMESPACES, children_of
from demo.report import Report
from harness import ending, phrases
from harness.arguments import Parser

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    parser = Parser(prog="demo", description="The playground on this one machine.")
    parser.add_argument("--once", action="store_true", help="check the scenario, print one JSON line, and end")
    parser.add_argument("--real", action="store_true", help="on SPIRE, linkerd2-proxy and Linkerd's control plane, from PATH")
    default = f"{relay.DEFAULT_PORT}, or any other where that is taken"
    parser.add_argument("--port", type=_port, help=f"of the page (default: {default})")
    parser.add_argument("--inner", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: network namespaces need root; use `make demo`, which calls sudo", file=sys.stderr)
        return 77
    if options.inner:
        from demo import inner

        return inner.run(options.inner, options.once, options.real)
    if options.real and (why := _lacking()):
        print(f"demo: --real needs programs that are {why}; without it, stand-ins take their place", file=sys.stderr)
        return 69
    try:
        page = relay.listener(options.port)
    except OSError as error:
        print(f"demo: port {options.port} of 127.0.0.1: {error.strerror}", file=sys.stderr)
        print(f"  hint: who listens there? ss -ltnp 'sport = :{options.port}'", file=sys.stderr)
        return 69
    with page:
        return outer(page, options.once, options.real)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _lacking() -> str:
    from tests import linkerd_lab

    return linkerd_lab.WHY if linkerd_lab.MISSING else ""


def outer(page: socket.socket, once: bool, real: bool) -> int:
    report = Report()
    host_state.dump()  # looking at the legacy tables for the first time instantiates them
    before = host_state.dump()
    code, result = _run_inner(page, once, real, report.began)
    ours, others = host_state.by_us(host_state.differences(before, host_state.dump()))
    if others:
        report.step("host", f"changed by others meanwhile: {phrases.counted(len(others), 'line')}")
        for line in (*others[:20], *(["…"] if len(others) > 20 else [])):
            report.line(f"             {line}")
    report.check(not ours, "nothing of ours is left in this host's links, routes, rules, sysctls and firewall tables")
    for line in ours:
        report.line(f"             {line}")
    if not once:
        return code or (1 if ours else 0)
    checks = result.setdefault("checks", {})
    checks["host_untouched"] = not ours
    if not (finished := result.pop("finished", False)):
        report.check(False, "the scenario did not come to its end")
    result["passed"] = code == 0 and finished and all(checks.values())
    report.line(json.dumps(result))
    return 0 if result["passed"] else 1


def _run_inner(page: socket.socket, once: bool, real: bool, began: float) -> tuple[int, dict[str, Any]]:
    """The playground in its own network, mount, PID and UTS namespace; whatever happens, they end with it."""
    told, tell = os.pipe()
    host_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    flags = [flag for flag, wanted in (("--once", once), ("--real", real)) if wanted]
    command = [*NAMESPACES, sys.executable, "-m", "demo", *flags, "--inner"]
    command += [str(page.fileno()), str(host_proc), str(tell), str(began)]
    stopping: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda *_: stopping.append(1))
    files = (page.fileno(), host_proc, tell)
    root = Path(__file__).resolve().parent.parent
    # In a session of its own: a signal of the terminal (Ctrl-C, a hangup) would end unshare, and with it everything at once.
    process = subprocess.Popen(command, pass_fds=files, cwd=root, stdin=subprocess.DEVNULL, start_new_session=True)
    os.close(tell)
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        if stopping:
            _stop(process)
    result: dict[str, Any] = {}
    with os.fdopen(told) as answer, contextlib.suppress(ValueError):
        result = json.loads(answer.read())
    return process.returncode, result


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the playground itself, which is the child of unshare. It is sent repeatedly: an early one meets no handler."""
    with contextlib.suppress(OSError):
        for pid in children_of(process.pid):
            os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    with ending.orderly():
        sys.exit(main())
