"""A real cluster as far as the mesh needs one: etcd, kube-apiserver, and Linkerd's control plane behind its own proxies.

    node         10.77.0.1 on br0 (machines), 10.42.0.1 on cbr0 (pods): etcd, kube-apiserver, dnsmasq, our controller
    identity     10.42.0.11: Linkerd's identity controller and its proxy
    destination  10.42.0.12: its destination and policy controllers and their proxy

There is no kubelet, no scheduler and no kube-proxy: Pods and their addresses are objects that this module makes, and a ClusterIP
leads somewhere only through a proxy; that of the cluster's DNS leads to dnsmasq.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from demo.machine import BRIDGE
from tests import linkerd_lab_pki as pki
from tests.kubernetes_build import kubectl_environment
from tests.linkerd_lab_box import PATH, Box, box, bring_built
from tests.waiting import wait

NODE, POD_GATEWAY, IDENTITY, DESTINATION = "10.77.0.1", "10.42.0.1", "10.42.0.11", "10.42.0.12"
POD_CIDR, SERVICE_CIDR, API = "10.42.0.0/24", "10.96.0.0/16", f"https://{NODE}:6443"
DNS = "10.96.0.10"  # of the cluster's DNS Service
SERVICE_CIDR6 = "fd00:96::/108"  # of Services that ask for both families
CLUSTER_NETWORKS = f"{POD_CIDR},{SERVICE_CIDR},10.77.0.0/24"
TRUST_DOMAIN = "root.linkerd.cluster.local"
SUFFIX = "linkerd.serviceaccount.identity.linkerd.cluster.local"
PROXY_UID, CONTROLLER_UID = 2102, 2103
# Nothing here serves webhooks or runs jobs.
UNSERVED = {"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "CronJob"}
ACCOUNTS = {"identity": "linkerd-identity", "destination": "linkerd-destination"}
# What kube-proxy does on a node for those who are routed to it.
_KUBE_PROXY = f"""
table ip kube-proxy {{
  chain services {{
    type nat hook prerouting priority -100
    ip daddr {DNS} meta l4proto {{ tcp, udp }} th dport 53 dnat to {NODE}
  }}
}}
"""
# What Linkerd's init container sets up in a pod; the API server is spoken to directly.
_REDIRECT = f"""
table ip lab {{
  chain inbound {{
    type nat hook prerouting priority -110
    tcp dport != {{ 4190, 4191, 4567, 4568 }} redirect to :4143
  }}
  chain outbound {{
    type nat hook output priority -110
    meta skuid {PROXY_UID} return
    oif lo return
    tcp dport {{ 443, 6443 }} return
    meta l4proto tcp redirect to :4140
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """`folder`/pki has ta.crt: the mesh's trust anchor; and ta.key, unless Linkerd's own CLI made it, which prints it nowhere."""

    folder: Path
    node: Box
    pods: Mapping[str, Box]

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def kubectl(self, *words: str, given: str = "") -> str:
        env = kubectl_environment(self.folder / "admin.kubeconfig", self.folder)
        return self.node.do("kubectl", "--request-timeout=20s", *words, given=given, env=env)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))

    def await_crds(self) -> None:
        """Not by `kubectl wait`, which gives up on one that has no conditions yet."""

        def established(crd: Mapping[str, Any]) -> bool:
            conditions = crd.get("status", {}).get("conditions") or ()
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        wait(lambda: all(map(established, self.get("crd")["items"])))

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def kubeconfig(self, name: str, user: Mapping[str, str]) -> Path:
        data = {
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": API, "certificate-authority": f"{self.pki}/kube.crt"}}],
            "users": [{"name": "lab", "user": dict(user)}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "meshexp"}}],
        }  # fmt: skip
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(data))
        return path

    def token(self, account: str, namespace: str, audience: str = "") -> str:
        flags = [f"--audience={audience}"] if audience else []
        return self.kubectl("create", "token", account, "-n", namespace, "--duration=24h", *flags).strip()

    def name(self, host: str, address: str) -> None:
        """A DNS record; dnsmasq notices."""
        (self.folder / "dns" / host).write_text(f"{address} {host}\n")


