"""When each alert rule fires, and when it does not: time series by the minute, as promtool writes them, and what follows."""

from __future__ import annotations

from dataclasses import dataclass, field

Labels = dict[str, str]

TARGET = {"job": "meshexp", "instance": "10.9.0.2:4192"}
FACE = {**TARGET, "host": "vm-1", "namespace": "faces", "group": "face"}
SMILEY = {**FACE, "group": "smiley"}
"""Another workload of the same machine, told by the same node_exporter."""
REPLICAS = [{"job": "controller", "instance": name} for name in ("a", "b")]
GROUP = {"namespace": "faces", "group": "face"}
HOUR, DAY = 3600, 86400


@dataclass(frozen=True, slots=True)
class Case:
    """`fires`: by minute, the labels of each alert that fires then."""

    alert: str
    why: str
    series: list[tuple[str, Labels, str]]
    fires: dict[int, list[Labels]] = field(default_factory=dict)


def certificate(kind: str, left: int, life: int, steps: int = 30) -> list[tuple[str, Labels, str]]:
    labels = {**FACE, "certificate": kind}
    return [
        ("meshexp_certificate_expiry_timestamp_seconds", labels, f"{left}x{steps}"),
        ("meshexp_certificate_lifetime_seconds", labels, f"{life}x{steps}"),
    ]


def anchor(name: str, left: int, life: int, values: str = "{}x30") -> list[tuple[str, Labels, str]]:
    labels = {**FACE, "anchor": name}
    return [
        ("meshexp_trust_anchor_expiry_timestamp_seconds", labels, values.format(left)),
        ("meshexp_trust_anchor_lifetime_seconds", labels, values.format(life)),
    ]


def workloads(replica: Labels, ready: str, unready: str, connected: str = "1x60") -> list[tuple[str, Labels, str]]:
    name = "meshexp_controller_workloads"
    return [
        (name, {**replica, **GROUP, "ready": "true"}, ready),
        (name, {**replica, **GROUP, "ready": "false"}, unready),
        ("meshexp_controller_store_connected", replica, connected),
    ]


