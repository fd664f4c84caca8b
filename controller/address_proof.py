"""Whether a machine has the address that it registers: compared with the one that it calls from. Pure."""

from __future__ import annotations

from controller import own_networks
from controller.admission import RefusedError
from controller.manifest import AddressProof
from controller.own_networks import OwnNetworks
from harness.messages import ClusterFacts
from harness.values import IPAddress, parse_address

PROOF = "workload.meshexp.io/address-proof"
"""The annotation of a machine's Lease: as `judge` says. Not written while nothing is unproven."""
NOT_COMPARED = "not compared"
PROVEN = "proven"
UNPROVEN = "unproven"
HINT = "with externalTrafficPolicy: Local of its Service the controller sees the address that a machine calls from"


def source_of(remote: str | None) -> IPAddress | None:
    """The peer of a connection, as the socket has it; None where that is no address."""
    try:
        address = parse_address((remote or "").partition("%")[0])
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def judge(
    mode: AddressProof,
    registered: IPAddress,
    source: IPAddress | None,
    facts: ClusterFacts,
    own: OwnNetworks | None,
    *,
    survives: bool,
) -> str:
    """PROVEN, NOT_COMPARED, or UNPROVEN with the reason. Raises RefusedError for an address that is another's.

    `own`: the cluster's networks, None where the controller reads no cluster: then it cannot tell a node's address from a
    machine's, and only AddressProof.REQUIRE compares. `survives`: the controller has seen a machine call from the address that
    it registers. Until then AUTO refuses nobody: a CNI's tunnel or a load balancer may stand for all machines.
    """
    if mode is AddressProof.OFF:
        return NOT_COMPARED
    if source == registered:
        return PROVEN
    if mode is AddressProof.AUTO:
        if own is None or not own.nodes:
            return NOT_COMPARED
        hidden = _hidden(registered, source, facts, own)
        if not hidden and not survives:
            hidden = "no machine's own address was seen yet"
        if hidden:
            return f"{UNPROVEN} ({hidden})"
    raise RefusedError(
        "address-not-allowed",
        f"{registered} is registered by a machine that calls from {source or 'an unknown address'}",
        'register the address that the controller sees, or have the group\'s admission.addressProof "off" behind a NAT',
    )


def _hidden(registered: IPAddress, source: IPAddress | None, facts: ClusterFacts, own: OwnNetworks) -> str:
    """Why `source` says nothing of the machine; empty where it does."""
    if source is None or source.is_loopback or source.is_link_local:
        return "forwarded"
    if own_networks.whose(facts, own, source):
        return "SNAT"
    return "" if source.version == registered.version else "the other IP family"
