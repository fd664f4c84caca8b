"""Releases of linkerd2-proxy: how they are written, how they order, and which of them cannot work here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness import problems
from harness.errors import UnavailableError

# They call a method that no Workload API has (linkerd2#14730): a VM's proxy would wait for its certificate for ever.
BAD_WITH_SPIRE = frozenset({(2, 329, 0), (2, 330, 0)})
# The first that reads LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS; one before it refuses its environment and ends.
FIRST_FOR_MACHINES = (2, 304, 0)

_VERSION = r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:-([0-9A-Za-z][0-9A-Za-z.-]{0,63}))?"
_FIRST_LINE = re.compile(rf"\b(?:release|debug) v?({_VERSION}) \([^)]*\) by ")


@dataclass(frozen=True, slots=True)
class Release:
    """`2.366.0`, or `0.0.0-dev.29637b64f` of somebody's own build; the text form is also a safe file name."""

    numbers: tuple[int, int, int]
    suffix: str = ""

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + (f"-{self.suffix}" if self.suffix else "")

    def __lt__(self, other: Release) -> bool:
        """Something with a suffix comes before what it leads to."""
        return (self.numbers, self.suffix == "", self.suffix) < (other.numbers, other.suffix == "", other.suffix)


def parse(text: str) -> Release:
    """From `2.366.0`, `v2.366.0` or `release/v2.366.0` (the tag); raises ValueError."""
    match = re.fullmatch(rf"(?:release/)?v?{_VERSION}", text)
    if match is None:
        raise ValueError(f"{text!r} is not a version of linkerd2-proxy such as 2.366.0")
    return Release((int(match[1]), int(match[2]), int(match[3])), match[4] or "")


def from_output(text: str) -> Release | None:
    """From what the binary logs first, `… linkerd2_proxy: release 2.366.0 (29637b64f) by …`: it has no option that tells it."""
    match = _FIRST_LINE.search(text)
    return parse(match[1]) if match else None


def problem(release: Release | None) -> problems.Problem | None:
    """What is known against a release; nothing against one that is not known."""
    if release is None or release.numbers[0] == 0:  # somebody's own build, which does not say what it was built from
        return None
    bad = release.numbers in BAD_WITH_SPIRE or release.numbers < FIRST_FOR_MACHINES
    return problems.PROXY_BAD_RELEASE if bad else None


def check(release: Release) -> None:
    """Raises UnavailableError for a release that cannot work on a VM."""
    if found := problem(release):
        raise UnavailableError(f"linkerd2-proxy {release} is refused: {found.title} [{found.code}]", found.hint)
