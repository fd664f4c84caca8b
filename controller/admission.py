"""Who may register what. Pure; a refusal is raised."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping

from controller.manifest import ExternalGroup
from harness.errors import HarnessError
from harness.messages import PROXY_PORT_NAME, RegistrationRequest
from harness.values import IPAddress, SpiffeId

SECRET_BYTES = 32
_HOSTNAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_VERSION = re.compile(r"[A-Za-z0-9_-]{1,32}=[A-Za-z0-9._+~:-]{1,64}")
_OFFERED_SECRET = re.compile(r"[A-Za-z0-9_-]{43,128}")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class RefusedError(HarnessError):
    """The answer to a call that is not granted; `code` is one of harness.messages.CODES."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code

    @property
    def reason(self) -> str:
        """`address-taken` → `AddressTaken`, as Kubernetes spells reasons."""
        return "".join(word.capitalize() for word in self.code.split("-"))


class EndedError(RefusedError):
    """What was granted has ended while it lasted: news to the machine, and no refusal."""


def check_identity(group: ExternalGroup, identity: SpiffeId, trust_domain: str, *, short: bool = True) -> None:
    """Raises RefusedError unless the group admits this SPIFFE ID. `short`: whether also the default one of version 0.1."""
    patterns = group.spec.admission.spiffe_ids or default_patterns(group, trust_domain, short=short)
    if identity.trust_domain == trust_domain and any(matches(p, str(identity)) for p in patterns):
        return
    raise RefusedError(
        "identity-not-allowed",
        f"{identity} may not register in {group.key}",
        f"the group admits {', '.join(patterns)} in trust domain {trust_domain}",
    )


def default_patterns(group: ExternalGroup, trust_domain: str, *, short: bool) -> tuple[str, ...]:
    """Groups of one name in two namespaces have the short one in common."""
    own = f"spiffe://{trust_domain}/{group.key}"
    return (own, f"spiffe://{trust_domain}/{group.metadata.name}") if short else (own,)


def has_short_identity(group: ExternalGroup, identity: SpiffeId) -> bool:
    """Whether the group admits it only as the default of version 0.1."""
    return not group.spec.admission.spiffe_ids and identity.path == f"/{group.metadata.name}"


def matches(pattern: str, text: str) -> bool:
    """A * stands for any part of one path segment. Each literal is taken where it comes first, and nothing is tried twice: a
    regular expression would try all ways to divide the text among the stars.
    """
    wanted = pattern.split("/")
    given = text.split("/")
    return len(wanted) == len(given) and all(map(_segment_matches, wanted, given))


def _segment_matches(pattern: str, text: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at = len(first)
    end = len(text) - len(last)
    for literal in middle:
        found = text.find(literal, at, end)
        if found < 0:
            return False
        at = found + len(literal)
    return True


def check_request(group: ExternalGroup, request: RegistrationRequest) -> None:
    """Raises RefusedError for what a machine must not ask, whoever it is."""
    if not _HOSTNAME.fullmatch(request.hostname):
        raise RefusedError("malformed", "hostname: not a host name")
    if any(port.port == request.inbound_port and port.name != PROXY_PORT_NAME for port in group.spec.template.ports):
        raise RefusedError("malformed", f"inbound_port: {request.inbound_port} is a port of {group.key} itself")
    check_addresses(group, request.addresses)


def check_addresses(group: ExternalGroup, addresses: tuple[IPAddress, ...]) -> None:
    """Raises RefusedError for an address that no peer can dial or that the group does not admit."""
    for address in addresses:
        if not can_be_dialled(address):
            raise RefusedError("address-not-allowed", f"{address} is not an address that peers can dial")
        cidrs = group.spec.admission.address_cidrs
        if cidrs and not any(address in cidr for cidr in cidrs):
            allowed = ", ".join(map(str, cidrs))
            raise RefusedError(
                "address-not-allowed", f"{address} is outside the networks of {group.key}", f"the group admits {allowed}"
            )


def can_be_dialled(address: IPAddress) -> bool:
    """Whether it can be another machine's."""
    if address.version == 6 and address.ipv4_mapped is not None:
        return False
    if address == _BROADCAST:  # not all of 240.0.0.0/4, which some networks use
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local)


def versions_text(versions: Mapping[str, str]) -> str:
    """`harness=0.1.0`, for people; what is not short and plain is left out."""
    pairs = (f"{name}={version}" for name, version in sorted(versions.items()))
    return ",".join([pair for pair in pairs if _VERSION.fullmatch(pair)][:8])


def new_secret(offered: str | None) -> str:
    """A registration's secret. One that the machine offers is taken if it has our own form: it may have lost our answer."""
    if offered is not None and _OFFERED_SECRET.fullmatch(offered):
        return offered
    return secrets.token_urlsafe(SECRET_BYTES)


def hash_secret(secret: str) -> str:
    """Unsalted: the secret is 256 random bits, there is no dictionary to try."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def is_secret(given: str | None, stored_hash: str) -> bool:
    return given is not None and hmac.compare_digest(hash_secret(given), stored_hash)
