"""When a container's workload may start: when the redirect is in force, so that nothing it sends leaves in plaintext.

With `redirect.on_proxy_loss: open` it starts after OPEN_SECONDS in any case: then the redirect, too, is removed without a proxy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness import status_cli
from harness.backoff import Backoff
from harness.errors import HarnessError
from harness.paths import Paths

OPEN_SECONDS = 20.0
PAUSES = Backoff(first=5.0, most=300.0)  # between two lines that say what is waited for


class Gate:
    """Its `open` is called again and again until it says yes."""

    def __init__(self, where: Paths, say: Callable[[str], None]) -> None:
        self._where, self._say = where, say
        self._began = time.monotonic()
        self._said = 1
        self._say_at = self._began + PAUSES.pause(self._said)
        self._closed: bool | None = None  # not known before it matters

    def open(self, now: float) -> bool:
        status = status_cli.read(self._where)
        if _redirected(status):
            return True
        if now - self._began >= OPEN_SECONDS:
            if self._closed is None:
                self._closed = _is_closed(self._where)
            if not self._closed:
                self._say(
                    f"warning: not in the mesh after {OPEN_SECONDS:.0f} s ({reason(status)}); the workload starts outside it,"
                    " in plaintext, since redirect.on_proxy_loss is open"
                )
                return True
        if now >= self._say_at:
            self._said += 1
            self._say_at = now + PAUSES.pause(self._said)
            waited = f"for {now - self._began:.0f} s so far"
            self._say(f"the workload waits, {waited}, until all it sends goes through the proxy: {reason(status)}")
        return False


def _is_closed(where: Paths) -> bool:
    """A configuration that cannot be read opens nothing."""
    # Most workloads never wait so long, and every import at the start delays the daemon.
    from harness.config import load, schema

    try:
        return load.load(where, os.environ).redirect.on_proxy_loss is schema.OnProxyLoss.CLOSED
    except HarnessError:
        return True


def _redirected(status: Mapping[str, Any]) -> bool:
    return any(condition["name"] == "Redirected" and condition["status"] == "True" for condition in status.get("conditions", ()))


def reason(status: Mapping[str, Any]) -> str:
    """Of the first part that has a problem, or else of the first that is not in place; the redirect is the last part.

    Not of the workload's probes: they fail because it waits.
    """
    conditions = [condition for condition in status.get("conditions", ()) if condition["name"] != "Application"]
    missing = [condition for condition in conditions if condition["status"] != "True"]
    wrong = [condition for condition in missing if condition["problem"]]
    if not missing:
        return str(status.get("message") or "no reason is known; see `meshexp status`")
    first = (wrong or missing)[0]
    hint = f" ({first['hint']})" if first["hint"] else ""
    return f"{first['name']}: {first['message']}{hint}; `meshexp status` shows more"
