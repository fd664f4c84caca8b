"""What the API server, the group's editors and files tell the controller."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller import admission, config, model, rendering, replicas, roll, tickets
from controller.folder import Folder
from controller.kubernetes import cluster, kubeconfig
from controller.manifest import group_from_object, stored_group
from harness import yaml_text
from harness.errors import ConfigError
from harness.messages import ClusterFacts
from harness.values import parse_address, parse_spiffe_id
from tests.controller_support import group, group_object, ready
from tests.fuzz.engine import Target
from tests.fuzz.scratch import of_file

_IDENTITY = parse_spiffe_id("spiffe://root.linkerd.cluster.local/face")
_ADMISSION = {"spiffeIDs": ["spiffe://root.linkerd.cluster.local/f*e"], "addressCIDRs": ["192.0.2.0/24"], "maximum": 3}
_PROBES = [{"grpc": {"port": 9000, "service": "x"}}, {"exec": {"name": "ready"}}, {"tcpSocket": {"port": 1, "host": "a.b"}}]
_GROUPS = (
    group_object(),
    group_object(admission=_ADMISSION, probes=_PROBES, leaseSeconds=10, expirySeconds=60.5, drainSeconds=1),
)
_YAML = b"""\
apiVersion: workload.meshexp.io/v1alpha1
kind: ExternalGroup
metadata: {name: face, namespace: faces, labels: {a: b}}
spec:
  template:
    metadata: {labels: {service: face}, annotations: {x: "1"}}
    ports: [{name: http, port: 8000, protocol: TCP}]
  probes:
    - httpGet: {port: 8000, path: /ready, httpHeaders: [{name: A, value: b}]}
      periodSeconds: 5
  admission: {spiffeIDs: ["spiffe://td/*"], addressCIDRs: [10.0.0.0/8], requireInvitation: true}
  leaseSeconds: 10
