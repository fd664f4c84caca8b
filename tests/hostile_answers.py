"""A hostile controller: the answers with which it attacks a machine that is a member.

REFUSED: the whole answer is not taken, and the machine asks again after the version that it has. CONTAINED: the answer may be
taken, and nothing of it that would change the machine. `$M` is a file that only an attack makes, `$A` another trust anchor.
"""

from __future__ import annotations

from typing import Any

Attack = dict[str, Any]


def fields(**changed: Any) -> Attack:
    return {"fields": changed}


def facts(**changed: Any) -> Attack:
    return fields(facts=changed)


def networks(*cidrs: str) -> Attack:
    return facts(pod_routes=[{"pod_cidr": cidr, "via": "10.9.0.1"} for cidr in cidrs])


def http_get(**changed: Any) -> Attack:
    return fields(probes=[{"http_get": {"port": 8000, **changed}}])


def port(number: Any) -> Attack:
    return fields(template={"ports": [{"name": "http", "port": number}]})


def domain(name: str) -> Attack:
    return facts(cluster_domain=name, dns_addresses=["10.9.0.1:53"])


def raw(head: str, body: str = "") -> Attack:
    return {"raw": f"HTTP/1.1 {head}\r\n\r\n{body}"}


REFUSED: dict[str, Attack] = {
    "nothing": {"body": ""},
    "no JSON": {"body": "{"},
    "null": {"body": "null"},
    "a text": {"body": '"x"'},
    "a list": {"body": "[]"},
    "half of it": {"body": '{"name": "face-1"}'},
    "lists without end": {"body": 100_000 * "["},
    "mappings without end": {"body": 50_000 * '{"a":'},
    "a number without end": {"body": '{"lease_seconds": 1' + 400 * "0" + "}"},
    "bytes that are no text": raw("200 OK\r\nContent-Length: 3", "\xff\xfe\xfd"),
    "no HTTP": {"raw": "\x16\x03\x01 hello\r\n\r\n"},
    "a status that is none": raw("0 x"),
    "a fault": raw("500 x\r\nContent-Length: 0"),
    "a way to elsewhere": raw("302 Found\r\nLocation: http://10.9.0.1:9/\r\nContent-Length: 0"),
    "an end too early": raw("200 OK\r\nContent-Length: 100000", "{"),
    "chunks of no size": raw("200 OK\r\nTransfer-Encoding: chunked", "zz\r\n"),
    "what is not compressed": raw("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2", "{}"),
    "a header without end": raw("200 OK\r\nX: " + 200_000 * "x"),
    "a name of a path": fields(name="a/../b"),
    "a name of a line": fields(name="a\nb"),
    "an empty name": fields(name=""),
    "a name of a number": fields(name=5),
    "a name without end": fields(name=300 * "x"),
    "a namespace of a path": fields(namespace="../x"),
    "no identity": fields(identity="spiffe://"),
    "an identity of another kind": fields(identity="https://x/y"),
    "an identity of a path": fields(identity="spiffe://td/../x"),
    "a server name of a number": fields(server_name=5),
    "port 0": port(0),
    "a port that is none": port(70_000),
    "a port without end": port(10**30),
    "a port of text": port("x"),
    "a label of a number": fields(template={"labels": {"a": 1}}),
    "a probe of two kinds": fields(probes=[{"http_get": {"port": 1},
    "grpc": {"port": 1}}]),
    "a probe of no kind": fields(probes=[{}]), "a probe of another scheme": http_get(scheme="FILE"),
    "a probe without a pause": fields(probes=[{"tcp_socket": {"port": 1}, "period_seconds": 0}]),
    "a probe that never fails": fields(probes=[{"tcp_socket": {"port": 1}, "failure_threshold": 0}]),
    "a command of a path": fields(probes=[{"exec": {"name": "../sh"}}]),
    "a route by no address": facts(pod_routes=[{"pod_cidr": "10.44.0.0/24", "via": "x"}]),
    "a network with host bits": networks("10.44.0.1/24"), "a network of text": networks("x"),
    "a domain of two lines": domain("a\nconf-script=/usr/bin/touch $M"),
    "an option in a domain's place": domain("--address=unixexec:path=/usr/bin/touch,argv1=$M"),
    "a domain of a path": domain("cluster.local/10.9.0.1"),
    "a domain of the root": domain("."),
    "every domain": domain("*"),
    "a domain without end": domain(300 * "x"),
    "a domain that is not ASCII": domain("cl\u00fcster.local"),
    "a server of no port": facts(dns_addresses=["10.9.0.1:0"]),
    "a server of two words": facts(dns_addresses=["10.9.0.1 x:53"]),
    "a server with an option": facts(dns_addresses=["10.9.0.1#5:53"]),
    "a negative lease": fields(lease_seconds=-1),
    "a lease of an age": fields(lease_seconds=1e308),
    "a lease that is no number": fields(lease_seconds=float("nan")),
    "a report of text": fields(report_seconds="soon"),
    "a drain without end": fields(drain_seconds=float("inf")),
    "a secret of lines": fields(secret="a\r\nX: y"),
    "a secret that is not ASCII": fields(secret="\u00e9"),
    "a secret without end": fields(secret=300 * "x"),
    "an escape sequence": fields(copied_by="\x1b]0;x\x07"),
    "a version of lines": fields(version="a\r\nX: y"),
    "a version without end": fields(version=300 * "x"),
    "a destination of two lines": facts(linkerd={"destination_address": "a\nb:1"}),
    "a destination of a NUL": facts(linkerd={"destination_address": "a\0b:1"}),
    "a server name of a NUL": fields(server_name="a\0b"),
    "a server name of lines": fields(server_name="a\nb"),
    "a server name of half a character": fields(server_name="\ud800"),
    "an option in a server name's place": fields(server_name="--x"),
    "a policy's identity of lines": facts(linkerd={"policy_identity": "a\nb"}),
    "a host of an empty label": http_get(host="db..internal"),
    "a host of a long label": http_get(host=64 * "x"),
    "a header that is not ASCII": http_get(http_headers=[{"name": "\u00e9", "value": "x"}]),
    "a header's name of lines": http_get(http_headers=[{"name": "a\r\nb", "value": "x"}]),
    "a path of lines": http_get(path="/ HTTP/1.1\r\nX: y"),
    "a socket's host of an empty label": fields(probes=[{"tcp_socket": {"port": 1, "host": "db..internal"}}]),
    "a label of 64 characters in a domain": domain(64 * "x" + ".local"),
    "a label's value of 64 characters": fields(template={"labels": {"a": 64 * "x"}}),
    "a header of lines": http_get(http_headers=[{"name": "a", "value": "x\r\nY: z"}]),
}  # fmt: skip
CONTAINED: dict[str, Attack] = {
    "all of IPv4": networks("0.0.0.0/0"),
    "all of IPv4 in halves": networks("0.0.0.0/1", "128.0.0.0/1"),
    "all of IPv6": networks("::/0"),
    "the own network": networks("10.9.0.0/24"),
    "the peer's address": networks("10.9.0.1/32"),
    "loopback": networks("127.0.0.0/8"),
    "a cloud's credentials": networks("169.254.169.254/32"),
    "groups of IPv4": networks("224.0.0.0/4"),
    "a network by this machine itself": facts(pod_routes=[{"pod_cidr": "10.44.0.0/24", "via": "127.0.0.1"}]),
    "all of IPv4 in small pieces": networks(*(f"{first}.0.0.0/8" for first in range(1, 100))),
    "half of IPv4 as services": facts(service_cidrs=["0.0.0.0/1"]),
    "all of IPv4 as peers": facts(mesh_cidrs=["0.0.0.0/0"]),
    "names of all the world": domain("com"), "names of a country": domain("co.uk"),
    "names of one company": domain("example.com"), "a domain that ends like the right one": domain("evilcluster.local"),
    "another trust anchor": facts(trust_anchors_pem="$A"),
    "anchors that are none": facts(trust_anchors_pem="x\u00e9"),
    "another destination's name": facts(linkerd={"destination_identity": "evil"}),
    "another policy's name": facts(linkerd={"policy_identity": "evil"}),
    "another destination": facts(linkerd={"destination_address": "10.9.0.1:1", "destination_identity": "evil"}),
    "another policy": facts(linkerd={"policy_address": "10.9.0.1:1", "policy_identity": "evil"}),
}  # fmt: skip
ATTACKS = {**REFUSED, **CONTAINED}
WAITS = frozenset({
    # The proxy starts again with that address, where nobody can prove Linkerd's name: no traffic is led away, and it may find
    # no endpoints. proxy.destination_address and proxy.policy_address bound it.
    "another destination",
    "another policy",
    # Its TCP connections go through the proxy, as to other machines of the mesh in the own network. network.allow bounds it.
    "the own network",
    "the peer's address",
})  # fmt: skip
"""Attacks that succeed today. One that does not any more must leave this list, or the tests fail."""
