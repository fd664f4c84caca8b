"""What the registration's keeper sees, and what it may do about it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError, UnreadableError, UnwritableError
from harness.messages import Registration, RegistrationRequest
from harness.reconcilers.lease import Silence
from harness.specs import Readiness, RegistrationSpec, Target
from harness.system.workload_api import Svid
from harness.values import IPAddress


@dataclass(frozen=True, slots=True)
class Access:
    """How the controller is spoken to: where it is, and who we are."""

    target: Target
    svid: Svid


@dataclass(frozen=True, slots=True)
class Observed:
    """`busy`: a call is under way, which was begun while this machine had the addresses `calling_from`.

    `retry_at`: earliest moment of the next (Clock.now). `silence`: of the controller. `failures`: calls in a row that went
    wrong. `unkept`: why a restart could not go on with this registration's name.
    `is_copy`: this machine was made as a copy of another. `copy_of`: how the controller refused it the other's name.
    """

    access: Access | None = None
    registration: Registration | None = None
    request: RegistrationRequest | None = None
    reported: Readiness | None = None
    error: HarnessError | None = None
    busy: bool = False
    calling_from: tuple[IPAddress, ...] = ()
    watching: bool = False
    now: float = 0.0
    retry_at: float = 0.0
    silence: Silence | None = None
    unkept: UnwritableError | UnreadableError | None = None
    is_copy: bool = False
    copy_of: HarnessError | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Register:
    spec: RegistrationSpec

    def __str__(self) -> str:
        request = self.spec.request
        machine = f"{request.hostname} ({', '.join(map(str, request.addresses))})"
        return f"register {machine} in group {request.namespace}/{request.group} as {self.spec.svid.spiffe_id}"


@dataclass(frozen=True, slots=True)
class Report:
    spec: RegistrationSpec

    def __str__(self) -> str:
        return f"report {'ready' if self.spec.readiness.ready else 'not ready'} ({self.spec.readiness.reason.value})"


@dataclass(frozen=True, slots=True)
class Follow:
    spec: RegistrationSpec

    def __str__(self) -> str:
        return "follow changes of the registration"


@dataclass(frozen=True, slots=True)
class Use:
    access: Access

    def __str__(self) -> str:
        return f"speak to {self.access.target.address} as {self.access.svid.spiffe_id}"


@dataclass(frozen=True, slots=True)
class Leave:
    def __str__(self) -> str:
        return "leave the group"


Action = Use | Register | Report | Follow | Leave
