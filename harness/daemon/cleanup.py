"""`meshexp cleanup`: diff(nothing, observed) for everything that outlives a process. No configuration, no state file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any

from harness.daemon.machine import check_privileges
from harness.errors import HarnessError
from harness.paths import Paths
from harness.reconcilers.base import Reconciler
from harness.reconcilers.redirect import Redirect
from harness.reconcilers.routes import Routes
from harness.system import files, process, redirect_backend
from harness.system.netlink import Netlink

PROXY_GRACE = 2.0


def run(paths: Paths) -> int:
    """0 when nothing is left, 1 when something could not be removed. Refuses while a daemon runs."""
    check_privileges()
    with files.lock(paths.lock):
        return asyncio.run(_clean(paths))


async def _clean(paths: Paths) -> int:
    failed = 0
    redirect = Redirect(await asyncio.to_thread(redirect_backend.detect))
    # The redirect first: from then on the proxy holds no traffic.
    reconcilers: tuple[Reconciler[Any, Any, Any], ...] = (redirect, Routes(Netlink()))
    for reconciler in reconcilers:
        try:
            for action in reconciler.diff(None, await reconciler.observe()):
                failed += await _try(str(action).partition("\n")[0], reconciler.apply(action))
        except HarnessError as error:
            failed += 1
            print(f"× {reconciler.name}: {error.message}", file=sys.stderr)
        if reconciler is redirect:
            for orphan in process.orphans(paths.children):
                failed += await _try(str(orphan), process.end(orphan, PROXY_GRACE))
    for left in (paths.status, paths.known_registration):
        left.unlink(missing_ok=True)
    return 1 if failed else 0


async def _try(what: str, step: Awaitable[None]) -> int:
    try:
        await step
    except HarnessError as error:
        print(f"× {what}: {error.message}", file=sys.stderr)
        return 1
    print(f"√ {what}")
    return 0
