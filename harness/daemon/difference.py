"""`meshexp diff`: what `plan` would change, line by line: what goes with -, what comes with +. Changes nothing."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from typing import Any

from harness import paths, terminal
from harness.daemon import plan
from harness.reconcilers import redirect, routes
from harness.system import privileges
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import BackendKind, Marks


def run(output: str) -> int:
    """0 when all is as it should be, 1 when something differs, as diff(1), or is not known yet."""
    privileges.check("diff")
    found = asyncio.run(_parts(paths.from_environment()))
    if output == "json":
        terminal.say_json([{"part": part, "lines": lines} for part, lines in found.items()])
        return 1 if found else 0
    for part, lines in found.items():
        print(f"# {part}")
        for line in lines:
            terminal.say(line)
    if not found:
        print("# no difference")
    return 1 if found else 0


async def _parts(where: paths.Paths) -> dict[str, list[str]]:
    """By part, the lines of its difference."""
    found: dict[str, list[str]] = {}
    for part, action in await plan.actions(where):
        if not isinstance(action, plan.Objection):
            found.setdefault(part, []).extend(await _lines(action, where))
    return found


async def _lines(action: Any, where: paths.Paths) -> list[str]:
    match action:
        case routes.Change(verb, what):
            return [f"{'-' if verb is routes.Verb.DELETE else '+'} {what}"]
        case redirect.Apply() | redirect.Remove():
            return list(_rules(await _there(action.kind, Marks(where.instance)), getattr(action, "rules", ())))
        case plan.Unknown():
            return [f"# {action}"]
        case _:
            return [f"+ {str(action).partition(chr(10))[0]}"]


async def _there(kind: BackendKind, marks: Marks) -> Any:
    backend = Nftables(marks=marks) if kind is BackendKind.NFTABLES else Iptables(marks)
    return (await backend.observe()).rules


def _rules(there: Any, wanted: Any) -> Iterator[str]:
    """Every rule that is not in both; also one that only moves."""
    before, after = ([f"{rule.name:<24} {rule}" for rule in rules] for rules in (there, wanted))
    return (line for line in difflib.ndiff(before, after) if line[0] in "+-")