@contextlib.contextmanager
def cluster(folder: Path, by_the_cli: bool = False) -> Iterator[Cluster]:
    """With the objects of Linkerd's control plane; its programs are started by linkerd_lab_control.

    `by_the_cli`: anchor and issuer are what a plain `linkerd install` makes.
    """
    for name in ("pki", "dns"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        pki_made = pool.submit(certificates, folder / "pki")
        node = stack.enter_context(box("node", folder / "node", NODE))
        pods = {name: stack.enter_context(box(name, folder / name, POD_GATEWAY)) for name in ("identity", "destination")}
        made = Cluster(folder, node, pods)
        bring_built(node)
        _network(made)
        pki_made.result()
        manifests = pool.submit(_linkerd_manifests, made.pki, by_the_cli)
        start_kubernetes(made)
        start_dns(made)
        _install(made, manifests)
        yield made


def certificates(folder: Path) -> None:
    pki.root(folder, "ta", TRUST_DOMAIN)
    pki.intermediate(folder, "issuer", "ta", "identity.linkerd.cluster.local")
    pki.root(folder, "kube", "lab-kubernetes")
    pki.leaf(folder, "api", "kube", "/CN=kube-apiserver", f"IP:{NODE},IP:127.0.0.1,DNS:kubernetes.default.svc")
    pki.leaf(folder, "admin", "kube", "/O=system:masters/CN=lab-admin")
    pki.service_account_key(folder)
    for path in folder.glob("*.crt"):
        path.chmod(0o644)


def _linkerd_manifests(folder: Path, by_the_cli: bool) -> tuple[str, str]:
    """Of the CRDs and of the rest, as the CLI renders them."""

    def render(*words: str) -> str:
        argv = ["linkerd", "install", "--ignore-cluster", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": PATH, "HOME": "/nonexistent"}).stdout

    crds = render("--crds", "--set", "installGatewayAPI=true")
    issuer = ("--identity-issuer-certificate-file", f"{folder}/issuer.crt", "--identity-issuer-key-file", f"{folder}/issuer.key")
    certificates = () if by_the_cli else ("--identity-trust-anchors-file", f"{folder}/ta.crt", *issuer)
    rest = render(*certificates, "--set", "disableHeartBeat=true")
    served = [document for document in yaml.load_all(rest, yaml.CSafeLoader) if document and document["kind"] not in UNSERVED]
    if by_the_cli:
        _take_certificates(folder, served)
    return crds, yaml.dump_all(served, Dumper=yaml.CSafeDumper)


def _take_certificates(folder: Path, objects: list[dict[str, Any]]) -> None:
    """For the controllers, which have no kubelet that would mount them."""
    there = {(item["kind"], item["metadata"]["name"]): item.get("data", {}) for item in objects}
    (folder / "ta.crt").write_text(there["ConfigMap", "linkerd-identity-trust-roots"]["ca-bundle.crt"])
    (folder / "ta.key").unlink()
    secret = there["Secret", "linkerd-identity-issuer"]
    for name, key in (("issuer.crt", "crt.pem"), ("issuer.key", "key.pem")):
        (folder / name).write_bytes(base64.b64decode(secret[key]))


def _network(made: Cluster) -> None:
    for bridge, address in (("br0", NODE), ("cbr0", POD_GATEWAY)):
        made.node.do("ip", *(bridge if word == "br0" else word for word in BRIDGE))
        made.node.do("ip", "address", "add", f"{address}/24", "dev", bridge)
        made.node.do("ip", "link", "set", bridge, "up")
    made.node.do("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for name, address in (("identity", IDENTITY), ("destination", DESTINATION)):
        join_pods(made, made.pods[name], address)


def join_pods(made: Cluster, pod: Box, address: str) -> None:
    """With the redirect of a meshed pod."""
    pod.link(made.node, "cbr0", f"{address}/24", POD_GATEWAY)
    pod.do("nft", "-f", "-", given=_REDIRECT)


def start_kubernetes(made: Cluster) -> None:
    folder, keys = made.folder, made.pki
    made.node.start("etcd", "etcd", "--name=lab", f"--data-dir={folder}/etcd", "--unsafe-no-fsync")
    made.node.await_answer("http://127.0.0.1:2379/health", "etcd")
    made.node.start(
        "kube-apiserver", "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={NODE}",
        "--secure-port=6443", f"--advertise-address={NODE}", f"--cert-dir={folder}/node", f"--tls-cert-file={keys}/api.crt",
        f"--tls-private-key-file={keys}/api.key", f"--client-ca-file={keys}/kube.crt",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local", f"--service-account-key-file={keys}/sa.pub",
        f"--service-account-signing-key-file={keys}/sa.key", "--authorization-mode=RBAC",
        f"--service-cluster-ip-range={SERVICE_CIDR},{SERVICE_CIDR6}", "--disable-admission-plugins=ServiceAccount", "--v=0",
    )  # fmt: skip
    made.kubeconfig("admin", {"client-certificate": f"{keys}/admin.crt", "client-key": f"{keys}/admin.key"})
    argv = ("kubectl", "get", "--raw", "/readyz", f"--kubeconfig={folder}/admin.kubeconfig")
    wait(lambda: made.node.run(*argv)[0] == 0, 90, lambda: made.node.log("kube-apiserver")[-3000:], 0.2)


def start_dns(made: Cluster) -> None:
    """Only address records of cluster.local; the proxies ask for SRV first and then for these. A Service leads to it."""
    for host in ("linkerd-dst", "linkerd-dst-headless", "linkerd-policy"):
        made.name(f"{host}.linkerd.svc.cluster.local", DESTINATION)
    for host in ("linkerd-identity", "linkerd-identity-headless"):
        made.name(f"{host}.linkerd.svc.cluster.local", IDENTITY)
    made.name("kubernetes.default.svc.cluster.local", "10.96.0.1")
    made.apply({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": DNS, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    })  # fmt: skip
    made.node.do("nft", "-f", "-", given=_KUBE_PROXY)
    made.node.start(
        "dnsmasq", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
        "--local=/cluster.local/", "--local-ttl=1", "--neg-ttl=1", f"--hostsdir={made.folder}/dns", "--pid-file=",
    )  # fmt: skip


def _install(made: Cluster, manifests: Future[tuple[str, str]]) -> None:
    crds, rest = manifests.result()
    made.kubectl("apply", "--server-side", "-f", "-", given=crds)
    made.await_crds()
    made.kubectl("apply", "--server-side", "-f", "-", given=rest)
    made.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lab"}, "spec": {"podCIDRs": [POD_CIDR], "podCIDR": POD_CIDR}}
    )
    status = {"status": {"addresses": [{"type": "InternalIP", "address": NODE}]}}
    made.kubectl("patch", "node", "lab", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    _pod(made, "identity", IDENTITY, {"ident-grpc": 8080, "ident-admin": 9990})
    _pod(made, "destination", DESTINATION, {"dest-grpc": 8086, "policy-grpc": 8090, "policy-admin": 9990, "dest-admin": 9996})


def _pod(made: Cluster, component: str, address: str, ports: Mapping[str, int]) -> None:
    """The object, as Linkerd's injector, the scheduler and the kubelet would leave it."""
    listening = [{"containerPort": port, "name": name} for name, port in ports.items()]
    proxy_ports = [{"containerPort": 4143, "name": "linkerd-proxy"}, {"containerPort": 4191, "name": "linkerd-admin"}]
    labels = {"control-plane-component": component, "control-plane-ns": "linkerd", "workload-ns": "linkerd"}
    made.apply({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": f"linkerd-{component}-0", "namespace": "linkerd",
            "labels": {f"linkerd.io/{key}": value for key, value in labels.items()},
            "annotations": {"config.linkerd.io/default-inbound-policy": "all-unauthenticated"},
        },
        "spec": {
            "nodeName": "lab", "serviceAccountName": ACCOUNTS[component], "automountServiceAccountToken": False,
            "containers": [
                {"name": component, "image": "none", "ports": listening},
                {
                    "name": "linkerd-proxy", "image": "none", "ports": proxy_ports,
                    "env": [{"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "0.0.0.0:4143"}],
                },
            ],
        },
    })  # fmt: skip
    running = {
        "name": "linkerd-proxy",
        "ready": True,
        "restartCount": 0,
        "image": "none",
        "imageID": "none",
        "state": {"running": {}},
    }
    status = {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": NODE,
        "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [running],
    }  # fmt: skip
    patch = json.dumps({"status": status})
    made.kubectl("patch", "pod", f"linkerd-{component}-0", "-n", "linkerd", "--subresource=status", "--type=merge", "-p", patch)
