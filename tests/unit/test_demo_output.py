"""What the demo makes of differences on the host, of a daemon's status, and of the answers to a client."""

from __future__ import annotations

from typing import Any

import pytest

from demo import host_state
from demo.calls import HEART_EYES, Calls, counts, listed
from demo.playground import News


@pytest.mark.parametrize(
    "line",
    [
        "+7: br0: <BROADCAST,MULTICAST,UP> mtu 1500",
        "+9: v-smiley2-1@if2: <BROADCAST,MULTICAST,UP>",
        "+net.ipv4.conf.br0.forwarding = 1",
        "-net.ipv4.ip_forward = 0",
        '+{"dst": "10.42.0.0/24", "gateway": "10.77.0.1", "dev": "eth0", "protocol": "77"}',
        '+{"table": {"family": "inet", "name": "meshexp"}}',
        "+:MESHEXP-OUTPUT - [0:0]",
    ],
)
def test_what_the_demo_could_have_left_is_its_own(line: str) -> None:
    assert host_state.by_us(["--- links before", "+++ links after", "@@ -1 +1 @@", line]) == ([line], [])


@pytest.mark.parametrize(
    "line",
    [
        "+net.ipv4.tcp_fin_timeout = 33",
        "-net.netfilter.nf_conntrack_tcp_timeout_established = 432000",
        "+12: docker0: <NO-CARRIER,BROADCAST> mtu 1500",
        "+13: vethc0ffee@if12: <BROADCAST>",
        "+-A DOCKER -d 172.17.0.2/32 -p tcp -j ACCEPT",
        '+{"dst": "10.42.0.0/24", "dev": "cni0", "protocol": "kernel"}',
        "+net.ipv4.ip_forward_use_pmtu = 1",
    ],
)
def test_what_it_could_not_have_left_is_of_others(line: str) -> None:
    assert host_state.by_us([line]) == ([], [line])


def status(phase: str, problem: str | None = None, message: str = "") -> dict[str, Any]:
    condition = {"name": "Application", "message": message, "problem": problem}
    return {"phase": phase, "conditions": [condition], "workload": {"name": "face-abc", "identity": "spiffe://x/face"}}


def test_a_machine_that_joins_is_one_line_and_so_is_each_fault() -> None:
    news, told = News(), []
    for seen in (
        status("Starting", "probe-failed", "refused"),
        status("Ready", None, "the probe passes"),
        status("Ready", None, "the probe passes"),
        status("Degraded", "probe-failed", "503"),
        status("Degraded", "probe-failed", "503 again"),
        status("Ready", None, "the probe passes"),
        status("Draining"),
        status("Draining"),
    ):
        told += list(news.of(seen, 2.0))
    assert told == [
        "Ready after 2.0 s as spiffe://x/face, ExternalWorkload face-abc",
        "Application: 503 [probe-failed]",
        "Application: the probe passes",
        "drains: no new requests, and those that are under way are finished",
    ]


def test_what_is_only_there_while_it_is_wrong_is_told_when_it_goes_too() -> None:
    cordoned = status("Degraded")
    cordoned["conditions"].append({"name": "Cordoned", "message": "new disks", "problem": "cordoned"})
    news, told = News(), []
    for seen in (status("Ready"), cordoned, cordoned, status("Ready"), status("Ready"), cordoned):
        told += list(news.of(seen, 2.0))
    assert told[1:] == ["Cordoned: new disks [cordoned]", "Cordoned: no longer", "Cordoned: new disks [cordoned]"]


def test_answers_are_counted_and_told_in_words() -> None:
    calls = Calls.read(
        '200 face-1 {"smiley": "&#x1F603;", "color": "#66CCEE"}\n'
        '200 face-2 {"smiley": "&#x1F60D;", "color": "#228833"}\n'
        '200 face-2 {"smiley": "&#x1F92C;", "color": "#228833", "errors": ["smiley: it answered 500"]}\n'
        "failed ConnectionRefusedError [Errno 111] Connection refused\n"
        "503 None gone\n"
    )
    assert calls.failed == 3
    assert calls.by("pod") == {"face-1": 1, "face-2": 1}
    assert counts(calls.by("color")) == "1 blue and 1 green"
    assert counts(calls.by("smiley")) == "1 😃 and 1 😍"
    assert str(calls).startswith("5 requests, 3 failed; smiley: it answered 500 (1); failed ConnectionRefused")
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(("hearts", "share"), [(0, 0.0), (4, 0.2), (10, 0.5)])
def test_shares_of_the_scenario_are_told_apart(hearts: int, share: float) -> None:
    good = [Calls.read(f'200 face-1 {{"smiley": "{face}", "color": "#66CCEE"}}')[0] for face in ("&#x1F603;", "&#x1F60D;")]
    calls = Calls([good[1]] * hearts + [good[0]] * (20 - hearts))
    assert [value for value in (0.0, 0.2, 0.5) if calls.has_share("smiley", HEART_EYES, value)] == [share]
    assert not Calls((*calls, *Calls.read("failed"))).has_share("smiley", HEART_EYES, share)
    assert not Calls().has_share("smiley", HEART_EYES, share)
