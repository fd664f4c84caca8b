"""The chart's pod as a kubelet runs and probes it: from what is rendered, at the pod's address, by IPv4 and by IPv6."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.kubernetes.test_deploy import documents, render
from tests.kubernetes_site import SERVER_NAME, Site
from tests.kubernetes_support import ROOT, end, spawn
from tests.namespaces import Namespace, connect, namespace
from tests.waiting import wait

POD = {"IPv4": "10.42.0.10", "IPv6": "fd42::10"}
LINKS = {"IPv4": ("10.42.0.1/24", "10.42.0.10/24"), "IPv6": ("fd42::1/64", "fd42::10/64")}
# As a kubelet asks (pkg/probe/http): any status from 200 to 399 is success.
PROBE = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:
    sys.exit(not 200 <= answer.status < 400)
"""
# The API server of the tests listens on loopback outside: it gets a door inside, at the same port.
DOOR = """
import socket, sys
from demo.relay import relay
port, outside = map(int, sys.argv[1:])
listener = socket.create_server(("127.0.0.1", port))
print("open", flush=True)
relay(listener, outside, port)
"""


def of_kind(kind: str) -> dict[str, Any]:
    return next(document for document in documents(render()) if document["kind"] == kind)


def container() -> dict[str, Any]:
    (only,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(only)


def port_of(name: str) -> int:
    return next(int(port["containerPort"]) for port in container()["ports"] if port["name"] == name)


def url(probe: dict[str, Any], address: str) -> str:
    where = probe["httpGet"]
    assert where.get("scheme", "HTTP") == "HTTP" and "host" not in where, "a kubelet asks at the pod's address"
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port_of(where['port'])}{where['path']}"


def configuration(site: Site) -> list[str]:
    """The container's arguments, with its ConfigMap mounted in a folder. The API server and the certificate are this site's."""
    folder = site.folder / "mounted"
    folder.mkdir()
    (mounted,) = [one["mountPath"] for one in container()["volumeMounts"] if one["name"] == "configuration"]
    for name, text in of_kind("ConfigMap")["data"].items():
        (folder / name).write_text(text.replace(mounted, str(folder)))
    given = {
        "kubeconfig": site.kubeconfig, "tls-cert": site.server[0], "tls-key": site.server[1],
        "trust-anchors": site.authority.anchors, "replica": "pod",
    }  # fmt: skip
    arguments = [argument.replace(mounted, str(folder)) for argument in container()["args"]]
    return [*arguments, *(f"--{name}={value}" for name, value in given.items())]


@contextlib.contextmanager
def running(site: Site, families: tuple[str, ...]) -> Iterator[tuple[Namespace, Path]]:
    """The node that probes, and the container's log."""
    with contextlib.ExitStack() as stack:
        node, pod = stack.enter_context(namespace()), stack.enter_context(namespace())
        if "IPv6" not in families:
            pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        connect(node, pod, [LINKS[family] for family in families])
        python = (*pod.enter, "env", f"PYTHONPATH={ROOT}", sys.executable)

        def start(name: str, *arguments: str, until: str) -> Path:
            process, log = spawn(site.folder, name, *python, *arguments), site.folder / f"{name}.log"
            stack.callback(end, process)
            wait(lambda: until in log.read_text() or process.poll() is not None, why=log.read_text)
            return log

        start("door", "-c", DOOR, str(urlsplit(site.cluster.url).port), str(os.getpid()), until="open")
        log = start("pod", "-m", "controller", *configuration(site), until="controller ready")
        yield node, log


@pytest.mark.parametrize("families", [("IPv4",), ("IPv6",), ("IPv4", "IPv6")], ids="+".join)
def test_the_probes_of_the_chart_succeed_at_every_address_of_the_pod(site: Site, families: tuple[str, ...]) -> None:
    with running(site, families) as (node, log):
        for family in families:
            for kind in ("livenessProbe", "readinessProbe"):
                asked = url(container()[kind], POD[family])
                done = subprocess.run(
                    [*node.enter, sys.executable, "-c", PROBE, asked], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{kind} at {asked}: {done.stderr[-300:]}\n{log.read_text()[-2000:]}"


def test_machines_reach_the_port_of_the_service_by_both_families(site: Site) -> None:
    (port,) = of_kind("Service")["spec"]["ports"]
    client = site.authority.issue("vm", "spiffe://root.linkerd.cluster.local/face")
    command = (
        "openssl", "s_client", "-CAfile", site.authority.anchors, "-cert", client[0], "-key", client[1], "-verify_return_error",
        "-servername", SERVER_NAME, "-brief",
    )  # fmt: skip
    with running(site, ("IPv4", "IPv6")) as (node, _):
        for host in (POD["IPv4"], f"[{POD['IPv6']}]"):
            node.run(*command, "-connect", f"{host}:{port_of(port['targetPort'])}")
