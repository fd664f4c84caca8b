"""What a container was given, as the playground's images are given it, as the daemon's configuration.

/opt/spire/certs/ca.crt, ca.key     Linkerd's trust anchor and its key, as the playground mounts them: works, with a warning
… and trust-anchors.pem with them   what `meshexp ca issue` makes, an intermediate: the better way
/opt/spire/certs/NAME.invitation    of `kubectl meshexp invite`: has all that is needed, variables included
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import reading
from harness.errors import ConfigError, HarnessError, UnavailableError
from harness.paths import Paths
from harness.system import files
from harness.system import spire_certificate as certificates
from harness.values import DEFAULT_TRUST_DOMAIN

if TYPE_CHECKING:
    from harness.invitation import Invitation

_OTHERS = frozenset(("external", "agent"))
"""Modes in which somebody else has decided which SPIFFE ID there is."""
CERTS, OWN = Path("/opt/spire/certs"), Path("/etc/meshexp")
ROOT_KEY = (
    "warning: ca.key is the key of the mesh's own trust anchor, and an attacker in this container can be anybody in the mesh;"
    " mount an invitation, or what `meshexp ca issue` makes (ca.crt, ca.key, trust-anchors.pem), in its place"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """`secrets`: files that the configuration names, or the daemon looks for, by their name in its folder."""

    config: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()


def set_up(environ: Mapping[str, str], certs: Path, folder: Path) -> Setup:
    """For a configuration in `folder`. Raises HarnessError, exit code 1: one line that says what is missing."""
    invitations = sorted(certs.glob("*.invitation"))
    if len(invitations) > 1:
        raise HarnessError(f"{certs} holds {len(invitations)} invitations; mount this container's own")
    if invitations:
        return _invited(_read(invitations[0]), folder)
    for name in ("WORKLOAD_NAME", "WORKLOAD_NAMESPACE"):
        if not environ.get(name):
            raise HarnessError(f"{name} must be set")
    mode = environ.get("MESHEXP_IDENTITY_MODE")
    if mode in _OTHERS:
        return Setup({})
    # Groups of one name in two namespaces are two. Variables and files may give another ID.
    own = f"spiffe://{DEFAULT_TRUST_DOMAIN}/{environ['WORKLOAD_NAMESPACE']}/{environ['WORKLOAD_NAME']}"
    return Setup({"identity": {"spiffe_id": own}}) if mode is not None else _mounted(certs, own)


def write(setup: Setup, where: Paths, own: Path = OWN) -> None:
    """The image's own folder may be read-only, and what the user put there wins over this."""
    for name, text in setup.secrets.items():
        files.write(where.config / name, text, mode=0o600)
    files.write(where.harness_yaml, json.dumps(setup.config, indent=1), mode=0o644)  # which is YAML too
    where.drop_ins.mkdir(parents=True, exist_ok=True)
    for source in (own / "harness.yaml", *sorted((own / "harness.d").glob("*.yaml"))):
        link = where.drop_ins / ("00-harness.yaml" if source.parent == own else source.name)
        link.unlink(missing_ok=True)
        link.symlink_to(source)


def _mounted(certs: Path, spiffe_id: str) -> Setup:
    certificate, key, anchors = certs / "ca.crt", certs / "ca.key", certs / "trust-anchors.pem"
    for path in (certificate, key):
        if not path.is_file():
            raise HarnessError(f"{path} is missing")
    try:
        root = certificates.read_pem(certificates.read_file(str(certificate), "the certificate"))[0].root
        certificates.read_file(str(key), "the key")
    except UnavailableError as error:
        # Without CAP_DAC_OVERRIDE root reads only what is its own, or everybody's.
        raise HarnessError(f"{error.message}; where capabilities are dropped it must belong to root") from None
    except ValueError as error:
        raise HarnessError(f"{certificate} is of no use: {error}") from None
    if not root and not anchors.is_file():
        raise HarnessError(f"{anchors} is missing: {certificate} is an intermediate, and the mesh's root must be known")
    local = {"ca_cert": str(certificate), "ca_key": str(key), "allow_root_key": root}
    trusted = anchors if anchors.is_file() else certificate
    identity = {"mode": "local", "local": local, "spiffe_id": spiffe_id}
    config = {"identity": identity, "controller": {"trust_anchors": str(trusted)}}
    return Setup(config, warnings=(ROOT_KEY,) if root else ())


def _read(path: Path) -> Invitation:
    # Most containers have none, and every import here delays the daemon.
    from harness import decode, json_text
    from harness.invitation import Invitation

    try:
        return decode.decode(Invitation, json_text.loads(reading.text(path)), source=str(path))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise HarnessError(f"{path} is no invitation: {error.faults[0]}") from None
    except ValueError as error:
        raise HarnessError(f"{path} is no invitation: {error}") from None


def _invited(invitation: Invitation, folder: Path) -> Setup:
    secrets = {"invitation": invitation.token, "trust-anchors.pem": invitation.trust_anchors_pem}
    identity: dict[str, Any] = {"spiffe_id": str(invitation.spiffe_id)}
    if invitation.local is not None:
        secrets |= {"ca.crt": invitation.local.certificate_pem, "ca.key": invitation.local.key_pem}
        identity |= {"mode": "local", "local": {"ca_cert": f"{folder}/ca.crt", "ca_key": f"{folder}/ca.key"}}
    if invitation.agent is not None:
        secrets["join-token"] = invitation.agent.join_token
        agent = {"server_address": str(invitation.agent.server_address), "join_token_file": f"{folder}/join-token"}
        identity |= {"mode": "agent", "agent": agent}
    config = {
        "workload": {"group": str(invitation.group), "namespace": str(invitation.namespace)},
        "controller": {
            "address": str(invitation.controller_address),
            "identity": invitation.controller_identity,
            "trust_anchors": f"{folder}/trust-anchors.pem",
        },
        "identity": identity,
    }
    if invitation.pod_routes:
        # Through the first node, until the controller tells of every node's own networks.
        node = invitation.pod_routes[0].via
        pods = [str(route.pod_cidr) for route in invitation.pod_routes if route.via == node]
        config["network"] = {"node": str(node), "pod_cidrs": pods, "service_cidrs": list(map(str, invitation.service_cidrs))}
    return Setup(config, secrets)
