"""The programs of Linkerd's control plane in their pods: identity, destination and policy, each behind its own proxy."""

from __future__ import annotations

import json

from tests import linkerd_lab_pki as pki
from tests.linkerd_lab_box import Box
from tests.linkerd_lab_cluster import (
    ACCOUNTS,
    CLUSTER_NETWORKS,
    CONTROLLER_UID,
    DESTINATION,
    IDENTITY,
    PROXY_UID,
    SUFFIX,
    Cluster,
)
from tests.waiting import wait

_CONTROL = "linkerd.svc.cluster.local."
SERVICES = (
    f"linkerd-identity-headless.{_CONTROL}:8080",
    f"linkerd-dst-headless.{_CONTROL}:8086",
    f"linkerd-policy.{_CONTROL}:8090",
)
OPAQUE = "25,587,3306,4444,5432,6379,9300,11211"


def start(made: Cluster) -> None:
    """Ready: every controller and the proxies before them."""
    for account in ACCOUNTS.values():
        made.kubeconfig(account, {"token": made.token(account, "linkerd")})
    _start_identity(made)
    # The destination controller refuses to start in a cluster without any EndpointSlice.
    wait(lambda: made.get("endpointslices", "-A")["items"] != [])
    _start_destination(made)
    made.pods["identity"].await_answer("http://127.0.0.1:9990/ready", "identity")
    made.pods["destination"].await_answer("http://127.0.0.1:9996/ready", "destination")
    made.pods["destination"].await_answer("http://127.0.0.1:9990/ready", "policy")
    _, destination, policy = SERVICES
    for component, address, ports, services in (
        ("identity", IDENTITY, "8080,9990", ("localhost.:8080", destination, policy)),
        ("destination", DESTINATION, "8086,8090,9990,9996", (SERVICES[0], "localhost.:8086", "localhost.:8090")),
    ):
        start_proxy(made, made.pods[component], (ACCOUNTS[component], "linkerd"), address, ports, services)
    for pod in made.pods.values():
        pod.await_answer("http://127.0.0.1:4191/ready", "proxy")


def _start_identity(made: Cluster) -> None:
    pod, keys = made.pods["identity"], made.pki
    for name, text in {
        "issuer/crt.pem": (keys / "issuer.crt").read_text(),
        "issuer/key.pem": (keys / "issuer.key").read_text(),
        "trust-roots/ca-bundle.crt": (keys / "ta.crt").read_text(),
    }.items():
        path = pod.path(f"/run/linkerd/identity/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    pod.start(
        "identity", "linkerd-controller", "identity", f"-kubeconfig={made.folder}/linkerd-identity.kubeconfig",
        "-controller-namespace=linkerd", "-identity-trust-domain=cluster.local", "-identity-issuance-lifetime=24h",
        "-identity-clock-skew-allowance=20s", "-identity-scheme=linkerd.io/tls",
        env={"HOSTNAME": "linkerd-identity-0"}, uid=CONTROLLER_UID,
    )  # fmt: skip


def _start_destination(made: Cluster) -> None:
    pod, kubeconfig = made.pods["destination"], f"{made.folder}/linkerd-destination.kubeconfig"
    pod.start(
        "destination", "linkerd-controller", "destination", f"-kubeconfig={kubeconfig}", "-addr=:8086",
        "-controller-namespace=linkerd", "-outbound-transport-mode=transport-header", "-enable-h2-upgrade=true",
        "-enable-endpoint-slices=true", "-cluster-domain=cluster.local", "-identity-trust-domain=cluster.local",
        f"-default-opaque-ports={OPAQUE}", "-enable-ipv6=false",
        env={"HOSTNAME": "linkerd-destination-0"}, uid=CONTROLLER_UID,
    )  # fmt: skip
    pod.start(
        "policy", "linkerd-policy-controller", "--admin-addr=0.0.0.0:9990", "--control-plane-namespace=linkerd",
        "--grpc-addr=0.0.0.0:8090", "--admission-controller-disabled", f"--cluster-networks={CLUSTER_NETWORKS}",
        "--identity-domain=cluster.local", "--cluster-domain=cluster.local", "--default-policy=all-unauthenticated",
        "--log-level=linkerd=info,warn", f"--default-opaque-ports={OPAQUE}",
        env={"HOSTNAME": "linkerd-destination-0", "KUBECONFIG": kubeconfig}, uid=CONTROLLER_UID,
    )  # fmt: skip


def start_proxy(
    made: Cluster, pod: Box, account: tuple[str, str], address: str, ports: str, services: tuple[str, str, str] = SERVICES
) -> None:
    """`account`: name and namespace. `services`: identity, destination and policy; on loopback they are spoken to without TLS."""
    name = f"{account[0]}.{account[1]}.serviceaccount.identity.linkerd.cluster.local"
    folder = made.folder / f"{pod.name}-proxy"
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(made.token(*account, "identity.l5d.io"))
    pki.proxy_request(folder, name)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
    workload = {"ns": account[1], "pod": f"linkerd-{pod.name}-0"}
    names = (f"linkerd-identity.{SUFFIX}", f"linkerd-destination.{SUFFIX}", f"linkerd-destination.{SUFFIX}")
    variables = {
        "LOG": "warn,linkerd=info,hickory=error",
        "IDENTITY_TRUST_ANCHORS": (made.pki / "ta.crt").read_text(),
        "IDENTITY_DIR": str(folder),
        "IDENTITY_TOKEN_FILE": f"{folder}/token",
        "IDENTITY_LOCAL_NAME": name,
        "POLICY_WORKLOAD": json.dumps(workload),
        "DESTINATION_CONTEXT": json.dumps({**workload, "nodeName": "lab"}),
        "DESTINATION_PROFILE_NETWORKS": CLUSTER_NETWORKS,
        "POLICY_CLUSTER_NETWORKS": CLUSTER_NETWORKS,
        "INBOUND_DEFAULT_POLICY": "all-unauthenticated",
        "INBOUND_IPS": address,
        "INBOUND_PORTS": ports,
        "INBOUND_LISTEN_ADDR": "0.0.0.0:4143",
        "OUTBOUND_LISTEN_ADDRS": "127.0.0.1:4140",
        "ADMIN_LISTEN_ADDR": "0.0.0.0:4191",
    }
    for service, where, theirs in zip(("IDENTITY", "DESTINATION", "POLICY"), services, names, strict=True):
        variables |= {f"{service}_SVC_ADDR": where, f"{service}_SVC_NAME": theirs}
    environment = {f"LINKERD2_PROXY_{name}": value for name, value in variables.items()}
    pod.start("proxy", "linkerd2-proxy", env=environment, uid=PROXY_UID)
