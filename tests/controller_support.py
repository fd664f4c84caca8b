"""What the controller's tests share: a clock that stands still, an authority for certificates, a client without manners."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import ipaddress
import json
import pathlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.manifest import BUOYANT_GROUP_API, ExternalGroup, group_from_object
from controller.model import (
    Condition,
    EndpointPort,
    ExternalWorkload,
    MeshTLS,
    Metadata,
    OwnerReference,
    Status,
    WorkloadIP,
    WorkloadSpec,
)
from harness.values import HostPort, parse_address, parse_spiffe_id
from tests.workload_api_support import write_pem

TRUST_DOMAIN = "root.linkerd.cluster.local"


class StandingClock:
    """Moves only by `advance`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return 1_800_000_000.0 + self.seconds

    def boot(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.seconds + seconds, future))
        await future

    @property
    def sleeping(self) -> int:
        """How many tasks wait for it to move."""
        return sum(not future.done() for _, future in self._sleepers)

    async def advance(self, seconds: float, step: float = 0.25) -> None:
        """In steps, so that whoever sleeps in a loop wakes as often as it would."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds = min(end, self.seconds + step)
            due = [future for when, future in self._sleepers if when <= self.seconds]
            self._sleepers = [entry for entry in self._sleepers if entry[0] > self.seconds]
            for future in due:
                if not future.done():
                    future.set_result(None)
            await settle()


async def settle(rounds: int = 50) -> None:
    """Lets every task that can run, run."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def group_object(name: str = "face", namespace: str = "faces", api: str = BUOYANT_GROUP_API, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"service": name}}, "ports": [{"name": "http", "port": 8000}]}
    return {
        "apiVersion": api,
        "kind": "ExternalGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template, "probes": [{"httpGet": {"port": 8000, "path": "/ready"}}], **spec},
    }


def group(name: str = "face", namespace: str = "faces", api: str = BUOYANT_GROUP_API, **spec: Any) -> ExternalGroup:
    return group_from_object(group_object(name, namespace, api, **spec))


def workload(name: str = "face-abc", ip: str = "192.0.2.1") -> ExternalWorkload:
    owner = OwnerReference("workload.meshexp.io/v1alpha1", "ExternalGroup", "face", "0b7d4c0e-0000-4000-8000-000000000000")
    return ExternalWorkload(
        Metadata(name, "faces", labels={"service": "face"}, annotations={"a": "b"}, owner_references=(owner,)),
        WorkloadSpec(
            MeshTLS(parse_spiffe_id("spiffe://td/face"), f"{name}.faces.external.cluster.local"),
            (WorkloadIP(parse_address(ip)),),
            (EndpointPort(8000, "http"),),
        ),
    )


def ready(item: ExternalWorkload, status: str = "True") -> ExternalWorkload:
    return dataclasses.replace(item, status=Status((Condition("Ready", status, "Ready", "", "2026-01-01T00:00:00Z"),)))


@dataclass(frozen=True)
class Authority:
    """A certificate authority and what it signs, as PEM files in a directory."""

    folder: pathlib.Path
    name: str = "anchor"

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_certificate(self.name, self.name, key, key, -60, 86400, ca=True, uris=())
        write_pem(self.folder / f"{self.name}.pem", certificate)
        write_pem(self.folder / f"{self.name}.key.pem", key)

    @property
    def anchors(self) -> str:
        return str(self.folder / f"{self.name}.pem")

    def issue(
        self,
        label: str,
        *uris: str,
        begins: float = -60,
        ends: float = 3600,
        ca: bool = False,
        dns: Iterable[str] = (),
        organization: str = "",
    ) -> tuple[str, str]:
        """Certificate and key files."""
        signer = load_key(self.folder / f"{self.name}.key.pem")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_certificate(
            label, self.name, key, signer, begins, ends, ca=ca, uris=uris, dns=dns, organization=organization
        )
        files = self.folder / f"{self.name}-{label}.pem", self.folder / f"{self.name}-{label}.key.pem"
        write_pem(files[0], certificate)
        write_pem(files[1], key)
        return str(files[0]), str(files[1])

    def renewed(self, begins: float, ends: float, signer: Authority | None = None) -> str:
        """A further certificate of its own key, as PEM; a root's where no other authority signs it."""
        by = signer or self
        own, key = (load_key(one.folder / f"{one.name}.key.pem") for one in (self, by))
        certificate = make_certificate(self.name, by.name, own, key, begins, ends, ca=True, uris=())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def client(self, files: tuple[str, str] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.anchors)
        if files:
            context.load_cert_chain(*files)
        return context


def load_key(path: pathlib.Path) -> Any:
    return serialization.load_pem_private_key(path.read_bytes(), None)


def make_certificate(
    subject: str,
    issuer: str | x509.Name,
    key: Any,
    signer: Any,
    begins: float,
    ends: float,
    *,
    ca: bool,
    uris: Iterable[str],
    dns: Iterable[str] = (),
    organization: str = "",
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if dns else []
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(issuer if isinstance(issuer, x509.Name) else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=begins))
        .not_valid_after(now + datetime.timedelta(seconds=ends))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, ca, ca, False, False), critical=True)
        # RFC 5280, 4.2.1.1; of two anchors with the same name, as after a rotation, only this tells which one signed.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any

    @property
    def code(self) -> str:
        return str(self.body.get("code")) if isinstance(self.body, dict) else ""


class Client:
    """One TLS connection, one request at a time; it sends whatever it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, address: HostPort, context: ssl.SSLContext) -> Client:
        return cls(*await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=address.host))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def call(self, method: str, path: str, body: object = None, *headers: tuple[str, str]) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: controller",
            f"Content-Length: {len(data)}",
            *(f"{n}: {v}" for n, v in headers),
        ]
        return await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def send(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """Raises OSError or EOFError when the server ends the connection instead."""
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(v) for n, _, v in (line.partition(":") for line in head.splitlines()) if n.lower() == "content-length"), 0
            )
            body = await self.reader.readexactly(length)
        return Answer(int(head.split()[1]), json.loads(body) if body else None)
