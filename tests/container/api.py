"""The API server of a cluster that lives in a box, asked from outside: through a socket in the file system."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.linkerd_lab_cluster import Cluster
from tests.waiting import wait

TIMEOUT_SECONDS = 20
SOCKET = "api.sock"  # in the cluster's folder


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Api:
    socket: Path

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer; None for what is not there, or is there already."""
        with contextlib.closing(_Unix(self.socket)) as connection:
            given = None if body is None else json.dumps(body)
            connection.request(method, path, given, {"Content-Type": kind})
            response = connection.getresponse()
            text = response.read()
        if response.status in (404, 409):
            return None
        assert response.status < 300, f"{method} {path}: {response.status} {text[:500]!r}"
        return json.loads(text)

    def items(self, path: str) -> list[Any]:
        found = self.call("GET", path)
        return list(found["items"]) if found else []

    def status(self, path: str, **status: Any) -> None:
        self.call("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")


def api(cluster: Cluster) -> Api:
    """By `kubectl proxy`, with the administrator's rights; it ends with the cluster, and is started once."""
    made = Api(cluster.folder / SOCKET)
    if "api" in cluster.node.processes:
        return made
    kubeconfig = f"--kubeconfig={cluster.folder}/admin.kubeconfig"
    cluster.node.start("api", "kubectl", "proxy", kubeconfig, f"--unix-socket={made.socket}")
    wait(made.socket.exists, why=lambda: cluster.node.log("api"))
    return made