---
kind: Service
"""
_SOURCES = {
    "nodes": [
        {
            "metadata": {"name": "n"},
            "spec": {"podCIDRs": ["10.42.0.0/24"], "podCIDR": "10.42.0.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.9.0.1"}, {"type": "Hostname", "address": "n"}]},
        }
    ],
    "service_cidrs": [{"spec": {"cidrs": ["10.43.0.0/16", "fd00::/112"]}}],
    "dns": [{"spec": {"clusterIPs": ["10.43.0.10", "None"]}}],
    "config": [{"data": {"values": "clusterDomain: cluster.local\nidentityTrustDomain: cluster.local\n"}}],
    "roots": [{"data": {"ca-bundle.crt": "PEM"}}],
}
_TICKET = {"token_sha256": "ab" * 32, "expires": 2e9, "identities": [str(_IDENTITY)], "pin": "cd" * 32}
_KUBECONFIG = b"""\
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: false}}]
users: [{name: u, user: {token: t}}]
"""
_LEASE = model.Lease(model.Metadata("replica.a", "m", annotations={"workload.meshexp.io/share": "1 2 3"}), "a", 1.7e9, 8.0)


def of_json(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    """A reader of what another has made of JSON already."""

    def reader(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return read(value)

    return reader


def _mapping(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    return of_json(lambda value: read(value) if isinstance(value, dict) else None)


def _stored(value: Any) -> None:
    """As an API server has it: the schema has made sure of apiVersion and metadata."""
    fixed = {"apiVersion": "workload.meshexp.io/v1alpha1", "kind": "ExternalGroup"}
    found = stored_group({**value, **fixed})
    json.dumps(found.to_object())
    rendering.version_of(found.spec)


def _facts(value: Any) -> None:
    parts = {name: tuple(value.get(name) or ()) if isinstance(value.get(name), list) else () for name in _SOURCES}
    objects = {name: tuple(item for item in items if isinstance(item, dict)) for name, items in parts.items()}
    sources = cluster.Sources(**objects)
    cluster.own_networks(sources)
    json.dumps(str(cluster.facts(sources, ClusterFacts(), "linkerd")))


def _ticket(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = group_from_object({**group_object(), "metadata": {**_GROUPS[0]["metadata"], "annotations": {_NAME: text}}})
    tickets.pins_of([found])
    tickets.find(found, "token", _IDENTITY)


_NAME = f"{tickets.PREFIX}abababababababab"


def _pattern(data: bytes) -> None:
    pattern, _, identity = data.decode(errors="replace").partition("\n")
    found = group(admission={"spiffeIDs": [pattern]})
    admission.check_identity(found, parse_spiffe_id(identity), "root.linkerd.cluster.local")


def _lease(value: Any) -> None:
    found = model.lease_from_object(value)
    replicas._share(found)
    replicas.is_alive(found, 1.7e9)


def _machines(value: Any) -> None:
    """A workload as `kubectl meshexp get` shows it."""
    found = roll.machines([model.workload_from_object(value)], [_LEASE], 1.7e9)
    roll.table(found, 1.7e9, wide=True, width=80)


def _folder(path: Path) -> None:
    folder = Folder(str(path.parent), None)  # type: ignore[arg-type] # nothing is stored
    folder._read(folder._state())


def _configured(path: Path) -> None:
    config.load(str(path), {})


_PATTERN = b"spiffe://root.linkerd.cluster.local/*a*a*a*a*a*b\nspiffe://root.linkerd.cluster.local/" + b"a" * 100
_MADE = rendering.workload(
    group(), rendering.Membership("faces", "face", "one", 1, _IDENTITY, (parse_address("192.0.2.1"),), "vm", "ab" * 32), "c.local"
)
_SILENT = model.Condition("Ready", "False", rendering.UNREACHABLE, "no report for 12 s", "2026-01-01T00:00:00Z")
_SEEN = [ready(_MADE).to_object(), dataclasses.replace(_MADE, status=model.Status((_SILENT,))).to_object()]
TARGETS = (
    Target("group.stored", _mapping(_stored), tuple(json.dumps(one).encode() for one in _GROUPS), (ConfigError,), tree=True),
    Target(
        "group.manifest",
        of_file("groups/face.yaml", _folder),
        (_YAML, *(json.dumps(one).encode() for one in _GROUPS)),
        (ConfigError,),
    ),
    Target("yaml", lambda data: yaml_text.documents(data.decode(errors="replace")), (_YAML, _KUBECONFIG), (ValueError,)),
    Target(
        "controller.config",
        of_file("controller.yaml", _configured),
        (b"listen: 0.0.0.0:8081\nkubernetes: true\nlease: 10s\n",),
        (ConfigError,),
    ),
    Target("kubernetes.cluster", _mapping(_facts), (json.dumps(_SOURCES).encode(),), (), tree=True),
    Target(
        "kubernetes.object",
        _mapping(cluster._object),
        (b'{"metadata": {"name": "n", "labels": {"a": "b"}}}',),
        (ConfigError,),
        tree=True,
    ),
    Target("kubernetes.lease", of_json(_lease), (json.dumps(_LEASE.to_object()).encode(),), (ConfigError,), tree=True),
    Target(
        "kubernetes.workload", of_json(_machines), tuple(json.dumps(one).encode() for one in _SEEN), (ConfigError,), tree=True
    ),
    Target(
        "kubernetes.kubeconfig", of_file("kubeconfig", lambda path: kubeconfig.choose([path])), (_KUBECONFIG,), (ConfigError,)
    ),
    Target("ticket", _ticket, (json.dumps(_TICKET).encode(),), (admission.RefusedError, ConfigError), tree=True),
    Target(
        "pattern",
        _pattern,
        (_PATTERN, b"spiffe://root.linkerd.cluster.local/f*\n" + str(_IDENTITY).encode()),
        (ConfigError, ValueError, admission.RefusedError),
    ),
)
