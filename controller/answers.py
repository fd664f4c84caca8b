"""What machines are told, with what a group's machines have in common worked out and encoded once: thousands ask every second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from controller import rendering
from controller.manifest import ExternalGroup, GroupSpec
from controller.model import ExternalWorkload, Key
from controller.rendering import Times
from harness.decode import encode
from harness.messages import ClusterFacts, Registration

_OWN = ("name", "namespace", "version", "identity", "server_name", "secret", "copied_by")


@dataclass(frozen=True, slots=True)
class _Common:
    """`blank`: a registration without what is a machine's own; `text`: the JSON of it; `digest`: its version."""

    spec: GroupSpec
    facts: ClusterFacts
    blank: Registration
    text: str
    digest: str


class Answers:
    def __init__(self) -> None:
        self._common: dict[Key, _Common] = {}

    def registration(
        self,
        group: ExternalGroup,
        workload: ExternalWorkload,
        facts: ClusterFacts,
        times: Times,
        secret: str | None = None,
        copied_by: str = "",
    ) -> Registration:
        """Its version covers all but the secret."""
        common = self._of(group, workload, facts, times)
        metadata, mesh_tls = workload.metadata, workload.spec.mesh_tls
        own = f"{common.digest}\0{metadata.key}\0{mesh_tls.identity}\0{mesh_tls.server_name}\0{copied_by}"
        return dataclasses.replace(
            common.blank,
            name=metadata.name,
            namespace=metadata.namespace,
            version=hashlib.sha256(own.encode()).hexdigest()[:16],
            identity=mesh_tls.identity,
            server_name=mesh_tls.server_name,
            secret=secret,
            copied_by=copied_by,
        )

    def body(self, group: Key, registration: Registration) -> bytes:
        """JSON."""
        common = self._common.get(group)
        if common is None or common.blank.facts is not registration.facts or common.blank.template is not registration.template:
            return json.dumps(encode(registration)).encode()
        own = {name: getattr(registration, name) for name in _OWN} | {"identity": str(registration.identity)}
        return f"{json.dumps({k: v for k, v in own.items() if v is not None})[:-1]}, {common.text[1:]}".encode()

    def _of(self, group: ExternalGroup, workload: ExternalWorkload, facts: ClusterFacts, times: Times) -> _Common:
        common = self._common.get(group.key)
        if common is None or common.spec is not group.spec or common.facts is not facts:
            blank = rendering.registration(group, workload, facts, times)
            shared = {name: value for name, value in encode(blank).items() if name not in _OWN}
            common = _Common(group.spec, facts, blank, json.dumps(shared), rendering.version_of(shared))
            self._common[group.key] = common
        return common
