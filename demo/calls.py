"""A client that calls face again and again, and the answers that it got."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from demo import cluster
from demo.faces import palette
from harness import phrases

# HOST SECONDS PAUSE COUNT: calls once per connection, so long or so often; one line per answer: status, which face, and the body.
CLIENT = """
import http.client, sys, time
end, pause, left = time.monotonic() + float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
while time.monotonic() < end and left:
    left -= 1
    try:
        c = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
        c.request("GET", "/center/?row=0&col=0", headers={"Connection": "close"})
        r = c.getresponse(); body = r.read().decode()
        print(r.status, r.headers.get("X-Faces-Pod"), body.replace("\\n", ""), flush=True)
        c.close()
    except Exception as error:
        print("failed", type(error).__name__, error, flush=True)
    time.sleep(pause)
"""
# The names of the cluster and of the machine's own site, as JSON: addresses, or null for what does not resolve.
RESOLVE = """
import json, socket, sys
def address(name):
    try:
        return socket.getaddrinfo(name, 80, socket.AF_INET)[0][4][0]
    except socket.gaierror:
        return None
print(json.dumps([address(name) for name in sys.argv[1:]]))
"""
FACE = f"face.{cluster.NAMESPACE}.svc.cluster.local"
MANY = 1_000_000
GRINNING, HEART_EYES = (html.unescape(palette.SMILEYS[name]) for name in ("Grinning", "HeartEyes"))
_COLORS = {value: name for name, value in palette.COLORS.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """`pod`: which face answered. `smiley` is the character, `color` its name in the palette. `fault`: why it is not good."""

    pod: str = ""
    smiley: str = ""
    color: str = ""
    fault: str = ""

    @classmethod
    def read(cls, line: str) -> Answer:
        status, _, rest = line.partition(" ")
        pod, _, text = rest.partition(" ")
        if status != "200":
            return cls(fault=line[:60])
        body: dict[str, Any] = json.loads(text)
        smiley, color = html.unescape(str(body.get("smiley"))), str(body.get("color"))
        # face answers 200 also when a part of it failed.
        return cls(pod, smiley, _COLORS.get(color, color), "; ".join(body.get("errors", ())))


class Calls(tuple[Answer, ...]):
    """The answers of a client, in their order."""

    __slots__ = ()

    @classmethod
    def read(cls, output: str) -> Calls:
        return cls(map(Answer.read, output.splitlines()))

    @property
    def failed(self) -> int:
        return sum(1 for answer in self if answer.fault)

    def by(self, what: str) -> Counter[str]:
        """How many good answers there are by `pod`, `smiley` or `color`."""
        return Counter(getattr(answer, what) for answer in self if not answer.fault)

    def has_share(self, what: str, value: str, share: float) -> bool:
        """None failed, and `share` of them have that value, give or take ten points: the scenario's shares differ by more."""
        return bool(self) and not self.failed and abs(self.by(what)[value] / len(self) - share) <= 0.1

    def __str__(self) -> str:
        ways = Counter(answer.fault for answer in self if answer.fault)
        how = "".join(f"; {way} ({n})" for way, n in ways.most_common(5))
        return f"{phrases.counted(len(self), 'request')}, {self.failed} failed{how}"


def counts(found: Counter[str]) -> str:
    """`30 blue and 31 green`, in the order of their names."""
    return listed(f"{number} {name}" for name, number in sorted(found.items())) or "none"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = [*words] or [""]
    return f"{', '.join(most)} and {last}" if most else last
