"""The fields of `meshexp status -o json`, which is stable: within one `schema` fields are added, never changed or removed."""

from __future__ import annotations

FIELDS = {
    "schema": ("number", "1; it grows when a field changes its meaning"),
    "version": ("text", "of the harness"),
    "pid": ("number", "of the daemon"),
    "phase": ("text", "Starting, Ready, Degraded, Draining; Stopped without a daemon, Waiting without a configuration"),
    "phase_number": ("number", "the same for metrics: 0 Starting, 1 Ready, 2 Degraded, 3 Draining, 4 Stopped"),
    "since": ("time", "when the phase began"),
    "ready": ("yes or no", "whether peers are to send traffic here"),
    "reason": ("text", "of `ready`, as in the ExternalWorkload's Ready condition"),
    "message": ("text", "what is wrong, in a sentence; empty when all is well"),
    "workload.group": ("text", "the ExternalGroup"),
    "workload.namespace": ("text", "its namespace"),
    "workload.name": ("text or null", "the ExternalWorkload; null before the registration"),
    "workload.hostname": ("text", "this machine's name for people"),
    "workload.addresses[]": ("text", "where peers reach this machine"),
    "workload.identity": ("text or null", "the SPIFFE ID that peers expect"),
    "conditions[].name": ("text", "the part: Routes, Identity, Registration, Application, Proxy, Redirected, …"),
    "conditions[].status": ("text", "True, False or Unknown"),
    "conditions[].message": ("text", "how it stands, in a sentence"),
    "conditions[].problem": ("text or null", "the code of a known problem: an anchor in troubleshooting.md"),
    "conditions[].severity": ("text or null", "error or warning"),
    "conditions[].hint": ("text or null", "what mends it"),
    "children.NAME.pid": ("number or null", "of a child that runs"),
    "children.NAME.state": ("text", "stopped, starting, running, backoff or stopping"),
    "children.NAME.exits": ("number", "exits that nobody asked for, since it last ran for 10 s"),
    "children.NAME.since": ("time or null", "since when it has been in this state, while it lives"),
    "certificates.NAME": (
        "time or null",
        "the end of: svid (the machine's), proxy (the one it shows), signing (SPIRE's CA here)",
    ),
    "endpoints[].address": ("text", "what Linkerd gives to peers"),
    "endpoints[].port": ("number", "of the group's template"),
    "endpoints[].name": ("text", "of that port"),
    "reported.ready": ("yes or no", "what the controller has last heard; `reported` is null before it has heard anything"),
    "reported.reason": ("text", "with that"),
    "counters.cycles": ("number", "looks at the whole, since the daemon's start"),
    "counters.changes.PART": ("number", "changes that were made to a part, since then"),
    "counters.failures.PART": ("number", "changes that failed, since then"),
}
"""Dotted; `[]` is each of a list, a word in capitals any name."""
