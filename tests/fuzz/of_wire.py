"""What controller and machine tell each other, and the invitation: the readers of both sides, and what they go on with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx

from controller import admission, server
from controller.rendering import version_of
from harness import decode, joining, proxy_environment
from harness.desired import desired
from harness.errors import ConfigError, HarnessError
from harness.invitation import Invitation, LocalIdentity
from harness.messages import (
    ClusterFacts,
    LinkerdFacts,
    PodRoute,
    Reach,
    Registration,
    RegistrationRequest,
    StateReport,
)
from harness.paths import Paths
from harness.probe import Exec, Grpc, Header, HttpGet, Probe, TcpSocket
from harness.system import control_plane
from harness.values import HostPort, parse_address, parse_network, parse_spiffe_id
from tests import builders
from tests.controller_support import group
from tests.fuzz.engine import Target

_PROBES = (
    Probe(http_get=HttpGet(8000, "127.0.0.1", "/ready", "HTTPS", (Header("Authorization", "Bearer x"),))),
    Probe(tcp_socket=TcpSocket(9000, "app.example")),
    Probe(grpc=Grpc(9001, service="face")),
    Probe(exec_=Exec("ready")),
)
_FACTS = ClusterFacts(
    (PodRoute(parse_network("10.42.0.0/24"), parse_address("10.9.0.1")),),
    (parse_network("10.43.0.0/16"),),
    (parse_network("10.60.0.0/24"),),
    "cluster.local",
    (HostPort("10.43.0.10", 53),),
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    LinkerdFacts(HostPort("10.43.0.11", 8086), "linkerd-destination.linkerd", HostPort("policy.linkerd", 8090), "linkerd-policy"),
)
REGISTRATION = builders.registration(probes=_PROBES, facts=_FACTS, secret="x" * 43, copied_by="192.0.2.7")
_REQUEST = {
    "group": "face", "namespace": "faces", "instance_id": "one", "hostname": "face-1", "addresses": ["192.0.2.1", "2001:db8::1"],
    "versions": {"harness": "0.1.0"}, "secret": "x" * 43, "invitation": "y" * 43, "inbound_port": 4143, "holder": "boot.1.r",
    "before": "boot.0.r",
}  # fmt: skip
_STATE = {"sequence": 1, "ready": True, "reason": "Ready", "message": "all is well"}
_INVITATION = Invitation(
    1, "token", 2e9, HostPort("10.9.0.1", 8081), "meshexp-controller.meshexp", _FACTS.trust_anchors_pem, "face", "faces",
    parse_spiffe_id("spiffe://root.linkerd.cluster.local/face"), _FACTS.pod_routes, _FACTS.service_cidrs,
    local=LocalIdentity("certificate", "key"),
)  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(decode.encode(value)).encode()


def _told(data: bytes) -> None:
    """And what becomes of it: files, the environment and the command lines of children."""
    told = control_plane._body(Registration, httpx.Response(200, content=data))
    for text in _texts(told):
        if "\0" in text or _is_half(text):
            raise AssertionError(f"a text that no file and no program can have: {text!r:.60}")
    known = builders.progress(registration=told)
    wanted = desired(builders.config(), builders.machine(), known)
    proxy_environment.build(builders.config(), told, "", "/run/api.sock", builders.machine())
    str(wanted)
    control_plane.hold_seconds(told)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _texts(getattr(value, field.name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _texts(inner)


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _refusal(data: bytes) -> None:
    str(control_plane._refusal(httpx.Response(403, content=data), "POST"))


def _asked(data: bytes) -> None:
    asked = server.message(data, RegistrationRequest)
    admission.check_request(group(), asked)
    admission.is_secret(asked.secret, admission.hash_secret(admission.new_secret(asked.secret)))
    admission.versions_text(asked.versions)
    version_of(asked)


def _invited(data: bytes) -> None:
    """As from a file: bytes that are no text are none of it."""
    found = joining.parse(data.decode(errors="replace"), "invitation")
    for placed in joining.files(found, Paths()):
        placed.text.encode()


TARGETS = (
    Target("wire.told", _told, (_json(REGISTRATION), _json(builders.registration())), (HarnessError,), tree=True),
    Target("wire.refusal", _refusal, (b'{"code": "name-taken", "message": "m", "hint": "h"}',), (), tree=True),
    Target(
        "wire.reach",
        lambda data: control_plane._body(Reach, httpx.Response(200, content=data)),
        (b'{"address": "192.0.2.1", "port": 4143, "outcome": "connected", "source": "192.0.2.9", "took": 0.1, "ago": 1}',),
        (HarnessError,),
        tree=True,
    ),
    Target("wire.request", _asked, (json.dumps(_REQUEST).encode(),), (admission.RefusedError, ConfigError), tree=True),
    Target(
        "wire.state",
        lambda data: server.message(data, StateReport),
        (json.dumps(_STATE).encode(),),
        (admission.RefusedError, ConfigError),
        tree=True,
    ),
    Target("invitation", _invited, (_json(_INVITATION),), (HarnessError,), tree=True),
)
