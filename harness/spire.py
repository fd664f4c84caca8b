"""SPIRE's configuration, rendered: what server and agent are told, and which lifetimes fit together. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.values import HostPort, SpiffeId, render_duration

LONGEST_SVID = 7 * 86400.0  # SPIRE activates its next CA at most 7 days before the old one ends; no SVID may live longer
CA_PER_SVID = 7  # SPIRE asks for 6; one more, since it looks at its CA only every 10 s
NODE_PATH = "/x509pop/meshexp"  # fixed: a new key pair of the node must not orphan the entry
ENTRY_ID = "meshexp-proxy"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds. SVID ≤ CA/6 and ≤ 7 days, else SPIRE cuts SVIDs short when it changes its CA."""

    ca: float
    svid: float


def lifetimes(wanted_svid: float, signing_left: float) -> Lifetimes:
    """As wanted, but with a CA that ends no later than the certificate that signs it, which has `signing_left` seconds."""
    svid = min(wanted_svid, LONGEST_SVID, signing_left / CA_PER_SVID)
    return Lifetimes(svid * CA_PER_SVID, svid)


def agent_id(trust_domain: str) -> SpiffeId:
    """The node's own ID, which is the parent of its entry."""
    return SpiffeId(trust_domain, f"/spire/agent{NODE_PATH}")


@dataclass(frozen=True, slots=True)
class Entry:
    """Who gets which ID. ValueError for uid 0: every root process would get it."""

    spiffe_id: SpiffeId
    uid: int

    def __post_init__(self) -> None:
        if self.uid == 0:
            raise ValueError("an entry for uid 0 would give every root process this identity")

    @property
    def parent(self) -> SpiffeId:
        return agent_id(self.spiffe_id.trust_domain)

    @property
    def selector(self) -> str:
        return f"uid:{self.uid}"


@dataclass(frozen=True, slots=True)
class Server:
    """`bundle` is None exactly when the signing certificate is a root itself."""

    trust_domain: str
    port: int
    socket: Path
    data: Path
    node_certificate: Path
    certificate: Path
    key: Path
    bundle: Path | None
    lifetimes: Lifetimes


@dataclass(frozen=True, slots=True)
class Agent:
    """Attests by a key pair, or by a join token (a file's path), never by both."""

    trust_domain: str
    server: HostPort
    socket: Path
    data: Path
    anchors: Path
    certificate: Path | None = None
    key: Path | None = None
    token: Path | None = None


def server_config(server: Server) -> str:
    """JSON, which SPIRE reads as well as HCL, and which quotes every path."""
    authority = {"cert_file_path": str(server.certificate), "key_file_path": str(server.key)}
    if server.bundle is not None:
        authority["bundle_file_path"] = str(server.bundle)
    section: dict[str, Any] = {
        "bind_address": "127.0.0.1",
        "bind_port": server.port,
        "socket_path": str(server.socket),
        "trust_domain": server.trust_domain,
        "data_dir": str(server.data),
        "ca_ttl": render_duration(server.lifetimes.ca),
        "default_x509_svid_ttl": render_duration(server.lifetimes.svid),
        "disable_jwt_svids": True,
        # There are no JWT-SVIDs, but SPIRE warns when their default, 5 min, is too long for a CA with a short life.
        "default_jwt_svid_ttl": render_duration(min(server.lifetimes.svid, 300.0)),
        # Its one client is our own agent, on loopback: one attestation a second would only make a restart slow.
        "ratelimit": {"attestation": False},
        "log_format": "json",
    }
    plugins = {
        "DataStore": {"sql": {"database_type": "sqlite3", "connection_string": str(server.data / "datastore.sqlite3")}},
        "KeyManager": {"disk": {"keys_path": str(server.data / "keys.json")}},
        "NodeAttestor": {"x509pop": {"ca_bundle_path": str(server.node_certificate), "agent_path_template": NODE_PATH}},
        "UpstreamAuthority": {"disk": authority},
    }
    return _document({"server": section}, plugins)


def agent_config(agent: Agent) -> str:
    section: dict[str, Any] = {
        "trust_domain": agent.trust_domain,
        "server_address": agent.server.host,
        "server_port": agent.server.port,
        "socket_path": str(agent.socket),
        "data_dir": str(agent.data),
        "trust_bundle_path": str(agent.anchors),
        "log_format": "json",
    }
    attestor: dict[str, Any] = {"join_token": {}}
    if agent.token is not None:
        section["join_token_file"] = str(agent.token)
    else:
        attestor = {"x509pop": {"certificate_path": str(agent.certificate), "private_key_path": str(agent.key)}}
    plugins = {
        "KeyManager": {"disk": {"directory": str(agent.data)}},
        "NodeAttestor": attestor,
        "WorkloadAttestor": {"unix": {}},
    }
    return _document({"agent": section}, plugins)


def _document(section: dict[str, Any], plugins: dict[str, dict[str, Any]]) -> str:
    wrapped = {kind: {name: {"plugin_data": data} for name, data in found.items()} for kind, found in plugins.items()}
    return json.dumps({**section, "plugins": wrapped}, indent=2) + "\n"
