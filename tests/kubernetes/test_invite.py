"""An invitation from the administrator's command to the first registration, on a real API server and over real TLS."""

from __future__ import annotations

import http.client
import json
import pathlib
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.decode import decode
from harness.invitation import Invitation
from tests.controller_support import TRUST_DOMAIN, make_certificate
from tests.kubernetes.test_cluster import config_map
from tests.kubernetes_site import SERVER_NAME, Site
from tests.kubernetes_support import ROOT, cluster
from tests.waiting import wait

EXTERNAL_WORKLOADS = "/apis/workload.linkerd.io/v1beta1/namespaces/faces/externalworkloads"
FACE = f"spiffe://{TRUST_DOMAIN}/faces/face"


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    made = Site(cluster(), tmp_path)
    folder = tmp_path / "ca"
    folder.mkdir()
    (folder / "ca.crt").write_text(pathlib.Path(made.authority.anchors).read_text())
    (folder / "ca.key").write_text((tmp_path / "mesh.key.pem").read_text())
    config_map("linkerd-identity-trust-roots", **{"ca-bundle.crt": pathlib.Path(made.authority.anchors).read_text()})
    try:
        yield made
    finally:
        made.close()
        cluster().kubectl("-n", "linkerd", "delete", "configmap", "linkerd-identity-trust-roots")


