"""X.509-SVIDs from a SPIFFE Workload API (SPIRE's, or our stand-in): what they hold, and how the daemon receives them.

gRPC here is the `h2` library and a 30-line protobuf codec, not grpcio: that costs 25 MiB resident in each process (12 MiB
in all this way, most of it Python itself), and its generated code does not span Debian 12's protobuf runtime and the newest.
One call with two small messages does not repay it. Key material is never logged, and the repr of a Svid leaves it out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

from harness import problems, values
from harness.errors import HarnessError, PermissionError_, TemporaryError, UnavailableError
from harness.system import workload_api_child as child
from harness.system import workload_api_client as client
from harness.system import workload_api_der as der
from harness.system import workload_api_wire as wire
from harness.system.workload_api_client import FailureKind as FailureKind

MAX_FRAME_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID: `chain_der` is leaf first, `key_der` is PKCS#8, `expires_at` the leaf's notAfter in epoch seconds."""

    spiffe_id: values.SpiffeId
    chain_der: tuple[bytes, ...] = field(repr=False)
    key_der: bytes = field(repr=False)
    bundle_der: tuple[bytes, ...] = field(repr=False)
    expires_at: float

    @property
    def lifetime(self) -> float:
        """Seconds, of the leaf."""
        begins, ends = der.validity(self.chain_der[0])
        return ends - begins


@dataclass(frozen=True, slots=True)
class Delivered:
    """The Workload API's present answer, which replaces the one before."""

    svids: tuple[Svid, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The call ended, or its answer was unusable; the child tries again by itself."""

    kind: FailureKind
    message: str


Frame = Delivered | Failed


def parse_response(data: bytes) -> tuple[Svid, ...]:
    """The SVIDs of an X509SVIDResponse (workload.proto: svids = 1); TemporaryError when it is malformed or holds none."""
    try:
        svids = tuple(_parse_svid(value) for number, value in wire.proto_fields(data) if number == 1)
    except ValueError as error:
        raise TemporaryError(f"the Workload API sent an SVID that cannot be read: {error}") from None
    if not svids:
        raise TemporaryError("the Workload API sent a response without an SVID")
    return svids


def _parse_svid(data: bytes) -> Svid:
    fields = dict(wire.proto_fields(data))
    chain = der.split_der(fields.get(2, b""))
    if not chain or not fields.get(3):
        raise ValueError("no certificate or no key in it")
    return Svid(
        spiffe_id=values.parse_spiffe_id(fields.get(1, b"").decode()),
        chain_der=chain,
        key_der=fields[3],
        bundle_der=der.split_der(fields.get(4, b"")),
        expires_at=der.validity(chain[0])[1],
    )


def encode_response(svids: Iterable[Svid]) -> bytes:
    """An X509SVIDResponse with these SVIDs."""
    return b"".join(wire.proto_field(1, _encode_svid(svid)) for svid in svids)


def _encode_svid(svid: Svid) -> bytes:
    parts = (str(svid.spiffe_id).encode(), b"".join(svid.chain_der), svid.key_der, b"".join(svid.bundle_der))
    return b"".join(wire.proto_field(number, part) for number, part in enumerate(parts, 1))


def stream(socket_path: str) -> Iterator[tuple[Svid, ...]]:
    """The SVIDs of our own uid, again at each rotation; blocks between. Ends only by an error.

    UnavailableError: no socket (the message begins with the title of IDENTITY_SOCKET_MISSING), or the request is
    invalid. PermissionError_: no identity for this uid. TemporaryError: all else.
    """
    try:
        for response in client.responses(socket_path):
            yield parse_response(response)
    except client.CallError as error:
        raise _translate(error.kind, error.message, socket_path) from None


def _translate(kind: FailureKind, message: str, socket: str) -> HarnessError:
    if kind is FailureKind.SOCKET_MISSING:
        problem = problems.IDENTITY_SOCKET_MISSING
        return UnavailableError(message, problem.found(problem.title, message, socket=socket).hint(), tried=problem.title)
    if kind is FailureKind.DENIED:
        return PermissionError_(message, problems.IDENTITY_NOT_ISSUED.hint)
    return UnavailableError(message) if kind is FailureKind.INVALID else TemporaryError(message)


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    """What a workload_api_child writes, until it ends; TemporaryError when it writes something else (then restart it)."""
    while True:
        try:
            length, kind = child.FRAME_HEADER.unpack(await reader.readexactly(child.FRAME_HEADER.size))
            if length > MAX_FRAME_BYTES:
                raise TemporaryError(f"the identity child wrote a frame of {length} bytes")
            payload = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return
        if kind == child.RESPONSE:
            try:
                yield Delivered(parse_response(payload))
            except TemporaryError as error:
                yield Failed(FailureKind.TEMPORARY, error.message)
        elif kind == child.FAILURE:
            yield _parse_failure(payload)
        else:
            raise TemporaryError(f"the identity child wrote a frame of kind {kind!r}")


def _parse_failure(payload: bytes) -> Failed:
    try:
        data = json.loads(payload)
        return Failed(FailureKind(data["kind"]), str(data["message"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TemporaryError(f"the identity child wrote a failure that cannot be read: {error}") from None
