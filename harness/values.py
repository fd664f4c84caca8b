"""Small value types that configuration, manifests and wire messages share, each with its text form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Codec:
    """How one annotated type is read from and written to YAML or JSON; `parse` raises ValueError."""

    parse: Callable[[object], Any]
    render: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Most:
    """How many items an annotated list or mapping may have."""

    items: int


def quoted(value: object) -> str:
    """What a fault quotes of a value, however large that is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:57]!r}..."
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**20 else "a number that is too large"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_SECONDS = 10 * 365 * 86400
_DURATION = re.compile(r"\d+(\.\d+)?|(\d+(\.\d+)?(ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


def parse_duration(value: object) -> float:
    """Seconds from `1500ms`, `10s`, `2m`, `1h`, `7d`, from several such as `1m30s`, or from a bare number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a duration such as 500ms, 10s or 2m")
    if isinstance(value, int | float):
        seconds = float(value) if abs(value) < _MOST_SECONDS else float("inf")  # float() refuses large whole numbers
    else:
        text = value.strip()
        if not _DURATION.fullmatch(text):
            raise ValueError(f"{quoted(value)} is not a duration such as 500ms, 10s or 2m")
        seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in _DURATION_PART.findall(text))
    if not 0 <= seconds < _MOST_SECONDS:
        raise ValueError(f"{quoted(value)} is not between 0 and 10 years")
    return seconds


def render_duration(seconds: float) -> str:
    return f"{round(seconds)}s" if seconds == round(seconds) else f"{round(seconds * 1000)}ms"


Duration = Annotated[float, Codec(parse_duration, render_duration)]


def parse_address(value: object) -> IPAddress:
    try:
        found = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{quoted(value)} is not an IP address") from None
    # Python takes every character after the `%` of an IPv6 address.
    if found.version == 6 and found.scope_id is not None and not is_interface(found.scope_id):
        raise ValueError(f"{quoted(value)} does not name a network interface after the %")
    return found


def parse_network(value: object) -> IPNetwork:
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"{quoted(value)} is not a CIDR such as 10.42.0.0/16")
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            network = ipaddress.ip_network(value, strict=False)
            raise ValueError(f"{quoted(value)} has host bits set; the network is {network}") from None
        raise ValueError(f"{quoted(value)} is not a CIDR such as 10.42.0.0/16") from None


def unmapped(address: IPAddress) -> IPAddress:
    """An IPv4 address that a socket for both families has, ::ffff:a.b.c.d, as IPv4; every other as it is."""
    return (address.version == 6 and address.ipv4_mapped) or address


def peer_text(address: str) -> str:
    """The address of a client as people and firewalls know it."""
    try:
        return str(unmapped(ipaddress.IPv6Address(address)))
    except ValueError:
        return address


Address = Annotated[IPAddress, Codec(parse_address, str)]
Network = Annotated[IPNetwork, Codec(parse_network, str)]


def parse_port(value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= 5 else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise ValueError(f"{quoted(value)} is not a port between 1 and 65535")
    return number


Port = Annotated[int, Codec(parse_port, int)]


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


def parse_ports(value: object) -> PortRange:
    """One port (`8080`) or an inclusive range (`8000-8010`)."""
    if not isinstance(value, str | int):
        raise ValueError(f"{quoted(value)} is neither a port nor a range of ports")
    first, dash, last = (value if isinstance(value, str) else quoted(value)).partition("-")
    low, high = parse_port(first.strip()), parse_port(last.strip() if dash else first.strip())
    if low > high:
        raise ValueError(f"{quoted(value)} ends before it begins")
    return PortRange(low, high)


def render_ports(ports: PortRange) -> object:
    return ports.first if ports.first == ports.last else str(ports)


Ports = Annotated[PortRange, Codec(parse_ports, render_ports)]


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host name or address with a port; text form `host:port` or `[v6]:port`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> IPAddress | None:
        """None when the host is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


_LABEL_OF_DOMAIN = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"(?!.{{255}}){_LABEL_OF_DOMAIN}(\.{_LABEL_OF_DOMAIN})*\.?")


