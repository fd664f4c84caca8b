"""What this process must be allowed to do before it changes anything."""

from __future__ import annotations

import os

from harness.check_problems import PRIVILEGES_MISSING
from harness.errors import PermissionError_
from harness.system import process

CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_ADMIN = 5, 6, 7, 8, 12
# KILL ends children that run under users of their own: without it there is no clean stop.
NEEDED = {
    CAP_NET_ADMIN: "CAP_NET_ADMIN",
    CAP_SETUID: "CAP_SETUID",
    CAP_SETGID: "CAP_SETGID",
    CAP_SETPCAP: "CAP_SETPCAP",
    CAP_KILL: "CAP_KILL",
}


def check(verb: str = "run") -> None:
    """For a verb that looks at or changes routes and rules. Raises PermissionError_ naming every capability that is missing."""
    root(verb)
    missing = [name for bit, name in NEEDED.items() if not process.holds(bit)]
    if missing:
        found = PRIVILEGES_MISSING.found("looking at the capabilities of this process", f"missing {', '.join(missing)}")
        raise PermissionError_(found.came, f"{found.hint()}; {PRIVILEGES_MISSING.explain}", tried=found.tried)


def root(verb: str) -> None:
    """Raises PermissionError_ (exit 77) for every other user."""
    if os.geteuid() != 0:
        hint = "start it by its unit, or with sudo" if verb == "run" else "run it with sudo"
        raise PermissionError_(f"`meshexp {verb}` needs root", hint)
