"""What an EndpointSlice watch of its own sees, moment by moment."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.linkerd_lab_cluster import API, Cluster
from tests.linkerd_lab_vm import NAMESPACE
from tests.waiting import wait


class Endpoints:
    """The ready addresses of each change, with its time. `service`: of this one alone."""

    def __init__(self, cluster: Cluster, service: str = "") -> None:
        self._cluster = cluster
        self._selector = f"&labelSelector=kubernetes.io/service-name%3D{service}" if service else ""
        self.seen: list[tuple[float, set[str]]] = []
        self._slices: dict[str, set[str]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """The API server ends a watch when it likes; the next begins with how things are in its cache.

        Without a version it would first wait for the cache to be as new as all of etcd, which a quiet resource's need not become.
        """
        node, keys = self._cluster.node, self._cluster.pki
        path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?watch=true&resourceVersion=0{self._selector}"
        call = ("curl", "-sSN", "--cacert", f"{keys}/kube.crt", "--cert", f"{keys}/admin.crt", "--key", f"{keys}/admin.key")
        while node.holder.poll() is None:
            with subprocess.Popen([*node.enter, *call, f"{API}{path}"], stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    self._read(json.loads(line))

    def _read(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "ERROR":  # that watch is over
            return
        name, found = event["object"]["metadata"]["name"], event["object"].get("endpoints") or ()
        ready = {e["addresses"][0] for e in found if e["conditions"]["ready"]} if event["type"] != "DELETED" else set()
        self._slices[name] = ready
        self.seen.append((time.time(), set().union(*self._slices.values())))

    def when_ready(self, address: str, after: float) -> float:
        def found() -> float | None:
            return next((moment for moment, ready in self.seen if moment > after and address in ready), None)

        wait(lambda: found() is not None, why=lambda: f"{address}: {self.seen[-5:]}", every=0.01)
        return found() or 0.0

    def ready_at(self, moment: float) -> set[str]:
        return [ready for when, ready in self.seen if when <= moment][-1]
