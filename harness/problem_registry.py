"""What a problem is, and the one registry of all of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    WARNING = "warning"
    ERROR = "error"


class Where(enum.Enum):
    """Where a problem is fixed. Against a problem of another place than MACHINE, no restart on the machine helps."""

    MACHINE = "machine"
    CLUSTER = "cluster"
    EITHER = "either"
    IDENTITY = "identity"

    @property
    def text(self) -> str:
        """For the documentation."""
        return {
            Where.MACHINE: "on this machine",
            Where.CLUSTER: "in the cluster",
            Where.EITHER: "on this machine, in the network, or in the cluster",
            Where.IDENTITY: "on this machine where identity.mode is local or embedded; otherwise also at the SPIRE server",
        }[self]

    def of(self, *, identity_made_here: bool) -> Where:
        """On a given machine: MACHINE, CLUSTER or EITHER."""
        if self is not Where.IDENTITY:
            return self
        return Where.MACHINE if identity_made_here else Where.EITHER


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` is stable and the anchor in the troubleshooting page; `hint` says how to fix it, `where` at which place.

    `standing`: it is how this machine is set up, and nothing that went wrong: `status` names it, and the machine stays Ready.
    """

    code: str
    where: Where
    title: str
    severity: Severity
    hint: str
    standing: bool = False

    @property
    def anchor(self) -> str:
        return f"docs/troubleshooting.md#{self.code}"


REGISTRY: dict[str, Problem] = {}


def register(
    code: str, where: Where, title: str, hint: str, severity: Severity = Severity.ERROR, standing: bool = False
) -> Problem:
    problem = Problem(code, where, title, severity, hint, standing)
    if REGISTRY.setdefault(code, problem) is not problem:
        raise ValueError(f"problem code {code} is registered twice")
    return problem
