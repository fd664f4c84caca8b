"""What a controller-manager, kubelets and kube-proxy do in a cluster, as far as the walk-through's Faces needs it.

Deployments get Pods, each a namespace of its own with the project's Faces in it; Services get EndpointSlices, a name, and a way
to their address; a namespace that is deleted ends. Pods have Linkerd's proxy in their list of containers, not in their network:
to the mesh they are plain.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from demo.cluster import is_ready
from tests.container.api import Api, api
from tests.linkerd_lab_box import Box, box
from tests.linkerd_lab_cluster import NODE, POD_GATEWAY, Cluster
from tests.mesh import ENVIRONMENT

NAMESPACE, FIRST_POD, PORT = "faces", 40, 8000
PROGRAMS = {"faces-gui": "gui"}
POLL_SECONDS = 0.3
CORE, APPS, SLICES = "/api/v1", "/apis/apps/v1", "/apis/discovery.k8s.io/v1"
WORKLOADS = f"/apis/workload.linkerd.io/v1beta1/namespaces/{NAMESPACE}/externalworkloads"
ROUTES = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes"
# Of a namespace that ends.
CONTENT = (
    f"{APPS}/namespaces/{{}}/deployments", f"{APPS}/namespaces/{{}}/replicasets",
    f"{SLICES}/namespaces/{{}}/endpointslices", f"{CORE}/namespaces/{{}}/services", f"{CORE}/namespaces/{{}}/pods",
    f"{CORE}/namespaces/{{}}/secrets", f"{CORE}/namespaces/{{}}/configmaps", f"{CORE}/namespaces/{{}}/serviceaccounts",
)  # fmt: skip
READY = [{"type": "Ready", "status": "True"}]


@dataclass(slots=True)
class Pod:
    address: str
    box: Box
    end: contextlib.ExitStack


@dataclass(slots=True)
class Kubelet:
    """`real`: Linkerd's own controllers write the slices of machines and judge routes. The rest is for tests to set:

    `inject`: pods get Linkerd's proxy. `hold`: Deployments whose pods do not come up.
    `restart`: all pods, once.
    """

    cluster: Cluster
    api: Api
    real: bool
    inject: bool = True
    hold: frozenset[str] = frozenset()
    restart: bool = False
    pods: dict[str, Pod] = field(default_factory=dict)
    fault: BaseException | None = None
    _rules: str = ""
    _slices: dict[str, list[Any]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.look()
            except BaseException as error:  # noqa: BLE001 - the test's thread raises it
                self.fault = error
                return

    def look(self) -> None:
        for namespace in self.api.items(f"{CORE}/namespaces"):
            if namespace["status"]["phase"] == "Terminating":
                self._finish(namespace)
        deployments = self.api.items(f"{APPS}/namespaces/{NAMESPACE}/deployments")
        wanted = {
            f"{d['metadata']['name']}-{number}": d
            for d in deployments
            if d["metadata"]["name"] not in self.hold and "deletionTimestamp" not in d["metadata"]
            for number in range(d["spec"]["replicas"])
        }
        for name in self.pods.keys() - (set() if self.restart else wanted.keys()):
            self._end(name)
        self.restart = False
        for name in wanted.keys() - self.pods.keys():
            self._start(name, wanted[name])
        for deployment in (*deployments, *self.api.items(f"{APPS}/namespaces/meshexp/deployments")):
            self._report(deployment)
        self._serve()
        if not self.real:
            self._judge_routes()

    def _start(self, name: str, deployment: Mapping[str, Any]) -> None:
        service = deployment["spec"]["template"]["metadata"]["labels"]["service"]
        taken = {pod.address for pod in self.pods.values()}
        address = next(a for a in (f"10.42.0.{n}" for n in range(FIRST_POD, 250)) if a not in taken)
        stack = contextlib.ExitStack()
        short = f"p{address.rpartition('.')[2]}"
        made = stack.enter_context(box(short, self.cluster.folder / short, NODE))
        made.link(self.cluster.node, "cbr0", f"{address}/24", POD_GATEWAY)
        names = {f"{part.upper()}_SERVICE": f"{part}.{NAMESPACE}.svc.cluster.local" for part in ("face", "smiley", "color")}
        environment = {"HOSTNAME": name, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"], **names}
        program = PROGRAMS.get(service, service)
        made.start("faces", "/usr/bin/python3", "-s", "-m", "demo.faces", program, "--port", str(PORT), env=environment)
        made.await_answer(f"http://127.0.0.1:{PORT}/ready", "faces")
        self.pods[name] = Pod(address, made, stack)
        self._announce(name, service, address)

    def _announce(self, name: str, service: str, address: str) -> None:
        containers = [{"name": service, "image": "none", "ports": [{"name": "http", "containerPort": PORT}]}]
        if self.inject:
            containers.append({"name": "linkerd-proxy", "image": "none"})
        metadata = {"name": name, "namespace": NAMESPACE, "labels": {"service": service}}
        where = f"{CORE}/namespaces/{NAMESPACE}/pods"
        spec = {"nodeName": "lab", "containers": containers, "terminationGracePeriodSeconds": 0}
        self.api.call("POST", where, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        running = [
            {"name": one["name"], "ready": True, "restartCount": 0, "image": "none", "imageID": "none", "state": {"running": {}}}
            for one in containers
        ]
        ips = [{"ip": address}]
        self.api.status(
            f"{where}/{name}", phase="Running", podIP=address, podIPs=ips, conditions=READY, containerStatuses=running
        )

    def _end(self, name: str) -> None:
        """Out of the endpoints first: the process ends a little later."""
        pod = self.pods.pop(name)
        self.api.call("DELETE", f"{CORE}/namespaces/{NAMESPACE}/pods/{name}", {"gracePeriodSeconds": 0})
        self._serve()
        time.sleep(0.5)
        pod.end.close()

    def _report(self, deployment: Mapping[str, Any]) -> None:
        metadata, replicas = deployment["metadata"], deployment["spec"]["replicas"]
        there = replicas if metadata["namespace"] != NAMESPACE else sum(p.startswith(f"{metadata['name']}-") for p in self.pods)
        if metadata["name"] in self.hold:
            there = 0
        numbers = {"replicas": there, "readyReplicas": there, "updatedReplicas": there, "availableReplicas": there}
        known = {key: deployment.get("status", {}).get(key, 0) for key in numbers}
        generation = metadata["generation"]
        if (known, deployment.get("status", {}).get("observedGeneration")) != (numbers, generation):
            where = f"{APPS}/namespaces/{metadata['namespace']}"
            self._keep_replica_set(where, deployment, there)
            self.api.status(f"{where}/deployments/{metadata['name']}", observedGeneration=generation, **numbers)

    def _keep_replica_set(self, where: str, deployment: Mapping[str, Any], there: int) -> None:
        """helm looks at it, too. One of a Deployment that was deleted goes when the next of that name comes."""
        name, uid = deployment["metadata"]["name"], deployment["metadata"]["uid"]
        found = self.api.call("GET", f"{where}/replicasets/{name}")
        if found and found["metadata"]["ownerReferences"][0]["uid"] != uid:
            self.api.call("DELETE", f"{where}/replicasets/{name}")
            found = None
        if not found:
            template = deployment["spec"]["template"]
            owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid, "controller": True}
            metadata = {"name": name, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
            spec = {"replicas": there, "selector": deployment["spec"]["selector"], "template": template}
            self.api.call("POST", f"{where}/replicasets", {"kind": "ReplicaSet", "metadata": metadata, "spec": spec})
        numbers = {"replicas": there, "readyReplicas": there, "availableReplicas": there}
        self.api.status(f"{where}/replicasets/{name}", observedGeneration=1, **numbers)

    def _serve(self) -> None:
        """Slices, the way to each Service's address, and its name."""
        services = [s for s in self.api.items(f"{CORE}/namespaces/{NAMESPACE}/services") if s["spec"].get("selector")]
        machines = {
            w["spec"]["workloadIPs"][0]["ip"]: (w["metadata"]["labels"].get("service"), is_ready(w))
            for w in self.api.items(WORKLOADS)
        }
        ways, slices = [], []
        for service in services:
            name, address = service["metadata"]["name"], service["spec"]["clusterIP"]
            selected = service["spec"]["selector"].get("service")
            pods = {pod.address: True for key, pod in self.pods.items() if key.rpartition("-")[0] == selected}
            theirs = {ip: ready for ip, (label, ready) in machines.items() if label == selected}
            slices.append((name, "pods", "endpointslice-controller.k8s.io", pods))
            if not self.real:
                slices.append((name, "machines", "linkerd-external-workloads-controller", theirs))
            targets = [ip for ip, ready in {**pods, **theirs}.items() if ready]
            if targets:
                chosen = ", ".join(f"{number} : {ip}" for number, ip in enumerate(targets))
                ways.append(
                    f"ip daddr {address} tcp dport 80 dnat to numgen random mod {len(targets)} map {{ {chosen} }} : {PORT}"
                )
            record = self.cluster.folder / "dns" / f"{name}.{NAMESPACE}.svc.cluster.local"
            if not record.exists() or not record.read_text().startswith(f"{address} "):
                self.cluster.name(record.name, address)
        # First the way: a machine that leaves waits only some seconds for that.
        self._lead(ways)
        for one in slices:
            self._slice(*one)

    def _slice(self, service: str, part: str, manager: str, endpoints: Mapping[str, bool]) -> None:
        where, name = f"{SLICES}/namespaces/{NAMESPACE}/endpointslices", f"{service}-{part}"
        names = {pod.address: key for key, pod in self.pods.items()}
        listed = [
            {"addresses": [ip], "conditions": {"ready": ready, "serving": ready}, "targetRef": _reference(names.get(ip))}
            for ip, ready in sorted(endpoints.items())
        ]
        if self._slices.get(name) == listed:
            return
        found = self.api.call("GET", f"{where}/{name}")
        labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": manager}
        ports = [{"name": "", "port": PORT, "protocol": "TCP"}]
        made: dict[str, Any] = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
        made["metadata"] = {"name": name, "labels": labels}
        made |= {"addressType": "IPv4", "ports": ports, "endpoints": listed}
        self.api.call("PUT" if found else "POST", f"{where}/{name}" if found else where, made)
        self._slices[name] = listed

    def _lead(self, ways: list[str]) -> None:
        """As kube-proxy; a pod that calls a pod is given the node's address, since the answer would go past the node else."""
        body = "\n    ".join(ways)
        rules = f"""
table ip faces
delete table ip faces
table ip faces {{
  chain services {{
    type nat hook prerouting priority -100
    {body}
  }}
  chain back {{
    type nat hook postrouting priority 100
    ct status dnat ip daddr 10.42.0.0/24 masquerade
  }}
}}
"""
        if rules != self._rules:
            self.cluster.node.do("nft", "-f", "-", given=rules)
            self._rules = rules

    def _judge_routes(self) -> None:
        """As Linkerd's policy controller: the parent must be there."""
        for route in self.api.items(ROUTES):
            parent = route["spec"]["parentRefs"][0]
            there = self.api.call("GET", f"{CORE}/namespaces/{NAMESPACE}/services/{parent['name']}") is not None
            condition = {
                "type": "Accepted", "status": str(there), "reason": "Accepted" if there else "NoMatchingParent",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }  # fmt: skip
            parents = [{"conditions": [condition], "controllerName": "linkerd.io/policy-controller", "parentRef": parent}]
            if route.get("status", {}).get("parents") != parents:
                self.api.status(f"{ROUTES}/{route['metadata']['name']}", parents=parents)

    def _finish(self, namespace: Mapping[str, Any]) -> None:
        name = namespace["metadata"]["name"]
        self._slices.clear()
        for path in CONTENT:
            self.api.call("DELETE", path.format(name), {"gracePeriodSeconds": 0})
        self.api.call("PUT", f"{CORE}/namespaces/{name}/finalize", {**namespace, "spec": {"finalizers": []}})


def _reference(pod: str | None) -> dict[str, str] | None:
    return {"kind": "Pod", "namespace": NAMESPACE, "name": pod} if pod else None


@contextlib.contextmanager
def kubelet(cluster: Cluster, real: bool) -> Iterator[Kubelet]:
    made = Kubelet(cluster, api(cluster), real)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        thread.join(60)
        for pod in made.pods.values():
            pod.end.close()
    if made.fault is not None:
        raise made.fault
