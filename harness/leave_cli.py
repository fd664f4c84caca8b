"""`meshexp leave`, the inverse of `join`: drain, stop, disable, deregister; and remove the configuration, if asked to."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from typing import Any

from harness import paths, phrases, status_cli
from harness.arguments import output
from harness.errors import HarnessError, TemporaryError
from harness.paths import Paths
from harness.status import Phase
from harness.terminal import Answer


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "leave",
        help="leave the mesh in good order: drain, stop, disable, deregister",
        description="The inverse of join. The configuration is kept, so that starting the harness brings the machine back.",
    )
    verb.add_argument("--purge", action="store_true", help="remove what join wrote too: configuration, keys, this machine's name")
    output(verb)
    return verb


def run(options: argparse.Namespace) -> int:
    from harness.steps import Steps
    from harness.system import privileges

    privileges.root("leave")
    where, steps = paths.from_environment(), Steps(options.output)
    try:
        meant = [one for one in _meant(where) if _is_something(one)]
        if not meant:
            return _nothing(steps)
        for one in meant:
            _leave(one, steps, options.purge)
    except HarnessError as error:
        steps.finish(error, left=False)
        if options.output == "json":
            return error.exit_code
        raise
    steps.finish(left=True, purged=options.purge)
    return 0


def _meant(where: Paths) -> tuple[Paths, ...]:
    """The machine's first workload sets routes and DNS: when it leaves, all others leave before it."""
    from harness.daemon import cleanup

    return (where,) if where.instance else cleanup.everyone(where)


def _is_something(where: Paths) -> bool:
    """Whether there is anything to leave: a configuration, right or wrong, a member without one, or what one has left behind."""
    from harness.config import load
    from harness.daemon import cleanup
    from harness.join_start import running

    left = where.joined, where.invitation, where.registration, where.known_registration, where.in_force, where.proxy
    if any(path.exists() for path in left) or not load.is_unconfigured(where, os.environ):
        return True
    waits = status_cli.read(where)["phase"] == Phase.WAITING.text
    return bool(running(where) and not waits) or where.instance in cleanup.instances_with_rules()


def _nothing(steps: Any) -> int:
    from harness.steps import Step

    steps.add(Step("nothing is configured here", message="this machine is no member of a mesh, and nothing was changed"))
    steps.finish(left=False, purged=False)
    return 0


def _leave(where: Paths, steps: Any, purge: bool) -> None:
    from harness.daemon import cleanup
    from harness.join_start import end, running
    from harness.reconcilers.kept_name import KeptName
    from harness.system import service

    of, unit = f" of {where.title}" if where.instance else "", service.unit_of(where.instance)
    with steps.step(f"drain and stop the harness{of}") as step:
        if service.managed(unit):
            service.control("stop", unit)
            service.control("disable", unit)
            step.message = f"{unit} is stopped and disabled"
        elif daemon := running(where):
            end(daemon, where)
            step.message = f"pid {daemon.pid} has ended"
        else:
            step.message = "it did not run"
    with steps.step(f"see that the registration is gone{of}") as step:
        kept = KeptName(where.registration)
        if kept.fault is not None:
            step.result = "warning"
            step.message = f"nobody knows: {kept.fault.message}"
        elif kept.secret:
            step.result = "warning"
            step.message = "the controller did not hear it; the lease ends by itself within a minute"
    with steps.step(f"see that no rule, route or process is left{of}") as step:
        silent = Answer("json")  # prints nothing before its end, which is never called: the step itself tells the result
        left = cleanup.run(where, after_exit=False, dry=False, answer=silent)
        if left:
            raise TemporaryError("something could not be removed", "run `meshexp cleanup`, which names it")
    with steps.step(f"{'remove' if purge else 'keep'} the configuration{of}") as step:
        step.message = _purge(where) if purge else f"{where.config}; `meshexp leave --purge` removes it"


def _purge(where: Paths) -> str:
    from harness import joining

    kept = where.registration, where.instance_id, where.cordon, where.anchors, where.member
    gone = [path for path in (*joining.names(where), *kept) if path.exists()]
    gone += paths.matches(where.state, "*.unusable")
    for path in gone:
        path.unlink()
    shutil.rmtree(where.state if where.instance else where.state / "spire", ignore_errors=True)
    folders = [where.config / "spire"]
    if where.instance:  # nobody else's folders
        folders += [where.drop_ins, where.config, where.config.parent, where.state.parent]
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return phrases.counted(len(gone), "file")
