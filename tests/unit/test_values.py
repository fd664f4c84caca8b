from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import values
from harness.config import schema
from harness.decode import decode
from harness.errors import ConfigError
from harness.messages import ClusterFacts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("2m", 120),
        ("1h", 3600),
        ("7d", 604800),
        (3, 3),
        ("1.5s", 1.5),
        ("0", 0),
        ("5m0s", 300),
        ("1h2m3.5s", 3723.5),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10 sec", "-1s", "", "s", True, None, "1e3s", "20y", "5m 0s", "5m0", [], float("inf")])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError):
        values.parse_duration(text)


@given(st.integers(0, 10**8))
def test_a_rendered_duration_reads_back(milliseconds: int) -> None:
    assert values.parse_duration(values.render_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


def test_a_network_with_host_bits_names_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"10\.42\.0\.0/16"):
        values.parse_network("10.42.3.4/16")
    assert values.parse_network("fd00::/8") == ipaddress.ip_network("fd00::/8")


@pytest.mark.parametrize(
    ("text", "ports"), [("80", (80, 80)), (8080, (8080, 8080)), ("8000-8010", (8000, 8010)), ("1 - 2", (1, 2))]
)
def test_port_ranges(text: object, ports: tuple[int, int]) -> None:
    assert values.parse_ports(text) == values.PortRange(*ports)


@pytest.mark.parametrize("text", ["0", "65536", "5-2", "1-", "-3", "http", "", True, "1-2-3"])
def test_what_is_no_port_range(text: object) -> None:
    with pytest.raises(ValueError):
        values.parse_ports(text)


@pytest.mark.parametrize("text", ["10.0.0.1:8081", "[fd00::1]:8081", "linkerd-dst.linkerd.svc.cluster.local.:8086", "münchen:1"])
def test_host_and_port_read_back(text: str) -> None:
    assert str(values.parse_host_port(text)) == text


@pytest.mark.parametrize("text", ["host", "host:", ":80", "fd00::1:80", "http://host:80", "host:70000", None, "host:²"])
def test_what_is_no_host_and_port(text: object) -> None:
    with pytest.raises(ValueError):
        values.parse_host_port(text)


NO_NAMES = ("a" * 64, "a..b", ".", "-x", "x-", "a\0b", "a;b", "ü" * 64, "\u202ex", "a." * 127 + "a")


@pytest.mark.parametrize("host", [*NO_NAMES, "[:::::]", "[1.2.3.4]", "[abc]"])
def test_no_host_that_a_connection_could_not_even_ask_for(host: str) -> None:
    """asyncio raises UnicodeError for some of them, which nobody expects of a connection."""
    with pytest.raises(ValueError, match=r"host:port"):
        values.parse_host_port(f"{host}:80")


@pytest.mark.parametrize("name", ["cluster.local", "x", "Cluster.Local.", "a_b.c-d", "1.2", ".".join(["a" * 63] * 3)])
def test_names_that_the_dns_can_have(name: str) -> None:
    assert values.parse_domain(name) == name


@pytest.mark.parametrize("name", [*NO_NAMES, "", "x\n", "x\nconf-file=/etc/passwd", "a/b", "#", "a b", None, 5])
def test_names_that_it_cannot(name: object) -> None:
    """The cluster's domain comes from the controller, and goes into dnsmasq's configuration."""
    with pytest.raises(ValueError):
        values.parse_domain(name)
    for cls, field in ((ClusterFacts, "cluster_domain"), (schema.Dns, "domain")):
        if name is not None:
            with pytest.raises(ConfigError):
                decode(cls, {field: name}, source="x")


@pytest.mark.parametrize(
    ("address", "text"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("::ffff:a00:1", "10.0.0.1"), ("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("", "")],
)
def test_a_peer_is_known_by_its_ipv4_address(address: str, text: str) -> None:
    assert values.peer_text(address) == text


def test_spiffe_ids() -> None:
    found = values.parse_spiffe_id("spiffe://root.linkerd.cluster.local/faces/face-1")
    assert (found.trust_domain, found.path) == ("root.linkerd.cluster.local", "/faces/face-1")
    assert str(found) == "spiffe://root.linkerd.cluster.local/faces/face-1"


@pytest.mark.parametrize(
    "text",
    [
        "https://td/face", "spiffe://", "spiffe://TD/face", "spiffe://td/", "spiffe://td/a//b", "spiffe://td/a/../b", "spiffe://td/a?x",
        "spiffe://td:80/a", "spiffe://u@td/a", "spiffe://td/a b", "spiffe://td/%41", 7, "spiffe://td/" + "a" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_spiffe_id(text: object) -> None:
    with pytest.raises(ValueError):
        values.parse_spiffe_id(text)


def test_bundles_of_the_same_certificates_are_equal() -> None:
    one, other = (f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n" for body in ("MIIB", "MIIC"))
    wanted = values.canonical_pem(one + other)
    assert wanted == one + other
    for text in (other + one, f"# a comment\n{other}\n{one}{other}", (one + other).replace("\n", "\r\n")):
        assert values.canonical_pem(text) == wanted
    assert values.canonical_pem(one) != wanted
    assert values.canonical_pem("no certificate") == "no certificate", "whoever uses it says what is wrong"
