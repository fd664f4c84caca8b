"""A status.json that counts, for tests of what reads it."""

from __future__ import annotations

import os
import time
from typing import Any

from harness.system import procfs


def snapshot() -> dict[str, Any]:
    """Of a daemon that is this very process: every field of the table, with values of its kind."""
    own = procfs.look(os.getpid())
    assert own is not None
    when = "2026-11-24T20:00:00.250+00:00"
    return {
        "schema": 1, "version": "0.1", "proxy_version": None, "pid": os.getpid(), "pid_started": own.started,
        "written": {"at": when, "uptime": time.clock_gettime(time.CLOCK_BOOTTIME), "valid_seconds": 60.0}, "looked": when,
        "phase": "Ready", "phase_number": 1, "since": when, "started": when, "joined_seconds": 0.5,
        "ready": True, "reason": "Ready", "message": "",
        "workload": {
            "group": "face", "namespace": "faces", "name": "face-1", "hostname": "vm", "addresses": ["10.9.0.2"],
            "identity": None,
        },
        "conditions": [
            {"name": "Routes", "status": "True", "message": "2 routes", "problem": "p", "severity": "error", "hint": "h",
             "where": "machine"},
        ],
        "children": {"proxy": {"pid": 1, "state": "running", "exits": 0, "restarts": 0, "since": when}},
        "certificates": {"svid": when}, "certificate_lifetimes": {"svid": 3600, "signing": None},
        "trust_anchors": [{"fingerprint": "ab" * 32, "begins": when, "ends": when}],
        "endpoints": [{"address": "10.9.0.2", "port": 8000, "name": "http"}],
        "probes": [{"probe": "tcp :1", "passing": True, "passed": 1, "failed": 0}],
        "calls": {"hold": {"answered": 1, "failed": 0, "seconds": 1.5, "answered_at": when}},
        "reported": {"ready": True, "reason": "Ready"}, "neighbours": [2102],
        "counters": {"cycles": 1, "changes": {"routes": 1}, "repairs": {}, "failures": {}},
    }  # fmt: skip
