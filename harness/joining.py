"""What an invitation becomes on a machine: the files of the configuration directory, each with its mode. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness import decode, json_text
from harness.errors import ConfigError, HarnessError
from harness.invitation import Invitation
from harness.paths import Paths

SECRET, OPEN = 0o600, 0o644


@dataclass(frozen=True, slots=True)
class Placed:
    path: Path
    text: str = field(repr=False)
    mode: int


def parse(text: str, source: str) -> Invitation:
    """Raises HarnessError, which never quotes the text: it holds keys."""
    try:
        return decode.decode(Invitation, json_text.loads(text), source=source)
    except ConfigError as error:
        where = ", ".join(fault.path or "version or identity" for fault in error.faults[:3])
        raise HarnessError(f"{source} is no invitation that this program understands ({where})", _ASK) from None
    except ValueError:
        raise HarnessError(f"{source} is no invitation: it is not JSON", _ASK) from None


_ASK = "`kubectl meshexp invite` on the administrator's machine makes one"


def names(paths: Paths) -> tuple[Path, ...]:
    """Every file that any invitation becomes: what `leave --purge` removes."""
    spire = paths.config / "spire"
    return paths.joined, paths.config / "trust-anchors.pem", paths.invitation, *(spire / name for name in _SPIRE)


_SPIRE = ("ca.crt", "ca.key", "join-token")


def files(invitation: Invitation, paths: Paths) -> tuple[Placed, ...]:
    return tuple(_files(invitation, paths))


def _files(invitation: Invitation, paths: Paths) -> Iterator[Placed]:
    certificate, key, token = (paths.config / "spire" / name for name in _SPIRE)
    yield Placed(paths.config / "trust-anchors.pem", invitation.trust_anchors_pem, OPEN)
    yield Placed(paths.invitation, invitation.token + "\n", SECRET)
    if invitation.local is not None:
        yield Placed(certificate, invitation.local.certificate_pem, OPEN)
        yield Placed(key, invitation.local.key_pem, SECRET)
    if invitation.agent is not None:
        yield Placed(token, invitation.agent.join_token + "\n", SECRET)
    header = "# Written by `meshexp join` from an invitation; `meshexp leave --purge` removes it.\n"
    yield Placed(paths.joined, header + yaml.safe_dump(settings(invitation, paths), sort_keys=False), OPEN)


def settings(invitation: Invitation, paths: Paths) -> dict[str, Any]:
    """As in harness.yaml. The routes go through the first node, until the controller tells of each node's own networks."""
    identity: dict[str, Any] = {"spiffe_id": str(invitation.spiffe_id)}
    spire = paths.config / "spire"
    if invitation.local is not None:
        identity |= {"mode": "local", "local": {"ca_cert": str(spire / "ca.crt"), "ca_key": str(spire / "ca.key")}}
    if invitation.agent is not None:
        agent = {"server_address": str(invitation.agent.server_address), "join_token_file": str(spire / "join-token")}
        identity |= {"mode": "agent", "agent": agent}
    data: dict[str, Any] = {
        "workload": {
            "group": invitation.group,
            "namespace": invitation.namespace,
            # An invitation is for one machine, which so keeps its name when it joins again after a failure.
            "instance_id": hashlib.sha256(invitation.token.encode()).hexdigest()[:32],
        },
        "controller": {
            "address": str(invitation.controller_address),
            "identity": invitation.controller_identity,
            "trust_anchors": str(paths.config / "trust-anchors.pem"),
        },
        "identity": identity,
    }
    network: dict[str, Any] = {}
    if invitation.pod_routes:
        node = invitation.pod_routes[0].via
        network = {
            "node": str(node),
            "pod_cidrs": [str(route.pod_cidr) for route in invitation.pod_routes if route.via == node],
            "service_cidrs": [str(network) for network in invitation.service_cidrs if network.version == node.version],
        }
    if invitation.allow:
        network["allow"] = [str(one) for one in invitation.allow]
    if network:
        data["network"] = network
    data["dns"] = {"allowed_domains": [invitation.cluster_domain]}
    return data


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from leaves(value, here)
        else:
            yield here, value


def differences(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that both have, with other values."""
    have = dict(leaves(there))
    return tuple(key for key, value in leaves(wanted) if key in have and str(have[key]) != str(value))
