"""The wire between a VM and the controller: JSON over HTTPS with mutual TLS. `controller` imports this and its value types only.

| call | meaning |
|---|---|
| GET    /v1                                    | 204 to whom the controller knows; `meshexp check` reads the Date of the answer |
| POST   /v1/workloads                          | RegistrationRequest → Registration (201; 200 when it renews the same machine) |
| GET    /v1/workloads/{ns}/{name}?after=VERSION | held until the version is another → Registration; renews the lease |
| POST   /v1/workloads/{ns}/{name}/state        | StateReport → 204; on every change and after a lost connection |
| POST   /v1/workloads/{ns}/{name}/reach        | → Reach; the controller connects to this machine's proxy, as peers do |
| DELETE /v1/workloads/{ns}/{name}              | leaves; 204 |

Every call but the first two carries the registration's secret in the header `Meshexp-Secret`, and in `Meshexp-Holder` the
holder's mark of its last POST: a machine that was copied shares all of its secrets with the copy, but not this mark.

An answer that is no success is an ErrorBody.
Fields that a side does not know are passed over, so that both sides can be upgraded in either order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated

from harness.probe import Probe
from harness.texts import (
    Code,
    LabelKey,
    LabelValue,
    Mark,
    Name,
    ObjectName,
    Pem,
    PortName,
    Protocol,
    Shown,
    Token,
    Version,
    visible,
    whole,
)
from harness.values import Address, Domain, Duration, Endpoint, Label, Most, Network, Port, Spiffe

SECRET_HEADER = "Meshexp-Secret"  # noqa: S105 — the header's name
HOLDER_HEADER = "Meshexp-Holder"
MAX_BODY_BYTES = 64 * 1024
PROXY_PORT, PROXY_PORT_NAME = 4143, "linkerd-proxy"
"""Linkerd's: where peers dial a workload's proxy, and the port of an ExternalWorkload that says otherwise."""


@dataclass(frozen=True, slots=True)
class WorkloadPort:
    """A port of the ExternalWorkload, as Linkerd's v1beta1 spells it."""

    port: Port
    name: PortName = ""
    protocol: Protocol = "TCP"


