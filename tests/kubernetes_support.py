"""A real kube-apiserver on etcd for the tests, on loopback and with RBAC: started once for a test run, ended with it."""

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import yaml

from controller.kubernetes import access
from controller.kubernetes.client import Client
from tests.controller_support import Authority
from tests.kubernetes_build import kube_apiserver, kubectl, kubectl_environment
from tests.ports import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMESPACE = "meshexp"
CRDS = (ROOT / "tests" / "kubernetes" / "externalworkload.yaml", *sorted((ROOT / "deploy" / "crds").rglob("*.yaml")))
START_SECONDS = 90.0
_EVER = 365 * 86400.0


@dataclass(frozen=True)
class Cluster:
    folder: pathlib.Path
    authority: Authority
    url: str
    command: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]]

    def start_apiserver(self) -> None:
        """Returns when it is ready."""
        self.processes["kube-apiserver"] = spawn(self.folder, "kube-apiserver", *self.command)
        wait_ready(self)

    def stop_apiserver(self) -> None:
        end(self.processes["kube-apiserver"])

    def kubeconfig(self, user: str = "admin", **credentials: Any) -> str:
        """The file of a user; without credentials it is the administrator."""
        if not credentials:
            certificate, key = self.folder / "ca-admin.pem", self.folder / "ca-admin.key.pem"
            credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        data = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": self.authority.anchors}}],
            "users": [{"name": "u", "user": credentials}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        }  # fmt: skip
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    def client(self, **options: Any) -> Client:
        return Client(access.from_kubeconfig(self.kubeconfig()), **options)

    def kubectl(self, *arguments: str, given: str = "", check: bool = True, kubeconfig: str = "") -> str:
        environment = os.environ | kubectl_environment(kubeconfig or self.kubeconfig(), self.folder)
        done = subprocess.run(
            [kubectl(), *arguments], input=given, text=True, capture_output=True, env=environment, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, *paths: pathlib.Path) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", *(f"--filename={path}" for path in paths))

    def token(self, account: str, namespace: str = NAMESPACE, audience: str = "") -> str:
        """No controller makes accounts here: it is made where it is missing."""
        self.kubectl("create", "serviceaccount", account, "-n", namespace, check=False)
        flags = [f"--audience={audience}"] if audience else []
        return self.kubectl("create", "token", account, "-n", namespace, *flags).strip()


@functools.cache
def cluster() -> Cluster:
    """With our CRDs and the shape of Linkerd's, and the namespaces of the tests."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="meshexp-kube-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = start(folder)
    made.apply(*CRDS)
    made.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    for namespace in (NAMESPACE, "faces", "linkerd"):
        made.kubectl("create", "namespace", namespace)
    return made


def start(folder: pathlib.Path, *flags: str) -> Cluster:
    """etcd and an API server with everything in `folder`, and with these flags."""
    authority = Authority(folder, "ca")
    serving = authority.issue("api", dns=("kubernetes",), ends=_EVER)
    authority.issue("admin", ends=_EVER, organization="system:masters")
    accounts = authority.issue("accounts")
    etcd, peers, port = free_port(), free_port(), free_port()
    store = spawn(
        folder, "etcd", "etcd", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error", "--name=test",
        f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=test=http://127.0.0.1:{peers}",
    )  # fmt: skip
    command = (
        kube_apiserver(), f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1",
        f"--secure-port={port}", f"--cert-dir={folder}", f"--tls-cert-file={serving[0]}", f"--tls-private-key-file={serving[1]}",
        f"--client-ca-file={authority.anchors}", "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={accounts[0]}", f"--service-account-signing-key-file={accounts[1]}",
        "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount",
        "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", "--v=0", *flags,
    )  # fmt: skip
    made = Cluster(folder, authority, f"https://127.0.0.1:{port}", command, {"etcd": store})
    made.start_apiserver()
    return made


def spawn(folder: pathlib.Path, name: str, *command: str) -> subprocess.Popen[bytes]:
    """Ends with the test run, however that ends."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )
    atexit.register(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def wait_ready(made: Cluster) -> None:
    context = ssl.create_default_context(cafile=made.authority.anchors)
    context.load_cert_chain(str(made.folder / "ca-admin.pem"), str(made.folder / "ca-admin.key.pem"))
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{made.url}/readyz", context=context, timeout=5) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                log = (made.folder / "kube-apiserver.log").read_text()[-2000:]
                raise AssertionError(f"the API server is not ready: {error}\n{log}") from None
            time.sleep(0.1)
