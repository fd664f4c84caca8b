"""Names that stay the same for the same machine. Pure."""

from __future__ import annotations

import base64
import hashlib

from harness.messages import LinkerdFacts

NAME_LENGTH = 63
"""A DNS label: a headless Service publishes the workload's name as a host name."""


def instance_digest(group: str, instance_id: str) -> str:
    """Ten characters of a-z and 2-7 (50 bits) for a machine in a group; the group counts because its name may be cut."""
    digest = hashlib.sha256(f"{group}\0{instance_id}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:10]


def workload_name(group: str, digest: str, generation: int) -> str:
    """`<group>-<digest>`, with `-g<generation>` from the second on; the group is cut where it must be."""
    suffix = f"-{digest}" + (f"-g{generation}" if generation > 1 else "")
    return group[: NAME_LENGTH - len(suffix)].rstrip("-") + suffix


def server_name(name: str, namespace: str, cluster_domain: str) -> str:
    """The TLS server name that peers send and the proxy expects; it resolves to nothing."""
    return f"{name}.{namespace}.external.{cluster_domain}"


def mesh_identity(account: str, namespace: str, linkerd: LinkerdFacts) -> str:
    """The name of a service account in the mesh. All such names have the same end, so it is taken from one that is known."""
    _, _, suffix = linkerd.destination_identity.partition(".serviceaccount.")
    return f"{account}.{namespace}.serviceaccount.{suffix}"


CLUSTER_DOMAIN_LENGTH = 253 - len(server_name("x" * 63, "x" * 63, ""))