@dataclass(frozen=True, slots=True)
class Template:
    """What the group gives each of its workloads; this is what the VM needs to know of it."""

    ports: Annotated[tuple[WorkloadPort, ...], Most(1000)] = ()
    labels: Annotated[dict[LabelKey, LabelValue], Most(1000)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A node's pod network and the address to reach it by."""

    pod_cidr: Network
    via: Address


@dataclass(frozen=True, slots=True)
class LinkerdFacts:
    """Where the control plane is and what it is called (proxy.md, part 2)."""

    destination_address: Endpoint | None = None
    destination_identity: Name = ""
    policy_address: Endpoint | None = None
    policy_identity: Name = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    pod_routes: Annotated[tuple[PodRoute, ...], Most(20_000)] = ()
    service_cidrs: Annotated[tuple[Network, ...], Most(256)] = ()
    mesh_cidrs: Annotated[tuple[Network, ...], Most(1024)] = ()
    """Networks of other mesh machines, redirected outbound too."""
    cluster_domain: Domain = "cluster.local"
    dns_addresses: Annotated[tuple[Endpoint, ...], Most(64)] = ()
    trust_anchors_pem: Pem = ""
    linkerd: LinkerdFacts = LinkerdFacts()


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """`addresses`: at most one per family, the first is preferred.

    `secret` reclaims a name that is live; of a new name it becomes the secret, if it is 43 to 128 characters of URL-safe base64.
    `invitation`: the token of the invitation that brought this machine; it counts for its first registration only.
    `inbound_port`: where this machine's proxy takes what peers send; no port of the group.
    `holder`: a new mark, `BOOT-ID.NUMBER.RANDOM`, that this machine shows from now on. Within one boot the number grows with each
    registration. `before`: the mark that it showed until now.
    """

    group: Label
    namespace: Label
    instance_id: Annotated[str, visible(256, 1)]
    hostname: Shown
    addresses: Annotated[tuple[Address, ...], Most(2)]
    versions: Annotated[dict[Version, Version], Most(32)] = field(default_factory=dict)
    secret: Token | None = None
    invitation: Token | None = None
    inbound_port: Port = PROXY_PORT
    holder: Mark = ""
    before: Mark = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= 2 or len({a.version for a in self.addresses}) != len(self.addresses):
            raise ValueError("addresses must be one, or one of each family")
        if not 1 <= len(self.instance_id) <= 256 or not 1 <= len(self.hostname) <= 253:
            raise ValueError("instance_id and hostname must be 1 to 256 and 1 to 253 characters")


@dataclass(frozen=True, slots=True)
class Registration:
    """What the controller holds about this VM. `version` changes whenever anything else in it does.

    `secret` is only in the answer to POST. A GET is held for at most `report_seconds`; the lease ends `lease_seconds` after the
    last call. `copied_by`: the address of another machine that lately came with this one's secret, and was not given its name.
    `identity` and `server_name` are what peers will expect (ExternalWorkload meshTLS).
    """

    name: ObjectName
    namespace: ObjectName
    version: Token
    identity: Spiffe
    server_name: Domain
    template: Template
    probes: Annotated[tuple[Probe, ...], Most(100)]
    facts: ClusterFacts
    lease_seconds: Duration = 30.0
    report_seconds: Duration = 10.0
    drain_seconds: Duration = 2.0
    secret: Token | None = None
    copied_by: Token = ""


class Reason(enum.Enum):
    """Why a workload is or is not ready; becomes the reason of the ExternalWorkload's Ready condition."""

    READY = "Ready"
    STARTING = "Starting"
    PROBE_FAILED = "ProbeFailed"
    PROXY_NOT_READY = "ProxyNotReady"
    REDIRECT_MISSING = "RedirectMissing"
    IDENTITY_MISSING = "IdentityMissing"
    CORDONED = "Cordoned"
    DRAINING = "Draining"
    RESTARTING = "Restarting"
    """A question too: refused with `last-ready` while no other workload of the group is ready."""


@dataclass(frozen=True, slots=True)
class StateReport:
    """`sequence` increases with each report of a registration; an older one never overwrites a newer."""

    sequence: Annotated[int, whole(0, 2**63 - 1)]
    ready: bool
    reason: Reason
    message: Shown = ""


class Reached(enum.Enum):
    """What came of the controller's connection. Only CONNECTED is well: the machine has proven its name."""

    CONNECTED = "connected"
    REFUSED = "refused"
    TIMED_OUT = "timed-out"
    NO_WAY = "no-way"
    NO_TLS = "no-tls"
    UNTRUSTED = "untrusted"
    """Its certificate does not count: by its time, or by its issuer."""
    WRONG_NAME = "wrong-name"


@dataclass(frozen=True, slots=True)
class Reach:
    """A connection from the controller's address `source` to the registered address and inbound port.

    `took`, `ago`: seconds that it lasted, and since its end: a second question within 10 s gets the first one's result.
    """

    address: Address
    port: Port
    outcome: Reached
    message: Shown = ""
    source: Address | None = None
    took: Duration = 0.0
    ago: Duration = 0.0


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """`code` is stable and for programs (see CODES); `message` and `hint` are for people."""

    code: Code
    message: Shown
    hint: Shown = ""


# code → HTTP status
CODES = {
    "malformed": 400,  # the body is not the message that the call takes
    "unauthenticated": 401,  # no client certificate, or one without exactly one SPIFFE ID
    "identity-not-allowed": 403,  # the SPIFFE ID may not register in this group
    "address-not-allowed": 403,  # a claimed address is outside the group's CIDRs
    "invitation-invalid": 403,  # unknown, expired, used by another machine, or for another identity; or one is required
    "secret-mismatch": 403,  # the secret is not this registration's
    "group-not-found": 404,
    "not-registered": 404,  # the registration is gone (left, expired or deleted): register again
    "unknown-call": 404,  # no such path or method
    "too-slow": 408,  # the body did not arrive in time
    "name-taken": 409,  # this name is live, and the request has not its secret
    "address-taken": 409,  # another workload holds this IP and port
    "copied": 409,  # this machine is a copy of the one that has the registration: it must take a name of its own
    "overtaken": 409,  # another call has registered with this secret since: register again
    "stale-sequence": 409,
    "last-ready": 409,  # nobody else of the group is ready: this workload must not pause now
    "too-large": 413,
    "quota-exceeded": 429,
    "too-soon": 429,  # this machine was tested a moment ago
    "internal": 500,  # a fault of the controller
    "unavailable": 503,  # the controller cannot reach its own store
}
