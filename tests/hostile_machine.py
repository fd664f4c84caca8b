"""A hostile machine: what it sends the controller, over real TLS, and the code of the refusal that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from controller.model import Key
from tests.children.controller_site import FACE, REQUEST, Site, path_of, report, secret_of, trusting
from tests.controller_support import TRUST_DOMAIN, Answer, Authority, group

Hostile = Callable[[Site, dict[str, Any]], Awaitable[Answer]]


def with_certificate(*uris: str, **options: Any) -> Hostile:
    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        return await s.call(
            "POST", "/v1/workloads", REQUEST | {"instance_id": "two"}, context=s.context(*uris, label="odd", **options)
        )

    return attack


async def with_a_removed_anchor(s: Site, victim: dict[str, Any]) -> Answer:
    """On the connection that began while it counted, which has been silent since."""
    other = Authority(s.authority.folder, "other")
    async with trusting(s, other):
        client = await s.client(s.authority.client(other.issue("face", FACE)))
        assert (await client.call("GET", path_of(victim), None, secret_of(victim))).status == 200
    async with client:
        return await client.call("POST", path_of(victim) + "/state", report(5, False), secret_of(victim))


def with_request(method: str, path: str, body: object = None, *headers: tuple[str, str], uri: str = FACE) -> Hostile:
    """`{victim}` in the path is the victim's; `{secret}` in a header is its secret."""

    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        filled = ((name, value.replace("{secret}", victim["secret"])) for name, value in headers)
        return await s.call(method, path.replace("{victim}", path_of(victim)), body, *filled, context=s.context(uri, label="odd"))

    return attack


def with_bytes(data: bytes) -> Hostile:
    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        async with await s.client() as client:
            return await client.send(
                data.replace(b"{secret}", victim["secret"].encode()).replace(b"{victim}", path_of(victim).encode())
            )

    return attack


def with_address(address: str) -> Hostile:
    return claiming({"addresses": [address]})


def claiming(changes: dict[str, Any]) -> Hostile:
    """A registration with these."""
    return with_request("POST", "/v1/workloads", BAD | changes)


def with_report(changes: dict[str, Any]) -> Hostile:
    return with_request("POST", "{victim}/state", report(9) | changes, SECRET)


def nested(name: str) -> bytes:
    """A message with a value that json reads, and that is too deep for what walks over it."""
    return f'{{"{name}": {"[" * 900}{"]" * 900}}}'.encode()


async def with_the_short_identity(s: Site, victim: dict[str, Any]) -> Answer:
    """Another namespace has a group of the same name."""
    await s.controller.store.buoyant_groups.create(group("face", "tenant-b"))
    await asyncio.sleep(0.1)
    return await s.call("POST", "/v1/workloads", BAD | {"namespace": "tenant-b", "addresses": ["192.0.2.99"]})


def with_an_address_that_it_does_not_call_from(**changes: Any) -> Hostile:
    """In a group that asks for the proof: here every machine calls from loopback."""

    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        await s.controller.store.buoyant_groups.create(group("proven", admission={"addressProof": "require"}))
        await asyncio.sleep(0.1)
        context = s.context(f"spiffe://{TRUST_DOMAIN}/faces/proven", label="odd")
        return await s.call("POST", "/v1/workloads", BAD | {"group": "proven"} | changes, context=context)

    return attack


async def with_a_silent_machines_address(s: Site, victim: dict[str, Any]) -> Answer:
    """As one that reboots: its lease has ended, its registration has not."""
    key = Key(victim["namespace"], victim["name"])
    s.controller.fleet.leases.give_up(key)
    smiley = s.context(f"spiffe://{TRUST_DOMAIN}/smiley", label="odd")
    return await s.call("POST", "/v1/workloads", BAD | {"group": "smiley"}, context=smiley)


