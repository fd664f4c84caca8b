"""Values that another machine writes to do harm: each is refused, with its place, before anything is made of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness import json_text
from harness.decode import MOST_FAULTS, decode
from harness.errors import ConfigError
from harness.messages import ClusterFacts, RegistrationRequest
from harness.probe import HttpGet, Probe, TcpSocket
from harness.specs import Check
from harness.system.probe_call import Checker


@pytest.mark.parametrize("host", ["db..internal", "a" * 64, "a\nb", "-x", "\ud800"])
def test_such_a_host_is_refused_and_only_fails_the_probe(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Probe, {"tcp_socket": {"port": 1, "host": host}}, source="test")
    assert [fault.path for fault in caught.value.faults] == ["tcp_socket.host"]
    for probe in (Probe(tcp_socket=TcpSocket(1, host)), Probe(http_get=HttpGet(1, host))):
        assert asyncio.run(Checker().check(Check(probe)))


@pytest.mark.parametrize("text", ["[" * 1000 + "]" * 1000, "[NaN]", "[1e999]", '["\\ud800"]', "[" + "1," * 200_000 + "1]"])
def test_json_that_is_too_much(text: str) -> None:
    with pytest.raises(ValueError):
        json_text.loads(text)


def test_a_long_list_is_one_fault() -> None:
    data: dict[str, Any] = {"group": "g", "namespace": "n", "instance_id": "i", "hostname": "h", "addresses": [0] * 32_000}
    with pytest.raises(ConfigError) as caught:
        decode(RegistrationRequest, data, source="test")
    assert [fault.path for fault in caught.value.faults] == ["addresses"]


def test_it_stops_after_many_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(ClusterFacts, {"service_cidrs": [0] * 200}, source="test")
    assert len(caught.value.faults) == MOST_FAULTS + 1
