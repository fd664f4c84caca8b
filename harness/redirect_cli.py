"""`meshexp redirect show|apply|remove|test`: the redirect by hand, by the same steps as the daemon's."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from harness import paths, terminal
from harness.arguments import output
from harness.errors import UnavailableError
from harness.terminal import Answer


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "redirect", help="show, apply, remove or test the redirect rules", description="The redirect rules of this machine."
    )
    what = verb.add_subparsers(dest="what", metavar="WHAT", required=True)
    show = what.add_parser("show", help="what of ours is in the kernel, in either backend")
    output(show, "text", "json", "rules", text="rules: as input for the tool")
    text = "what the configuration asks for: on trial, self-tested, then kept; else the old rules are back"
    output(what.add_parser("apply", help=text))
    output(what.add_parser("remove", help="everything of ours, in both backends; needs no configuration"))
    test = what.add_parser("test", help="send packets through the rules that are there; exit code 1 when one goes astray")
    output(test)
    return verb


def run(options: argparse.Namespace) -> int:
    import asyncio

    from harness.system import privileges

    privileges.check(f"redirect {options.what}")
    verbs = {"show": _show, "apply": _apply, "remove": _remove, "test": _test}
    return asyncio.run(verbs[options.what](options))


async def _show(options: argparse.Namespace) -> int:
    """Exit code 1 when there are no rules of ours."""
    backends = await _backends()
    states = [(backend, await backend.observe()) for backend in backends]
    present = [(backend, state) for backend, state in states if state.present]
    if options.output == "rules":
        print("".join(backend.render_text(state.rules) for backend, state in present), end="")
    elif options.output == "json":
        terminal.say_json([_as_json(backend.kind.value, state) for backend, state in present])
    for backend, state in present if options.output == "text" else ():
        print(f"{backend.kind.value}:{'  (a change that nobody has confirmed yet)' if state.on_trial else ''}")
        for rule in state.rules:
            terminal.say(f"  {rule.name:<24} {rule}", 25)
        for oddity in state.strange:
            terminal.say(f"  × {oddity}")
    if not present:
        print("no redirect rules of ours", file=sys.stderr)
    return 0 if present else 1


async def _apply(options: argparse.Namespace) -> int:
    import asyncio

    from harness.config import load
    from harness.daemon import head_start, machine
    from harness.daemon.surroundings import with_networks
    from harness.desired import desired
    from harness.known import Progress
    from harness.reconcilers.redirect import Redirect
    from harness.system import redirect_backend
    from harness.system.redirect_table import Marks

    where = paths.from_environment()
    config = load.of_member(where, os.environ)
    registration = head_start.known_registration(where)
    if registration is None:
        raise UnavailableError(
            "this machine is not registered, so nobody has told it which ports and networks the redirect is for",
            f"{_next_step(where)}; `meshexp plan` shows what is known already",
        )
    found = await with_networks(await machine.look(config, where), where)
    wanted = desired(config, found, Progress(registration=registration, proxy_certified=True)).redirect
    choice = redirect_backend.Choice(config.redirect.backend.value)
    detected = await asyncio.to_thread(redirect_backend.detect, choice, marks=Marks(where.instance))
    redirect = Redirect(detected, where.redirect_lock)
    actions = redirect.diff(wanted, await redirect.observe())
    answer = Answer(options.output)
    for action in actions:
        answer.raw(str(action))
        await redirect.apply(action)
    condition = redirect.condition(wanted, await redirect.observe())
    answer.say(condition.message if actions else "nothing to do", "#")
    return answer.end(0, backend=detected.backend.kind.value, actions=[str(action) for action in actions])


def _next_step(where: paths.Paths) -> str:
    """For a machine that is not registered."""
    from harness.system import files, snapshot_reader

    if files.is_locked(where.lock):
        return "`meshexp status` says what the registration waits for"
    return f"start the harness, which registers it: {snapshot_reader.start(where.instance)}"


async def _remove(options: argparse.Namespace) -> int:
    from harness.system import files, redirect_lock

    where = paths.from_environment()
    answer = Answer(options.output)
    removed = []
    async with redirect_lock.exclusive(where.redirect_lock, 20.0):
        for backend in await _backends():
            if (await backend.observe()).present:
                await backend.replace(())
                removed.append(backend.kind.value)
                answer.say(f"removed from {backend.kind.value}")
    if files.is_locked(where.lock):
        answer.say("the daemon is running and puts its rules back; to keep them away set redirect.inbound and outbound to off")
    return answer.end(0, removed=removed)


async def _test(options: argparse.Namespace) -> int:
    import asyncio

    from harness.system import redirect_selftest

    states = [await backend.observe() for backend in await _backends()]
    rules = next((state.rules for state in states if state.rules), None)
    if rules is None:
        raise UnavailableError(
            "there are no redirect rules of ours to test", "start meshexp-harness, or run `meshexp redirect apply`"
        )
    report = await asyncio.to_thread(redirect_selftest.self_test, rules)
    if options.output == "json":
        checks = [{"name": c.name, "outcome": c.outcome.value, "message": c.message} for c in report.checks]
        terminal.say_json(checks)
    else:
        marks = {redirect_selftest.Outcome.PASSED: "√", redirect_selftest.Outcome.FAILED: "×"}
        for check in report.checks:
            terminal.say(f"{marks.get(check.outcome, '?')} {check}")
    return 1 if report.having(redirect_selftest.Outcome.FAILED) else 0


async def _backends() -> Any:
    """Both: whatever is chosen now, what is there may be the other's."""
    from harness.system.iptables import Iptables
    from harness.system.nftables import Nftables
    from harness.system.redirect_table import Marks

    marks = Marks(paths.from_environment().instance)
    return Nftables(marks=marks), Iptables(marks)


def _as_json(kind: str, state: Any) -> dict[str, Any]:
    rules = [
        {"name": rule.name, "hook": rule.hook.value, "redirect_to": rule.redirect_to, "rule": str(rule)} for rule in state.rules
    ]
    return {"backend": kind, "rules": rules, "not_ours": list(state.strange), "on_trial": state.on_trial}
