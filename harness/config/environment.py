"""Environment variables as configuration: the playground's container interface, and MESHEXP_<SECTION>_<KEY> for every key.

The first keeps `docker run` lines of the playground working; the second overrides any file.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import decode, paths, phrases
from harness.config import schema
from harness.errors import Fault

PREFIX = "MESHEXP_"
_NO_KEYS = {"MESHEXP_CONFIG_DIR", "MESHEXP_STATE_DIR", "MESHEXP_RUN_DIR", "MESHEXP_RESOLV_CONF", "MESHEXP_DEMO", paths.INSTANCE}


Leaf = tuple[tuple[str, ...], Any, dataclasses.Field[Any]]


def leaves(cls: type = schema.Config, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every leaf key of the schema: its path, its type hint and its field."""
    for item in dataclasses.fields(cls):
        hint = decode.type_hints(cls)[item.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), (*path, item.name))
        else:
            yield (*path, item.name), hint, item


def variable(path: tuple[str, ...]) -> str:
    return PREFIX + "_".join(path).upper()


def in_container(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """Docker and podman leave a mark in the root directory; others set `container`, also podman."""
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    return marked or bool(environ.get("container"))


def playground(environ: Mapping[str, str], hostname: str) -> dict[str, Any]:
    """The container interface of the playground (WORKLOAD_NAME, POD_CIDR, …) as configuration values."""
    values: dict[str, dict[str, Any]] = {"workload": {}, "network": {}, "controller": {}}
    if name := environ.get("WORKLOAD_NAME"):
        values["workload"]["group"] = name
        # The playground mounts the anchors here, and has no other file for them.
        values["controller"]["trust_anchors"] = "/opt/spire/certs/ca.crt"
    if namespace := environ.get("WORKLOAD_NAMESPACE"):
        values["workload"]["namespace"] = namespace
    if node_name := environ.get("NODE_NAME"):
        # `docker run -e NODE_NAME='$(hostname)'` arrives as exactly these characters.
        values["workload"]["hostname"] = hostname if node_name == "$(hostname)" else node_name
    if node := environ.get("NODE_IP"):
        values["network"]["node"] = node
    if pods := environ.get("POD_CIDR"):
        values["network"]["pod_cidrs"] = _words(pods)
    if services := environ.get("SVC_CIDR"):
        values["network"]["service_cidrs"] = _words(services)
    return {name: section for name, section in values.items() if section}


def overrides(environ: Mapping[str, str]) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    """MESHEXP_… variables as nested values, and a fault for each that names no key."""
    known = {variable(path): (path, hint) for path, hint, _ in leaves()}
    values: dict[str, Any] = {}
    faults = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in _NO_KEYS:
            continue
        if name not in known:
            faults.append(Fault(name, "no such environment variable", phrases.near(name, known)))
            continue
        path, hint = known[name]
        section = values
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = _value(decode.unwrap_optional(hint), text)
    return values, tuple(faults)


def _value(hint: Any, text: str) -> Any:
    if typing.get_origin(hint) is tuple:
        return _words(text)
    if hint is bool and text in ("true", "false"):
        return text == "true"
    return text


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]
