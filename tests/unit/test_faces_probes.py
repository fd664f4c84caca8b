"""A readiness probe of the Faces workload: what is injected into its answers does not take it out of the mesh."""

from __future__ import annotations

import contextlib
import http.client

import pytest

from tests.unit.test_faces import call, faces


def probe(port: int) -> int:
    """As the playground's groups do, with a timeout of a second."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.closing(connection):
        connection.request("GET", "/ready")
        return connection.getresponse().status


@pytest.mark.parametrize(
    "faults",
    [
        {"DELAY_BUCKETS": "0,50,100,200,500,1000"},  # as the playground starts them
        {"DELAY_BUCKETS": "600000", "ERROR_FRACTION": "100", "LATCH_FRACTION": "100", "MAX_RATE": "0.1"},
    ],
)
@pytest.mark.parametrize("program", ["face", "smiley", "color"])
def test_a_probe_meets_no_injected_fault(program: str, faults: dict[str, str]) -> None:
    with faces(program, **faults) as port:
        assert [probe(port) for _ in range(60)] == [200] * 60


def test_probes_are_not_counted_as_requests() -> None:
    """Neither against the rate, nor as the quiet time in which a latched error clears."""
    with faces("smiley", MAX_RATE="0.1") as port:
        assert [probe(port) for _ in range(60)] == [200] * 60
        assert [call(port)[0] for _ in range(2)] == [200, 429]
