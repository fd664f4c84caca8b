"""An ExternalWorkload keeps all that it says when it becomes a Kubernetes object and comes back."""

from __future__ import annotations

from controller.model import workload_from_object
from tests.controller_support import ready, workload


def test_workload_is_the_same_after_its_kubernetes_form() -> None:
    made = ready(workload())
    assert workload_from_object(made.to_object()) == made
    assert made.to_object() == {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {
            "name": "face-abc",
            "namespace": "faces",
            "labels": {"service": "face"},
            "annotations": {"a": "b"},
            "ownerReferences": [
                {
                    "apiVersion": "workload.meshexp.io/v1alpha1",
                    "kind": "ExternalGroup",
                    "name": "face",
                    "uid": "0b7d4c0e-0000-4000-8000-000000000000",
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "meshTLS": {"identity": "spiffe://td/face", "serverName": "face-abc.faces.external.cluster.local"},
            "workloadIPs": [{"ip": "192.0.2.1"}],
            "ports": [{"port": 8000, "name": "http", "protocol": "TCP"}],
        },
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Ready",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }
