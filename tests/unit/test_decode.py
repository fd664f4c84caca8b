from __future__ import annotations

import enum
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import decode, messages
from harness.errors import ConfigError
from harness.probe import Probe
from harness.texts import shown
from harness.values import Address, Duration, Ports, parse_address


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, slots=True)
class Inner:
    workload_ips: tuple[Address, ...]
    wait: Duration = 1.0


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner
    colour: Colour = Colour.RED
    ports: tuple[Ports, ...] = ()
    labels: dict[str, str] | None = None


GOOD = {"name": "x", "inner": {"workload_ips": ["10.0.0.1"], "wait": "2s"}, "colour": "green", "ports": [80, "1-5"]}


def test_every_fault_at_once_with_its_path() -> None:
    bad = {"inner": {"workload_ips": ["10.0.0.1", "nonsense"], "wait": "soon", "wate": 1}, "colour": "gren", "ports": [0]}
    with pytest.raises(ConfigError) as raised:
        decode.decode(Outer, bad, source="test")
    faults = {fault.path: fault for fault in raised.value.faults}
    assert set(faults) == {"name", "inner.workload_ips[1]", "inner.wait", "inner.wate", "colour", "ports[0]"}
    assert faults["inner.wate"].hint == "did you mean wait?"
    assert faults["colour"].hint == "did you mean green?"
    assert raised.value.exit_code == 78


def test_camel_case_is_kubernetes_spelling() -> None:
    data = {"workloadIPs": ["10.0.0.1"]}
    assert decode.decode(Inner, data, source="test", camel=True).workload_ips == (parse_address("10.0.0.1"),)
    assert decode.encode(Inner((parse_address("10.0.0.1"),)), camel=True)["workloadIPs"] == ["10.0.0.1"]


def test_lenient_passes_over_what_it_does_not_know() -> None:
    assert decode.decode(Outer, {**GOOD, "new": 1}, source="test", lenient=True) == decode.decode(Outer, GOOD, source="test")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_something_else_than_a_mapping_is_one_fault(data: object) -> None:
    with pytest.raises(ConfigError) as raised:
        decode.decode(Outer, data, source="test")
    assert len(raised.value.faults) == 1


@dataclass(frozen=True, slots=True)
class Labelled:
    labels: dict[str, str] = field(default_factory=dict)


def test_an_empty_key_is_the_default_whatever_was_decoded_before() -> None:
    """Hints are compared, not identified: two classes' `dict[str, str]` are equal objects, and a cache may return either."""
    assert decode.unwrap_optional(dict[str, str]) == dict[str, str]
    assert decode.decode(Labelled, {"labels": None}, source="test") == Labelled()


def test_true_is_no_number() -> None:
    with pytest.raises(ConfigError, match="a whole number"):
        decode.decode(messages.StateReport, {"sequence": True, "ready": True, "reason": "Ready"}, source="test")


@given(
    st.builds(
        messages.StateReport,
        sequence=st.integers(0, 2**62),
        ready=st.booleans(),
        reason=st.sampled_from(messages.Reason),
        message=st.text(max_size=50).map(shown),
    )
)
def test_a_message_survives_the_wire(report: messages.StateReport) -> None:
    assert decode.decode(messages.StateReport, decode.encode(report), source="test") == report


def test_a_probe_has_exactly_one_kind() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        decode.decode(Probe, {"periodSeconds": 1}, source="test", camel=True)
    both = {"httpGet": {"port": 80}, "tcpSocket": {"port": 80}}
    with pytest.raises(ConfigError, match="exactly one"):
        decode.decode(Probe, both, source="test", camel=True)