SECRET = ("Meshexp-Secret", "{secret}")
WRONG = ("Meshexp-Secret", "x" * 43)
TWO_ADDRESSES = REQUEST | {"addresses": ["192.0.2.8", "192.0.2.9"]}
BAD = REQUEST | {"instance_id": "two"}
BAD_HOSTNAME = REQUEST | {"hostname": "a\nb", "instance_id": "x"}
NOT_A_NUMBER = b'{"sequence": NaN, "ready": true, "reason": "Ready"}'
GIGABYTE = b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nContent-Length: 1073741824\r\n\r\n"
DELETE = b"DELETE {victim} HTTP/1.1\r\nHost: c\r\n"
CHUNKED = b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n"
HOSTILE: dict[str, tuple[str, Hostile]] = {
    "no URI name": ("unauthenticated", with_certificate(dns=("face",))),
    "no name at all": ("unauthenticated", with_certificate()),
    "two URI names": ("unauthenticated", with_certificate(FACE, f"spiffe://{TRUST_DOMAIN}/smiley")),
    "a URI that is no SPIFFE ID": ("unauthenticated", with_certificate(f"https://{TRUST_DOMAIN}/face")),
    "a dot segment": ("unauthenticated", with_certificate(f"spiffe://{TRUST_DOMAIN}/x/../face")),
    "a trust domain without a path": ("unauthenticated", with_certificate(f"spiffe://{TRUST_DOMAIN}")),
    "a certificate that may sign": ("unauthenticated", with_certificate(FACE, ca=True)),
    "an anchor that was removed": ("unauthenticated", with_a_removed_anchor),
    "another trust domain": ("identity-not-allowed", with_certificate("spiffe://elsewhere/face")),
    "another group's identity": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/smiley")),
    "another namespace's identity": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/other/face")),
    "an identity in capitals": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/FACE")),
    "an unknown group": ("group-not-found", with_request("POST", "/v1/workloads", REQUEST | {"group": "nobody"})),
    "an unknown namespace": ("group-not-found", with_request("POST", "/v1/workloads", REQUEST | {"namespace": "kube-system"})),
    "another machine's name": ("name-taken", with_request("POST", "/v1/workloads", REQUEST)),
    "another machine's name, guessing": ("name-taken", with_request("POST", "/v1/workloads", REQUEST | {"secret": "x" * 43})),
    "another machine's address": ("address-taken", with_request("POST", "/v1/workloads", REQUEST | {"instance_id": "two"})),
    "loopback as address": ("address-not-allowed", with_request("POST", "/v1/workloads", REQUEST | {"addresses": ["127.0.0.1"]})),
    "another's state without the secret": ("secret-mismatch", with_request("POST", "{victim}/state", report(5, False))),
    "another's state, guessing": ("secret-mismatch", with_request("POST", "{victim}/state", report(5, False), WRONG)),
    "another's state with a stolen secret": (
        "identity-not-allowed",
        with_request("POST", "{victim}/state", report(5, False), SECRET, uri=f"spiffe://{TRUST_DOMAIN}/smiley"),
    ),
    "leaving for another": ("secret-mismatch", with_request("DELETE", "{victim}", None, WRONG)),
    "listening for another": ("secret-mismatch", with_request("GET", "{victim}?after=x", None, WRONG)),
    "an unknown machine": ("not-registered", with_request("DELETE", "/v1/workloads/faces/face-nobody", None, WRONG)),
    "a replayed report": ("stale-sequence", with_request("POST", "{victim}/state", report(1, False), SECRET)),
    "a negative sequence": ("malformed", with_request("POST", "{victim}/state", report(-1, False), SECRET)),
    "an endless sequence": ("malformed", with_request("POST", "{victim}/state", report(2**64, False), SECRET)),
    "a sequence of text": ("malformed", with_request("POST", "{victim}/state", report(1) | {"sequence": "9"}, SECRET)),
    "an unknown reason": ("malformed", with_request("POST", "{victim}/state", report(9) | {"reason": "Fine"}, SECRET)),
    "no JSON": ("malformed", with_request("POST", "/v1/workloads", b"{")),
    "not UTF-8": ("malformed", with_request("POST", "/v1/workloads", b"\xff\xfe\xfa")),
    "JSON without end": ("malformed", with_request("POST", "/v1/workloads", b"[" * 60_000)),
    "a JSON list": ("malformed", with_request("POST", "/v1/workloads", [REQUEST])),
    "not a number": ("malformed", with_request("POST", "{victim}/state", NOT_A_NUMBER, SECRET)),
    "two addresses of a family": ("malformed", with_request("POST", "/v1/workloads", TWO_ADDRESSES)),
    "a hostname with a line break": ("malformed", with_request("POST", "/v1/workloads", BAD_HOSTNAME)),
    "a group with a path": ("malformed", with_request("POST", "/v1/workloads", REQUEST | {"group": "../face"})),
    "too large": ("too-large", with_request("POST", "/v1/workloads", b" " * (64 * 1024 + 1))),
    "too large in chunks": ("too-large", with_bytes(CHUNKED + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3)),
    "an announced gigabyte": ("too-large", with_bytes(GIGABYTE)),
    "an unknown path": ("unknown-call", with_request("GET", "/v1/workloads/../../etc/passwd", None, SECRET)),
    "an encoded path": ("unknown-call", with_request("GET", "/v1/workloads/faces/%66ace", None, SECRET)),
    "an unknown method": ("unknown-call", with_request("PUT", "{victim}", None, SECRET)),
    "the secret twice": ("malformed", with_request("DELETE", "{victim}", None, WRONG, SECRET)),
    "an identity in a header": (
        "identity-not-allowed",
        with_request(
            "DELETE", "{victim}", None, SECRET, ("X-Forwarded-Client-Cert", f"URI={FACE}"), ("l5d-client-id", FACE),
            uri=f"spiffe://{TRUST_DOMAIN}/smiley",
        ),
    ),
    "a folded header": ("malformed or secret-mismatch", with_bytes(DELETE + b"Meshexp-Secret: {secret}\r\n : x\r\n\r\n")),
    "a NUL in a header": ("malformed", with_bytes(DELETE + b"Meshexp-Secret: {secret}\0\r\n\r\n")),
    "a header without end": ("malformed", with_bytes(DELETE + b"X: {secret}" + b"x" * 20_000 + b"\r\n\r\n")),
    "no HTTP": ("malformed", with_bytes(b"\x16\x03\x01 {secret} hello\r\n\r\n")),
    "two lengths": (
        "malformed",
        with_bytes(DELETE + b"Content-Length: 3\r\nContent-Length: 0\r\nMeshexp-Secret: {secret}\r\n\r\nabc"),
    ),
    "a hostname with an escape sequence": ("malformed", claiming({"hostname": "\x1b]0;x\x07"})),
    "a hostname of a path": ("malformed", claiming({"hostname": "../vm"})),
    "an empty hostname": ("malformed", claiming({"hostname": ""})),
    "a hostname without end": ("malformed", claiming({"hostname": "x" * 60_000})),
    "an instance id without end": ("malformed", claiming({"instance_id": "x" * 257})),
    "no instance id": ("malformed", claiming({"instance_id": ""})),
    "a namespace in capitals": ("malformed", claiming({"namespace": "FACES"})),
    "a group of half a character": ("malformed", claiming({"group": "\ud800"})),
    "a group of lists": ("malformed", with_request("POST", "/v1/workloads", nested("group"))),
    "32000 addresses": ("malformed", with_request("POST", "/v1/workloads", b'{"addresses":[%s]}' % (b"0," * 32_000)[:-1])),
    "no addresses": ("malformed", claiming({"addresses": []})),
    "an address of text": ("malformed", claiming({"addresses": ["localhost"]})),
    "an address with a zone": ("malformed or address-not-allowed", with_address("fe80::1%eth0")),
    "a link-local address": ("address-not-allowed", with_address("169.254.1.1")),
    "a multicast address": ("address-not-allowed", with_address("224.0.0.1")),
    "every address": ("address-not-allowed", with_address("0.0.0.0")),
    "every address of IPv6": ("address-not-allowed", with_address("::")),
    "loopback of IPv6": ("address-not-allowed", with_address("::1")),
    "loopback within IPv6": ("address-not-allowed", with_address("::ffff:127.0.0.1")),
    "the broadcast address": ("address-not-allowed", with_address("255.255.255.255")),
    "a port of the group": ("malformed", claiming({"inbound_port": 8000})),
    "port 0": ("malformed", claiming({"inbound_port": 0})),
    "a port that is none": ("malformed", claiming({"inbound_port": 70_000})),
    "a port without end": ("malformed", claiming({"inbound_port": 10**400})),
    "a mark with a line break": ("malformed", claiming({"holder": "a\nb"})),
    "a mark without end": ("malformed", claiming({"before": "x" * 81})),
    "versions of numbers": ("malformed", claiming({"versions": {"harness": 1}})),
    "a secret of half a character": ("malformed or name-taken", claiming(REQUEST | {"secret": "\ud800"})),
    "a secret that is not ASCII": ("malformed or name-taken", claiming(REQUEST | {"secret": "\u00e9"})),
    "a report of lists": ("malformed", with_request("POST", "{victim}/state", nested("reason"), SECRET)),
    "a report that is neither ready nor not": ("malformed", with_report({"ready": 1})),
    "a sequence of yes": ("malformed", with_report({"sequence": True})),
    "a message of a mapping": ("malformed", with_report({"message": {}})),
    "a secret of bytes": ("secret-mismatch or malformed", with_bytes(DELETE + b"Meshexp-Secret: \xff\xfe\r\n\r\n")),
    "a mark of bytes": ("secret-mismatch or malformed", with_bytes(DELETE + b"Meshexp-Holder: \xff\r\n\r\n")),
    "a dial-back without the secret": ("secret-mismatch", with_request("POST", "{victim}/reach", None, WRONG)),
    "a dial-back with a stolen secret": (
        "identity-not-allowed", with_request("POST", "{victim}/reach", None, SECRET, uri=f"spiffe://{TRUST_DOMAIN}/smiley")
    ),
    "leaving with a stolen secret": (
        "identity-not-allowed", with_request("DELETE", "{victim}", None, SECRET, uri=f"spiffe://{TRUST_DOMAIN}/smiley")
    ),
    "listening with a stolen secret": (
        "identity-not-allowed", with_request("GET", "{victim}?after=x", None, SECRET, uri=f"spiffe://{TRUST_DOMAIN}/smiley")
    ),
    "a name without end": ("unknown-call", with_request("GET", f"/v1/workloads/faces/{'a' * 64}", None, WRONG)),
    "a namespace with a NUL": ("unknown-call", with_request("GET", "/v1/workloads/faces%00/face", None, WRONG)),
    "two slashes": ("unknown-call", with_request("GET", "//v1/workloads/faces/face", None, WRONG)),
    "a fragment of a path": ("unknown-call", with_request("GET", "/v1/workloads/faces/face;x", None, WRONG)),
    "a trace": ("unknown-call or malformed", with_request("TRACE", "{victim}", None, SECRET)),
    "a tunnel": ("unknown-call or malformed", with_bytes(b"CONNECT c:443 HTTP/1.1\r\nHost: c\r\n\r\n")),
    "another server's URL": (
        "unknown-call or malformed or secret-mismatch", with_bytes(b"DELETE http://evil{victim} HTTP/1.1\r\nHost: c\r\n\r\n")
    ),
    "a length below 0": ("malformed", with_bytes(DELETE + b"Content-Length: -1\r\n\r\n")),
    "a length of text": ("malformed", with_bytes(DELETE + b"Content-Length: 1_0\r\n\r\n")),
    "a length and chunks": (
        "malformed", with_bytes(DELETE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    ),
    "a chunk of no size": ("malformed", with_bytes(CHUNKED + b"zz\r\n\r\n")),
    "the short identity of a group of two namespaces": ("identity-not-allowed", with_the_short_identity),
    "the address of a machine that has fallen silent": ("address-taken", with_a_silent_machines_address),
    "an address that it does not call from": (
        "address-not-allowed", with_an_address_that_it_does_not_call_from(addresses=["192.0.2.99"])
    ),
    "another machine's address, which it does not call from": (
        "address-not-allowed", with_an_address_that_it_does_not_call_from()
    ),
}  # fmt: skip
ALONE = frozenset({
    "the short identity of a group of two namespaces",
    "the address of a machine that has fallen silent",
    "an address that it does not call from",
    "another machine's address, which it does not call from",
})  # fmt: skip
"""These need a group more, or a victim that is silent at first: each has a controller of its own."""
WAITS: frozenset[str] = frozenset()
"""Attacks that are not refused as they should be yet. One that is refused must leave this list, or the tests fail."""
