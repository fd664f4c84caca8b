"""The Faces chart's color, as an ordinary Pod: a namespace with the workload, and the objects that Kubernetes makes of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.linkerd_lab_box import Box, box
from tests.linkerd_lab_cluster import POD_GATEWAY, Cluster
from tests.mesh import ENVIRONMENT

ADDRESS, NAMESPACE = "10.42.0.40", "faces"


@dataclass(frozen=True, slots=True)
class Pod:
    cluster: Cluster
    box: Box

    def scale_to_zero(self) -> None:
        """As with a Deployment: out of the endpoints, and the process ends a little later."""
        self.cluster.kubectl("delete", "-n", NAMESPACE, "endpointslice/color-pods", "pod/color-0", "--grace-period=0", "--force")


@contextlib.contextmanager
def color_pod(cluster: Cluster) -> Iterator[Pod]:
    with box("color-pod", cluster.folder / "color-pod", POD_GATEWAY) as pod:
        pod.link(cluster.node, "cbr0", f"{ADDRESS}/24", POD_GATEWAY)
        environment = {"HOSTNAME": "color-0", "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}
        pod.start("color", "/usr/bin/python3", "-s", "-m", "demo.faces", "color", "--port", "8000", env=environment)
        pod.await_answer("http://127.0.0.1:8000/ready", "color")
        _announce(cluster)
        yield Pod(cluster, pod)


def _announce(cluster: Cluster) -> None:
    metadata = {"namespace": NAMESPACE, "labels": {"service": "color"}}
    container = {"name": "color", "image": "none", "ports": [{"name": "http", "containerPort": 8000}]}
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "name": "color-0"},
        "spec": {"nodeName": "lab", "containers": [container]},
    })  # fmt: skip
    ready = {
        "phase": "Running",
        "podIP": ADDRESS,
        "podIPs": [{"ip": ADDRESS}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    patch = json.dumps({"status": ready})
    cluster.kubectl("patch", "pod", "color-0", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", patch)
    service = {"kubernetes.io/service-name": "color", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    reference = {"kind": "Pod", "namespace": NAMESPACE, "name": "color-0"}
    cluster.apply({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": NAMESPACE, "name": "color-pods", "labels": service},
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True, "serving": True}, "targetRef": reference}],
    })  # fmt: skip
