"""The JSON configuration of Buoyant's linkerd-proxy-harness as ours. Pure.

Its keys are taken however they are written (`ProxyUserID`, `proxy_user_id`, nested or not), since its releases differ in that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.values import parse_host_port

_BACKENDS = {"legacy": "iptables", "nft": "nftables"}


def _port_of(value: Any) -> int:
    return parse_host_port(value[0] if isinstance(value, list) else value).port


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [word for word in re.split(r"[,\s]+", str(value)) if word]


def _socket(value: Any) -> str:
    return str(value).removeprefix("unix:").replace("///", "/")


# The end of a key of theirs, without case and punctuation → ours, and how its value is read.
_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "workloadgroupname": ("workload.group", str),
    "workloadgroupnamespace": ("workload.namespace", str),
    "workloadname": ("workload.group", str),
    "workloadnamespace": ("workload.namespace", str),
    "controladdress": ("controller.address", str),
    "controlplaneaddress": ("controller.address", str),
    "controlserverid": ("controller.identity", str),
    "controlplaneidentity": ("controller.identity", str),
    "proxyuserid": ("proxy.user", str),
    "portstoredirect": ("redirect.ports", _list),
    "subnetstoignore": ("redirect.ignore_subnets", _list),
    "inboundportstoignore": ("redirect.ignore_inbound_ports", _list),
    "outboundportstoignore": ("redirect.ignore_outbound_ports", _list),
    "ipv6": ("redirect.ipv6", bool),
    "iptablesmode": ("redirect.backend", lambda value: _BACKENDS[str(value).lower()]),
    "inboundlistenaddress": ("proxy.inbound_port", _port_of),
    "outboundlistenaddress": ("proxy.outbound_port", _port_of),
    "outboundlistenaddresses": ("proxy.outbound_port", _port_of),
    "spiresocket": ("identity.socket", _socket),
    "spiresocketpath": ("identity.socket", _socket),
    "spireaddress": ("identity.socket", _socket),
    "workloadapiaddress": ("identity.socket", _socket),
    "loglevel": ("log.level", lambda value: str(value).lower()),
}
_THEIR_CONTROLLER = "linkerd-autoregistration"


@dataclass(slots=True)
class Imported:
    """`values` are nested as in harness.yaml; `notes` say what has no counterpart, and what is to be seen to by hand."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(data: Mapping[str, Any]) -> Imported:
    found = Imported()
    for name, value in _leaves(data, ""):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        ours = next((_KEYS[end] for end in sorted(_KEYS, key=len, reverse=True) if plain.endswith(end)), None)
        if ours is None:
            found.notes.append(f"{name} has no counterpart, and was left out")
            continue
        key, convert = ours
        try:
            _put(found.values, key.split("."), convert(value))
        except (ValueError, KeyError, IndexError):
            found.notes.append(f"{name}: {value!r} is not understood, and was left out")
    controller = found.values.get("controller", {})
    if _THEIR_CONTROLLER in f"{controller.get('address', '')}{controller.get('identity', '')}":
        del found.values["controller"]
        found.notes.append(
            "controller: theirs speaks another language; ours stands at its usual address, or set controller.address"
        )
    return found


def _leaves(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        else:
            yield here, value


def _put(into: dict[str, Any], key: list[str], value: Any) -> None:
    for name in key[:-1]:
        into = into.setdefault(name, {})
    into[key[-1]] = value