CYCLE, ANSWER = "meshexp_last_cycle_timestamp_seconds", "meshexp_controller_last_answer_timestamp_seconds"
SVID, PROXY, SIGNING = ({**FACE, "certificate": kind} for kind in ("svid", "proxy", "signing"))
PROBLEM = {**FACE, "problem": "proxy-crash-loop", "severity": "error"}
CASES = [
    Case("MeshexpMachineNotReady", "ready", [("meshexp_ready", FACE, "1x20")], {15: []}),
    Case("MeshexpMachineNotReady", "not ready", [("meshexp_ready", FACE, "0x20")], {4: [], 15: [FACE]}),
    Case("MeshexpMachineNotReady", "a start of four minutes", [("meshexp_ready", FACE, "0x3 1x20")], {4: [], 15: []}),
    *(
        Case(
            "MeshexpMachineNotReady", f"{code}, and its neighbour has nothing to do with it",
            [
                ("meshexp_ready", FACE, "0x20"), ("meshexp_ready", SMILEY, "0x20"),
                ("meshexp_problem", {**FACE, "problem": code, "severity": "warning"}, "1x20"),
            ],
            {15: [SMILEY]},
        )
        for code in ("cordoned", "lease-lapsed")
    ),
    Case("MeshexpProblem", "an error", [("meshexp_problem", PROBLEM, "1x20")], {4: [], 15: [PROBLEM]}),
    Case("MeshexpProblem", "a warning", [("meshexp_problem", {**PROBLEM, "severity": "warning"}, "1x20")], {15: []}),
    Case("MeshexpProblem", "it is gone", [("meshexp_problem", PROBLEM, "1x10 stale")], {8: [PROBLEM], 12: []}),
    Case("MeshexpCertificateNotRenewed", "a day's, half of it is left", certificate("svid", 12 * HOUR, DAY), {15: []}),
    Case(
        "MeshexpCertificateNotRenewed", "a day's, 7 hours are left",
        certificate("svid", 7 * HOUR, DAY) + certificate("proxy", 7 * HOUR, DAY), {15: [SVID, PROXY]},
    ),
    Case("MeshexpCertificateNotRenewed", "an hour's, 25 minutes are left", certificate("proxy", 40 * 60, HOUR), {15: []}),
    Case("MeshexpCertificateNotRenewed", "an hour's, 15 minutes are left", certificate("proxy", 30 * 60, HOUR), {15: [PROXY]}),
    Case("MeshexpCertificateNotRenewed", "one of 10 minutes, before its end", certificate("svid", 600, 600), {6: [], 9: [SVID]}),
    Case("MeshexpCertificateNotRenewed", "after its end", certificate("svid", 600, 600), {20: [SVID]}),
    Case("MeshexpCertificateNotRenewed", "SPIRE's CA has its own", certificate("signing", HOUR, DAY), {15: []}),
    Case("MeshexpSigningCertificateEnds", "29 of 90 days", certificate("signing", 29 * DAY, 90 * DAY), {15: [SIGNING]}),
    Case("MeshexpSigningCertificateEnds", "31 of 90 days", certificate("signing", 31 * DAY, 90 * DAY), {15: []}),
    Case("MeshexpSigningCertificateEnds", "an SVID has its own", certificate("svid", HOUR, DAY), {15: []}),
    Case("MeshexpTrustAnchorEnds", "59 days of 10 years", anchor("a", 59 * DAY, 3650 * DAY), {5: [FACE]}),
    Case("MeshexpTrustAnchorEnds", "3 of 10 years", anchor("a", 3 * 365 * DAY, 3650 * DAY), {5: []}),
    Case("MeshexpTrustAnchorEnds", "50 of 90 days: its life is short", anchor("a", 50 * DAY, 90 * DAY), {5: []}),
    Case("MeshexpTrustAnchorEnds", "29 of 90 days", anchor("a", 29 * DAY, 90 * DAY), {5: [FACE]}),
    Case(
        "MeshexpTrustAnchorEnds", "a rotation: until the new one comes",
        anchor("old", 9 * DAY, 365 * DAY) + anchor("new", 3650 * DAY, 3650 * DAY, "_x10 {}x30"), {5: [FACE], 20: []},
    ),
    Case("MeshexpTrustAnchorEnds", "two that end", anchor("a", 9 * DAY, 365 * DAY) + anchor("b", DAY, 365 * DAY), {5: [FACE]}),
    Case(
        "MeshexpChildKeepsExiting", "one a minute",
        [("meshexp_child_restarts_total", {**FACE, "child": "proxy"}, "0+1x20")], {15: [{**FACE, "child": "proxy"}]},
    ),
    Case(
        "MeshexpChildKeepsExiting", "once",
        [("meshexp_child_restarts_total", {**FACE, "child": "proxy"}, "0x5 1x14")], {15: []},
    ),
    Case(
        "MeshexpChildKeepsExiting", "also while the daemon is started again",
        [("meshexp_child_restarts_total", {**FACE, "child": "proxy"}, "0 1 2 0 1 2 0 1 2 0 1 2")],
        {11: [{**FACE, "child": "proxy"}]},
    ),
    Case(
        "MeshexpSomebodyChangesTheRules", "one a minute",
        [("meshexp_repairs_total", {**FACE, "part": "redirect"}, "0+1x20")], {15: [{**FACE, "part": "redirect"}]},
    ),
    Case(
        "MeshexpSomebodyChangesTheRules", "once",
        [("meshexp_repairs_total", {**FACE, "part": "redirect"}, "0x5 1x14")], {15: []},
    ),
    Case(
        "MeshexpProbeFails", "it fails",
        [("meshexp_probe_passing", {**FACE, "probe": "tcp :80"}, "0x20")], {4: [], 15: [{**FACE, "probe": "tcp :80"}]},
    ),
    Case("MeshexpProbeFails", "it passes", [("meshexp_probe_passing", {**FACE, "probe": "tcp :80"}, "1x20")], {15: []}),
    Case("MeshexpControllerSilent", "it answers", [(ANSWER, FACE, "0+60x20")], {15: []}),
    Case("MeshexpControllerSilent", "it does not", [(ANSWER, FACE, "0x20")], {15: [FACE]}),
    Case("MeshexpControllerSilent", "a restart", [(ANSWER, FACE, "0x10 660x20")], {10: [FACE], 20: [FACE]}),
    Case("MeshexpDaemonSilent", "it looks", [(CYCLE, FACE, "0+60x20"), ("up", TARGET, "1x20")], {15: []}),
    Case("MeshexpDaemonSilent", "its file is old", [(CYCLE, FACE, "0x20"), ("up", TARGET, "1x20")], {15: [FACE]}),
    Case(
        "MeshexpDaemonSilent", "killed: its metrics are gone with it",
        [(CYCLE, FACE, "0+60x5 stale"), ("up", TARGET, "1x5 0x1000")], {4: [], 15: [FACE], 900: [FACE]},
    ),
    Case(
        "MeshexpDaemonSilent", "it comes back",
        [(CYCLE, FACE, "0+60x5 stale _x9 900+60x20"), ("up", TARGET, "1x5 0x10 1x20")], {14: [FACE], 18: []},
    ),
    Case(
        "MeshexpDaemonSilent", "it left, and its file with it",
        [(CYCLE, FACE, "0+60x5 stale"), ("up", TARGET, "1x60")], {30: []},
    ),
    Case(
        "MeshexpDaemonSilent", "nobody scrapes it any more",
        [(CYCLE, FACE, "0+60x5 stale"), ("up", TARGET, "1x5 stale")], {30: []},
    ),
    Case("MeshexpControllerHasNoLeader", "nobody is scraped", [], {15: [{}]}),
    Case(
        "MeshexpControllerHasNoLeader", "none leads",
        [("meshexp_controller_leader", one, "0x20") for one in REPLICAS], {15: [{}]},
    ),
    Case(
        "MeshexpControllerHasNoLeader", "one leads",
        [("meshexp_controller_leader", one, value) for one, value in zip(REPLICAS, ("0x20", "1x20"), strict=True)], {15: []},
    ),
    Case(
        "MeshexpControllerHasNoLeader", "all are gone",
        [("meshexp_controller_leader", one, "1x5 stale") for one in REPLICAS], {15: [{}]},
    ),
    Case(
        "MeshexpControllerCannotWrite", "one of two",
        [("meshexp_controller_store_connected", one, value) for one, value in zip(REPLICAS, ("0x20", "1x20"), strict=True)],
        {1: [], 15: [REPLICAS[0]]},
    ),
    *(
        Case("MeshexpControllerPassesOver", name, [(f"meshexp_controller_store_{name}", REPLICAS[0], values)], {4: [], 15: fires})
        for name, values, fires in (
            ("missing_kinds", "1x20", [REPLICAS[0]]),
            ("unreadable_objects", "2x20", [REPLICAS[0]]),
            ("unreadable_objects", "0x20", []),
            ("refused_writes_total", "0+1x20", [REPLICAS[0]]),
            ("refused_writes_total", "7x20", []),
        )
    ),
    *(
        Case(
            "MeshexpControllerCertificateNotRenewed", why,
            [
                ("meshexp_controller_certificate_expiry_timestamp_seconds", REPLICAS[0], f"{left * HOUR}x20"),
                ("meshexp_controller_certificate_lifetime_seconds", REPLICAS[0], f"{DAY}x20"),
            ],
            {15: fires},
        )
        for why, left, fires in (("just before it is renewed", 8, []), ("it was not", 5, [REPLICAS[0]]))
    ),
    Case("MeshexpGroupHasNoReadyMachine", "one of three is ready", workloads(REPLICAS[0], "1x20", "2x20"), {15: []}),
    Case("MeshexpGroupHasNoReadyMachine", "none of two", workloads(REPLICAS[0], "0x20", "2x20"), {4: [], 15: [GROUP]}),
    Case(
        "MeshexpGroupHasNoReadyMachine", "the silent machines are deleted",
        workloads(REPLICAS[0], "2x5 0x50", "0x5 2x10 0x40"), {5: [], 14: [GROUP], 50: [GROUP]},
    ),
    Case(
        "MeshexpGroupHasNoReadyMachine", "the group is deleted",
        workloads(REPLICAS[0], "0x15 stale", "2x15 stale"), {14: [GROUP], 20: []},
    ),
    Case(
        "MeshexpGroupHasNoReadyMachine", "what a replica without the API server remembers does not count",
        workloads(REPLICAS[0], "0x60", "2x60") + workloads(REPLICAS[1], "2x60", "0x60", "1x5 0x55"), {5: [], 20: [GROUP]},
    ),
    Case(
        "MeshexpGroupHasNoReadyMachine", "nor does it end when all have lost it",
        [one for replica in REPLICAS for one in workloads(replica, "0x60", "2x60", "1x20 0x40")], {19: [GROUP], 40: [GROUP]},
    ),
    Case(
        "MeshexpControllerRefuses", "one machine, every 15 s",
        [("meshexp_controller_requests_total", {**REPLICAS[0], "call": "register", "code": "name-taken"}, "0+4x60")],
        {10: [], 40: [{"code": "name-taken"}]},
    ),
    Case(
        "MeshexpControllerRefuses", "a fleet that comes back",
        [("meshexp_controller_requests_total", {**REPLICAS[0], "call": "hold", "code": "not-registered"}, "0x5 5000x55")],
        {10: [], 15: [], 40: []},
    ),
    Case(
        "MeshexpControllerRefuses", "answers",
        [
            ("meshexp_controller_requests_total", {**REPLICAS[0], "call": "hold", "code": code}, "0+90x60")
            for code in ("ok", "ended")
        ],
        {40: []},
    ),
]  # fmt: skip
