"""Fractions of a second, ports by name and probes in two places: what the controller makes of them, and says about them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import rendering
from controller.embedded_store import EmbeddedStore
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, group_from_object, stored_group
from controller.model import Key
from controller.plain_spec import plain
from controller.registry import Caller
from controller.rendering import Times
from harness.decode import decode, encode
from harness.errors import ConfigError
from harness.messages import ClusterFacts, Registration
from tests.controller_support import group, group_object, settle, workload
from tests.unit.controller_world import World, run

PORTS: dict[str, Any] = {
    "ports": [{"port": 8000, "name": "http"}, {"port": 53, "name": "dns", "protocol": "UDP"}, {"port": 9000}]
}
FRACTIONS: dict[str, Any] = {
    "template": PORTS,
    "leaseSeconds": 5.5,
    "expirySeconds": 60.0,
    "drainSeconds": 0.2,
    "probes": [{"tcpSocket": {"port": 9}, "initialDelaySeconds": 0.5, "periodSeconds": 0.1, "timeoutSeconds": 0.01}],
}


def test_a_fraction_is_rounded_up_with_a_warning_that_has_its_path() -> None:
    made = group(**FRACTIONS)
    spec, probe = made.spec, made.probes[0]
    assert (spec.lease_seconds, spec.expiry_seconds, spec.drain_seconds) == (6, 60, 1)
    assert (probe.initial_delay_seconds, probe.period_seconds, probe.timeout_seconds) == (1, 1, 1)
    assert [text.partition(": write")[0] for text in made.warnings] == [
        "spec.leaseSeconds: 5.5 counts as 6",
        "spec.drainSeconds: 0.2 counts as 1",
        "spec.probes[0].initialDelaySeconds: 0.5 counts as 1",
        "spec.probes[0].periodSeconds: 0.1 counts as 1",
        "spec.probes[0].timeoutSeconds: 0.01 counts as 1",
    ]


def test_whole_seconds_are_no_warning_however_they_are_written() -> None:
    assert group(leaseSeconds=5.0, drainSeconds=0.0).warnings == ()


@pytest.mark.parametrize("seconds", [0.4, -0.5, math.inf, math.nan, "5", True, 86400.5])
def test_no_rounding_makes_a_fault_legal(seconds: object) -> None:
    with pytest.raises(ConfigError) as caught:
        group(leaseSeconds=seconds)
    assert [fault.path for fault in caught.value.faults] == ["spec.leaseSeconds"]


@pytest.mark.parametrize(
    "change", [{"periodSeconds": 0.09}, {"timeoutSeconds": -0.5}, {"initialDelaySeconds": -0.1}, {"periodSeconds": math.nan}]
)
def test_no_rounding_makes_a_probes_fault_legal(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        group(probes=[{"tcpSocket": {"port": 9}, **change}])
    assert [fault.path for fault in caught.value.faults] == ["spec.probes[0]"]


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket", "grpc"])
@pytest.mark.parametrize("place", ["probes", "template"])
def test_a_port_by_name_reaches_the_machine_as_a_number(kind: str, place: str) -> None:
    probes = [{kind: {"port": "http"}}]
    spec: dict[str, Any] = (
        {"template": PORTS, "probes": probes} if place == "probes" else {"template": PORTS | {"probes": probes}, "probes": []}
    )
    made = group(api=GROUP_API, **spec)
    registration = rendering.registration(made, workload(), ClusterFacts(), Times())
    sent = encode(registration)["probes"][0]
    assert [value["port"] for value in sent.values() if isinstance(value, dict)] == [8000]
    assert decode(Registration, encode(registration), source="test").probes == made.probes


@pytest.mark.parametrize("name", ["htpp", "dns", ""])
def test_a_name_of_no_tcp_port_is_one_fault_with_its_path(name: str) -> None:
    broken = stored_group(group_object(template=PORTS, probes=[{"tcpSocket": {"port": 9}}, {"grpc": {"port": name}}]))
    assert broken.fault.startswith(f"spec.probes[1].grpc.port: {name!r} is not the name of a TCP port in spec.template.ports")
    assert ";" not in broken.fault and "has http" in broken.fault
    assert ("did you mean http?" in broken.fault) == (name == "htpp")


def test_probes_in_the_template_are_deprecated_in_our_own_kind_only() -> None:
    in_both: dict[str, Any] = {
        "template": PORTS | {"probes": [{"exec": {"name": "check"}}]},
        "probes": [{"tcpSocket": {"port": 9}}],
    }
    ours, theirs = group(api=GROUP_API, **in_both), group(api=BUOYANT_GROUP_API, **in_both)
    assert [str(probe) for probe in ours.probes] == [str(probe) for probe in theirs.probes] == ["tcp :9", "exec check"]
    assert ours.warnings == ("spec.template.probes is deprecated: move its entries to spec.probes",)
    assert theirs.warnings == ()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("http"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["probes", "template", "ports", "port", "name", "httpGet", "leaseSeconds", "periodSeconds"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(anything)
def test_whatever_the_spec_is_it_is_read_or_refused_and_not_changed(spec: Any) -> None:
    before = copy.deepcopy(spec)
    plain(spec, probes_in_template=False)
    assert repr(spec) == repr(before)
    assert stored_group(group_object(api=GROUP_API) | {"spec": spec}).metadata.name == "face"


def test_the_group_is_accepted_with_the_warnings_as_its_message_and_one_event() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.edit(**FRACTIONS)
        await w.clock.advance(3)
        told = await w.registry.hold(Caller(made.identity, made.secret), Key("faces", made.name), made.version, 60)
        assert (told.lease_seconds, told.drain_seconds, told.probes[0].period_seconds) == (6, 1, 1)
        accepted = (await w.store.buoyant_groups.get(Key("faces", "face"))).status.condition("Accepted")
        assert accepted is not None
        assert (accepted.status, accepted.reason) == ("True", "ValidWithWarnings")
        assert "spec.leaseSeconds: 5.5 counts as 6" in accepted.message
        await w.say(made, 1)
        await w.clock.advance(60)
        assert warned(w.store) == [accepted.message]
        await w.edit(leaseSeconds=6)
        await w.clock.advance(3)
        accepted = (await w.store.buoyant_groups.get(Key("faces", "face"))).status.condition("Accepted")
        assert accepted is not None and (accepted.reason, accepted.message) == ("Valid", "")

    run(body)


def warned(store: EmbeddedStore) -> list[str]:
    return [event.message for event in store.events if event.reason == "ValidWithWarnings" and event.warning]


def test_a_named_port_that_goes_takes_nothing_from_the_machines() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.edit(template=PORTS, probes=[{"tcpSocket": {"port": "http"}}])
        old = await w.store.buoyant_groups.get(Key("faces", "face"))
        broken = stored_group(old.to_object() | {"spec": {"template": {}, "probes": [{"tcpSocket": {"port": "http"}}]}})
        await w.store.buoyant_groups.replace(broken)
        await w.clock.advance(3)
        await settle()
        found = (await w.store.buoyant_groups.get(Key("faces", "face"))).status.condition("Accepted")
        assert found is not None and found.status == "False" and "spec.probes[0].tcpSocket.port" in found.message
        assert str((await w.join(secret=made.secret)).probes[0]) == "tcp :8000"

    run(body)


def test_each_condition_has_every_field_also_where_another_wrote_a_poor_one() -> None:
    async def body(w: World) -> None:
        old = await w.store.buoyant_groups.get(Key("faces", "face"))
        poor = {"conditions": [{"type": "Accepted", "status": "True"}, {"type": "Ready", "status": "False"}]}
        read = group_from_object(old.to_object() | {"status": poor}, lenient=True)
        await w.store.buoyant_groups.patch_status(read)
        await w.clock.advance(3)
        conditions = (await w.store.buoyant_groups.get(Key("faces", "face"))).status.conditions
        assert {condition.type for condition in conditions} == {"Accepted", "Ready"}
        for condition in conditions:
            assert condition.reason and condition.last_transition_time and condition.observed_generation is not None
            assert {"type", "status", "reason", "message", "lastTransitionTime"} <= encode(condition, camel=True).keys()

    run(body)
