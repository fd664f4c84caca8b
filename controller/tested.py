"""What the replicas know of each other's connections to a machine: an annotation of the machine's Lease. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness import decode
from harness.errors import ConfigError
from harness.messages import Reach
from harness.values import Address, IPAddress, Port

TESTED = "workload.meshexp.io/tested"
PAUSE_SECONDS = 10.0
"""Between two connections to one machine. Who asks sooner is told what the last one found."""


@dataclass(frozen=True, slots=True)
class Tested:
    """`began`: epoch seconds. `found`: None while it is under way."""

    began: float
    address: Address
    port: Port
    found: Reach | None = None

    def counts(self, wall: float) -> bool:
        """Whether no other one may be made yet. Replicas' clocks differ: one that begins much later than now holds up nothing."""
        return abs(wall - self.began) < PAUSE_SECONDS

    def __str__(self) -> str:
        return json.dumps(decode.encode(self))


def of_address(texts: Iterable[str], address: IPAddress) -> Iterator[Tested]:
    """Of the annotations of a whole fleet. Only those that name the address are decoded: that takes much longer than to look."""
    named = json.dumps(str(address))
    found = (parsed(text) for text in texts if named in text)
    return (told for told in found if told is not None and told.address == address)


def parsed(text: str) -> Tested | None:
    """None for an empty annotation, or one that is not understood."""
    try:
        return decode.decode(Tested, json.loads(text), source=TESTED, lenient=True) if text else None
    except (ValueError, RecursionError, ConfigError):
        return None
