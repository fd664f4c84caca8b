"""`meshexp diff`: what `plan` would change, line by line: what goes with -, what comes with +. Changes nothing."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from typing import Any

from harness import paths
from harness.daemon import plan
from harness.reconcilers import redirect, routes
from harness.system import privileges
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import BackendKind, Marks


def run() -> int:
    """0 when all is as it should be, 1 when something differs, as diff(1), or is not known yet."""
    privileges.check("diff")
    lines = asyncio.run(_lines(paths.from_environment()))
    print("\n".join(lines) if lines else "# no difference")
    return 1 if lines else 0


async def _lines(where: paths.Paths) -> list[str]:
    lines: list[str] = []
    for part, action in await plan.actions(where):
        if isinstance(action, plan.Objection):
            continue
        if not lines or f"# {part}" not in lines:
            lines.append(f"# {part}")
        match action:
            case routes.Change(verb, what):
                lines.append(f"{'-' if verb is routes.Verb.DELETE else '+'} {what}")
            case redirect.Apply() | redirect.Remove():
                lines += _rules(await _there(action.kind, Marks(where.instance)), getattr(action, "rules", ()))
            case plan.Unknown():
                lines.append(f"# {action}")
            case _:
                lines.append(f"+ {str(action).partition(chr(10))[0]}")
    return lines


async def _there(kind: BackendKind, marks: Marks) -> Any:
    backend = Nftables(marks=marks) if kind is BackendKind.NFTABLES else Iptables(marks)
    return (await backend.observe()).rules


def _rules(there: Any, wanted: Any) -> Iterator[str]:
    """Every rule that is not in both; also one that only moves."""
    before, after = ([f"{rule.name:<24} {rule}" for rule in rules] for rules in (there, wanted))
    return (line for line in difflib.ndiff(before, after) if line[0] in "+-")
