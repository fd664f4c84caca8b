"""`python3 -m tests.faulty FOLDER VERB…`: the real program, in which a step fails while a file of its name is in FOLDER.

Nothing is replaced: each step looks for its file first, and raises an error that no code expects if it is there. While there is a
file NAME.hang, the step does not return.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import cli, metrics_text
from harness.daemon import adoption, loop, needs, progress, publish
from harness.reconcilers import dns, identity, probes, proxy, redirect, registration, routes
from harness.system import control_plane, nfnetlink, probe_call, proxy_admin

# By the name of the file: what holds the step, its name there, and what of the daemon's own words tells of it in the status.
STEPS: dict[str, tuple[Any, str, str]] = {
    "start": (adoption, "compose", "the start"),
    "in-place": (redirect.Redirect, "in_place", "the start"),
    "cycle": (loop, "desired", "the cycle"),
    "progress": (progress.Finder, "_find", "the look at how far things are"),
    "reload": (needs, "configuration", "the reload"),
    "status": (publish, "snapshot", "the status"),
    "signal": (loop.Daemon, "_on_proxy_restart", "Exception in callback"),
    "metrics": (metrics_text, "render", "Unhandled exception"),
    "certificate": (proxy_admin.LoopbackAdmin, "certificate_expiry", "the look at the proxy's certificate"),
    "probe": (probe_call.Checker, "check", "the probe"),
    "watch": (control_plane.ControlPlane, "watch", "following the registration"),
    "report": (control_plane.ControlPlane, "report", "reporting the state"),
    **{
        f"{name}-{step}": (owner, step, name if step != "observe" else f"the look at {name}")
        for name, owner in {
            "routes": routes.Routes,
            "dns": dns.Dns,
            "identity": identity.Identity,
            "registration": registration.RegistrationKeeper,
            "probes": probes.Probes,
            "proxy": proxy.Proxy,
            "redirect": redirect.Redirect,
        }.items()
        for step in ("observe", "diff", "condition")
    },
    "redirect-stop": (redirect.Redirect, "apply", "redirect"),
}

# Of which only the hang is asked for, within a step.
WITHIN = {"self-test": (nfnetlink, "connection_events")}


class Fault(Exception):
    """No HarnessError."""


def _check(file: Path) -> None:
    while file.with_name(f"{file.name}.hang").exists():
        time.sleep(0.01)  # and nothing else runs in this thread
    if file.exists():
        raise Fault(f"injected into {file.name}")


def _failing(step: Callable[..., Any], file: Path) -> Callable[..., Any]:
    @functools.wraps(step)
    def look(*words: Any, **more: Any) -> Any:
        _check(file)
        return step(*words, **more)

    @functools.wraps(step)
    async def look_async(*words: Any, **more: Any) -> Any:
        _check(file)
        return await step(*words, **more)

    return look_async if inspect.iscoroutinefunction(step) else look


def main(folder: Path, words: list[str]) -> int:
    for name, (owner, step, _) in STEPS.items():
        setattr(owner, step, _failing(getattr(owner, step), folder / name))
    for name, (module, step) in WITHIN.items():
        setattr(module, step, _failing(getattr(module, step), folder / name))
    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
