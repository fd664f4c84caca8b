"""The text form of the metrics, of a snapshot with anything in it that a name could be."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness import metrics_text
from tests import exposition


def snapshot(name: str, number: float = 0.5) -> dict[str, Any]:
    when = "2026-11-24T20:00:00.250+00:00"
    return {
        "version": name, "proxy_version": None, "phase": "Ready", "ready": True, "started": when, "joined_seconds": None,
        "workload": {"namespace": "faces", "group": "face", "name": None, "hostname": name, "identity": None},
        "conditions": [{"name": "Routes", "status": "Unknown", "problem": None, "severity": None}],
        "children": {"proxy": {"state": "starting", "restarts": 3}},
        "certificates": {"svid": when, "signing": None},
        "certificate_lifetimes": {"svid": 86400, "signing": None},
        "trust_anchors": [{"fingerprint": "0123456789abcdef" * 4, "begins": when, "ends": "2027-11-24T20:00:00.250+00:00"}],
        "probes": [{"probe": name, "passing": False, "passed": 1, "failed": 2}],
        "calls": {"state": {"answered": 4, "failed": 0, "seconds": number, "answered_at": None}},
        "looked": when, "counters": {"cycles": 7, "changes": {"redirect": 2}, "repairs": {}, "failures": {}},
    }  # fmt: skip


@given(st.text(), st.floats(0, 1e12))
@settings(max_examples=200)
def test_whatever_a_name_has_in_it_there_is_one_sample_of_it(name: str, number: float) -> None:
    text = metrics_text.render(snapshot(name, number))
    found = exposition.read(text)
    escaped = re.sub(r'([\\"])', r"\\\1", name).replace("\n", "\\n")
    assert found.value("meshexp_probe_passing", probe=escaped) == 0
    assert found.value("meshexp_controller_call_duration_seconds_sum", call="state") == number


def test_what_is_not_known_is_not_said() -> None:
    text = metrics_text.render(snapshot("x"))
    exposition.lint(text)
    found = exposition.read(text)
    for name in ("meshexp_join_duration_seconds", "meshexp_problem"):
        assert name not in found.families
    assert found.value("meshexp_certificate_expiry_timestamp_seconds", certificate="signing") is None
    assert found.value("meshexp_certificate_expiry_timestamp_seconds", certificate="svid") == 1795550400.25
    assert found.value("meshexp_certificate_lifetime_seconds", certificate="svid") == 86400
    assert found.value("meshexp_certificate_lifetime_seconds", certificate="signing") is None
    assert found.value("meshexp_trust_anchor_expiry_timestamp_seconds", anchor="0123456789abcdef") == 1827086400.25
    assert found.value("meshexp_trust_anchor_lifetime_seconds", anchor="0123456789abcdef") == 365 * 86400
    assert found.value("meshexp_controller_last_answer_timestamp_seconds") == 1795550400.25, "the daemon's start"
    assert found.value("meshexp_condition", condition="Routes", status="unknown") == 1
    assert found.value("meshexp_last_cycle_timestamp_seconds") == 1795550400.25
    assert found.value("meshexp_changes_total", part="routes") == 0, "so that the first is an increase"
    assert metrics_text.render({}) == ""


def test_each_sample_names_its_machine_and_group() -> None:
    """Otherwise an alert does not say whose it is, and node_exporter refuses the files of two workloads of one machine."""
    one, other = (metrics_text.render(with_group(group)) for group in ("face", "smiley"))
    samples = [exposition.read(text).samples for text in (one, other)]
    assert samples[0] and all({"host", "namespace", "group"} <= dict(labels).keys() for _, labels in samples[0])
    assert not samples[0].keys() & samples[1].keys()
    assert metrics_text.is_of(one, with_group("face")) and not metrics_text.is_of(one, with_group("smiley"))


def test_no_sample_is_there_twice() -> None:
    """node_exporter takes nothing at all of a file that has one sample twice. A full disk meets several parts at once."""
    data = snapshot("x")
    full = {"status": "False", "problem": "disk-full", "severity": "error"}
    data["conditions"] = [{"name": name, **full} for name in ("Routes", "Redirect")]
    data["trust_anchors"] *= 2
    data["probes"] *= 2
    text = metrics_text.render(data)
    exposition.lint(text)
    assert exposition.read(text).value("meshexp_problem", problem="disk-full", severity="error") == 1


def with_group(group: str) -> dict[str, Any]:
    data = snapshot("vm-1")
    return data | {"workload": data["workload"] | {"group": group}}
