"""docs/ports.md against the code: every port that can be set, and every one that cannot."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controller import credentials
from controller.config import ControllerConfig
from harness import dns_text, proxy_environment
from harness.config import schema
from harness.values import Endpoint, HostPort, Port
from tests import ports_page
from tests.mesh import ROOT
from tests.ports_page import CLUSTER, FIREWALLS, MACHINE, rows

CHART = ROOT / "deploy" / "chart"


def settable(cls: Any, prefix: str = "") -> Iterator[tuple[str, int | None]]:
    """Every key that is a port or an address with one, and the port that it has by default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, path = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint) and hint is not HostPort:
            yield from settable(hint, f"{path}.")
        elif hint == Port or Endpoint in (hint, *typing.get_args(hint)):
            default = field.default
            yield path, default.port if isinstance(default, HostPort) else default if isinstance(default, int) else None


MACHINES_KEYS, CONTROLLERS_KEYS = dict(settable(schema.Config)), dict(settable(ControllerConfig))


def chart_values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_there_are_such_keys() -> None:
    assert {"proxy.inbound_port", "controller.address", "dns.servers", "metrics.listen"} <= set(MACHINES_KEYS)
    assert {"listen", "health_listen", "fleet_listen", "identity_address"} == set(CONTROLLERS_KEYS)


@pytest.mark.parametrize(("tables", "keys"), [((FIREWALLS, MACHINE), MACHINES_KEYS), ((CLUSTER,), CONTROLLERS_KEYS)])
def test_each_key_has_a_row_with_its_default(tables: tuple[str, ...], keys: dict[str, int | None]) -> None:
    for key, port in keys.items():
        of_it = [row for row in rows(*tables) if key in row.keys]
        assert of_it, f"{key} is not in docs/ports.md"
        assert port is None or any(port in row.ports for row in of_it), f"{key}: {port} by default"


def test_each_key_that_is_named_exists() -> None:
    values = chart_values()
    for row in rows():
        for key in row.keys - {"ports"}:  # of the ExternalGroup
            section, _, name = key.partition(".")
            in_chart = name in values.get(section, {}) if isinstance(values.get(section), dict) else False
            assert key in {**MACHINES_KEYS, **CONTROLLERS_KEYS} or in_chart or key == "dns.mode", key


def test_what_cannot_be_set_is_right() -> None:
    by_key = {key: row.ports for row in rows(FIREWALLS, MACHINE) for key in row.keys}
    assert proxy_environment.DESTINATION.port in by_key["proxy.destination_address"]
    assert proxy_environment.POLICY.port in by_key["proxy.policy_address"]
    assert {53} == by_key["dns.servers"] == by_key["dns.mode"]
    (names,) = (row for row in rows(MACHINE) if "dns.mode" in row.keys)
    assert dns_text.LISTEN in names.cells[0]
    assert any(credentials._IDENTITY_PORT in row.ports for row in rows(CLUSTER) if "identity_address" in row.keys)


def test_the_charts_ports_are_on_the_page() -> None:
    values, text = chart_values(), "".join(path.read_text() for path in sorted((CHART / "templates").glob("*.yaml")))
    policy = values["networkPolicy"]
    fixed = {int(port) for port in re.findall(r"(?:containerPort|port): (\d+)", text)}
    ports = fixed | {*policy["apiServerPorts"], *policy["machinePorts"], values["service"]["port"], values["fleetPage"]["port"]}
    assert {8081, 9995, 8080, 53} <= ports
    told = {port for row in rows() for port in row.ports}
    assert ports <= told, ports - told


def test_sockets_are_read_as_ss_writes_them() -> None:
    text = """tcp LISTEN 0 4096 [::ffff:127.0.0.1]:4192 *:*
tcp LISTEN 0 4096 *:4143 *:*
udp UNCONN 0 0 127.0.0.77%lo:53 0.0.0.0:*
tcp LISTEN 0 4096 10.0.0.1:8000 0.0.0.0:*
"""
    assert ports_page.listening(text) == {(True, 4192), (False, 4143), (True, 53), (False, 8000)}
    connections = (
        ("10.0.0.1:40000", "10.0.0.2:8086"),
        ("10.0.0.1:4143", "10.0.0.9:51000"),
        ("127.0.0.1:50000", "127.0.0.1:4191"),
    )
    said = "\n".join(f"ESTAB 0 0 {own} {other}" for own, other in connections)
    assert ports_page.dialled(said) == {8086}