def parse_domain(value: object) -> str:
    """A name that the DNS can have (RFC 1035, and underscores). It becomes part of other programs' configuration."""
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"{quoted(value)} is not a domain name such as cluster.local")
    return value


def is_name(text: str) -> bool:
    """Whether the DNS can have it as a name."""
    return _DOMAIN.fullmatch(text) is not None


Domain = Annotated[str, Codec(parse_domain, str)]


def parse_host_port(value: object) -> HostPort:
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:(\d+)|([^\s:/\[\]]+):(\d+)", value if isinstance(value, str) else "")
    if match is None or not (_is_ipv6(match[1]) if match[1] else _is_host(match[3])):
        raise ValueError(f"{quoted(value)} is not host:port or [v6-address]:port")
    return HostPort(match[1] or match[3], parse_port(match[2] or match[4]))


def _is_ipv6(text: str) -> bool:
    return ":" in text and HostPort(text, 0).ip is not None


def _is_host(text: str) -> bool:
    """Whether a resolver can be asked for it. Of another name Python raises UnicodeError when a connection is opened."""
    if text.isascii():
        return is_name(text)
    try:
        return text.encode("idna") != b""
    except UnicodeError:
        return False


Endpoint = Annotated[HostPort, Codec(parse_host_port, str)]

DEFAULT_TRUST_DOMAIN = "root.linkerd.cluster.local"
"""Of Linkerd's guide and the playground."""
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_PATH_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


def parse_trust_domain(value: object) -> str:
    if not isinstance(value, str) or not _TRUST_DOMAIN.fullmatch(value):
        raise ValueError(f"{quoted(value)} is not a trust domain (a-z, 0-9, dot, dash and underscore, at most 255 characters)")
    return value


TrustDomain = Annotated[str, Codec(parse_trust_domain, str)]


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID as the SPIFFE-ID standard, section 2, allows it."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def parse_spiffe_id(value: object) -> SpiffeId:
    """The SPIFFE ID in `value`; stricter than URL parsing: no port, query, fragment, dot segment or trailing slash."""
    text = value if isinstance(value, str) else ""
    if not text.startswith("spiffe://") or len(text) > 2048:
        raise ValueError(f"{quoted(value)} is not a SPIFFE ID such as spiffe://root.linkerd.cluster.local/face")
    domain, _, path = text.removeprefix("spiffe://").partition("/")
    segments = path.split("/") if path else []
    if not _TRUST_DOMAIN.fullmatch(domain) or urlsplit(text).netloc != domain:
        raise ValueError(f"{quoted(value)}: the trust domain may hold only a-z, 0-9, dot, dash and underscore")
    if (not segments and text.endswith("/")) or any(not _PATH_SEGMENT.fullmatch(s) or s in (".", "..") for s in segments):
        raise ValueError(f"{quoted(value)}: a path segment may hold only letters, digits, dot, dash and underscore")
    return SpiffeId(domain, "/" + path if path else "")


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL)


def canonical_pem(text: str) -> str:
    """The certificates of a PEM text, each once and in one order: two texts with the same ones become equal. Others stay."""
    found = sorted(set(_CERTIFICATE.findall(text.replace("\r", ""))))
    return "".join(f"{block}\n" for block in found) or text


Spiffe = Annotated[SpiffeId, Codec(parse_spiffe_id, str)]


def parse_label(value: object) -> str:
    """A DNS label (RFC 1123): what Kubernetes accepts as a namespace or group name."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError(f"{quoted(value)} is not a DNS label (a-z, 0-9 and dash, at most 63 characters)")
    return value


Label = Annotated[str, Codec(parse_label, str)]


_INTERFACE = re.compile(r"(?!.{16})[A-Za-z0-9_.:@-]+\*?")


def parse_interface(value: object) -> str:
    """The name of a network interface, at most 15 characters; a trailing `*` stands for any ending."""
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise ValueError(f"{quoted(value)} is not the name of a network interface")
    return value


def is_interface(name: str) -> bool:
    """Whether it is the name of one interface, which rules can have: the kernel takes stranger ones too."""
    return bool(_INTERFACE.fullmatch(name)) and not name.endswith("*")


Interface = Annotated[str, Codec(parse_interface, str)]