def invite(site: Site, *flags: str, output: str = "one.invitation") -> tuple[int, str]:
    command = [sys.executable, "-m", "controller", "invite", "--group=face", "-n", "faces", f"--output={site.folder / output}"]
    done = subprocess.run(
        [*command, f"--kubeconfig={cluster().kubeconfig()}", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def by_ca(site: Site, *flags: str, output: str = "one.invitation") -> Invitation:
    code, said = invite(site, f"--ca={site.folder / 'ca'}", *flags, output=output)
    assert code == 0, said
    read = (site.folder / output).read_text()
    made = decode(Invitation, json.loads(read), source="invitation")
    assert made.token not in said
    return made


def svid(site: Site, made: Invitation, uri: str = FACE) -> ssl.SSLContext:
    """As SPIRE on the machine would make it, without its own CA between."""
    assert made.local is not None
    issuer = x509.load_pem_x509_certificate(made.local.certificate_pem.encode())
    signer = serialization.load_pem_private_key(made.local.key_pem.encode(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = make_certificate("vm", issuer.subject, key, signer, -60, 3600, ca=False, uris=(uri,))
    pem = leaf.public_bytes(serialization.Encoding.PEM).decode() + made.local.certificate_pem
    pem += key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    (site.folder / "vm.pem").write_text(pem)
    context = ssl.create_default_context(cafile=site.authority.anchors)
    context.load_cert_chain(str(site.folder / "vm.pem"))
    return context


def register(site: Site, context: ssl.SSLContext, **changes: Any) -> tuple[int, Any]:
    host, _, port = site.replicas["a"].address.rpartition(":")
    body = {"group": "face", "namespace": "faces", "instance_id": "one", "hostname": "vm", "addresses": ["10.128.0.1"], **changes}
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as secured,
    ):
        connection = http.client.HTTPConnection(host)
        connection.sock = secured
        connection.request("POST", "/v1/workloads", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_an_invitation_lets_one_machine_in_once(site: Site) -> None:
    site.group(admission={"requireInvitation": True}, template={"ports": [{"port": 8000}]})
    made = by_ca(site)
    mode = (site.folder / "one.invitation").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert made.controller_identity == SERVER_NAME and str(made.controller_address) == (
        "meshexp-controller.meshexp.svc.cluster.local.:8081"
    )
    assert str(made.service_cidrs[0]) == "10.96.0.0/16" and "BEGIN CERTIFICATE" in made.trust_anchors_pem
    site.start("a")
    context = svid(site, made)
    assert register(site, context)[1]["code"] == "invitation-invalid"
    assert register(site, context, invitation="guess")[1]["code"] == "invitation-invalid"
    status, joined = register(site, context, invitation=made.token)
    assert status == 201, joined
    other = {"instance_id": "two", "addresses": ["10.128.0.2"]}
    assert "used by another" in register(site, context, invitation=made.token, **other)[1]["message"]
    assert register(site, context, secret=joined["secret"])[0] == 200  # the machine itself comes back without one
    site.group(admission={"requireInvitation": True}, template={"ports": [{"port": 8001}]})
    text = cluster().kubectl("-n", "faces", "get", "eg", "face", "-o", "yaml")
    assert "invitation.workload.meshexp.io/" in text and made.token not in text  # applying the group again leaves it


def test_the_machine_that_used_it_comes_back_when_it_has_long_expired(site: Site) -> None:
    site.group(admission={"requireInvitation": True}, template={"ports": [{"port": 8000}]})
    made = by_ca(site, "--ttl=5s")
    site.start("a")
    context = svid(site, made)
    status, joined = register(site, context, invitation=made.token)
    assert status == 201, joined
    wait(lambda: time.time() > made.expires)
    cluster().kubectl("delete", "--raw", f"{EXTERNAL_WORKLOADS}/{joined['name']}")  # as after a stop, or a long absence
    wait(lambda: register(site, context, invitation=made.token)[0] == 201)
    other = {"instance_id": "two", "addresses": ["10.128.0.2"]}
    assert "expired" in register(site, context, invitation=made.token, **other)[1]["message"]


def test_the_machines_ca_signs_for_nobody_else(site: Site) -> None:
    site.group(
        admission={"spiffeIDs": [f"spiffe://{TRUST_DOMAIN}/*", f"spiffe://{TRUST_DOMAIN}/*/*"]},
        template={"ports": [{"port": 8000}]},
    )
    made = by_ca(site)
    site.start("a")
    assert register(site, svid(site, made, f"spiffe://{TRUST_DOMAIN}/smiley"))[1]["code"] == "identity-not-allowed"
    assert register(site, svid(site, made))[0] == 201


def test_an_expired_invitation_and_one_for_somebody_else(site: Site) -> None:
    site.group(admission={"requireInvitation": True}, template={"ports": [{"port": 8000}]})
    late = by_ca(site, "--ttl=0s", output="late")
    other = by_ca(site, f"--spiffe-id=spiffe://{TRUST_DOMAIN}/face", output="other")
    site.start("a")
    assert "expired" in register(site, svid(site, late), invitation=late.token)[1]["message"]
    assert "not for" in register(site, svid(site, late), invitation=other.token)[1]["message"]


def test_an_agents_invitation_carries_the_join_token(site: Site) -> None:
    site.group()
    code, said = invite(site, "--spire-server=10.9.0.7:8081", "--join-token=abc", "--controller=10.9.0.1:30081")
    assert code == 0, said
    made = decode(Invitation, json.loads((site.folder / "one.invitation").read_text()), source="invitation")
    assert made.agent is not None and (str(made.agent.server_address), made.agent.join_token) == ("10.9.0.7:8081", "abc")
    assert made.local is None and str(made.controller_address) == "10.9.0.1:30081"


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 78, "either --ca, or --spire-server"),
        (("--spire-server=x:1",), 78, "with --join-token"),
        (("--ca=/nonexistent",), 78, "/nonexistent"),
        (("--spire-server=x:1", "--join-token=t", "--group=nobody"), 69, "there is no ExternalGroup faces/nobody"),
        (("--spire-server=x:1", "--join-token=t", "--ttl=soon"), 78, "soon"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(site: Site, flags: tuple[str, ...], code: int, words: str) -> None:
    site.group()
    got, said = invite(site, *flags)
    assert got == code and words in said and "Traceback" not in said
    assert not (site.folder / "one.invitation").exists()
