"""Files and environment → Config, or every fault at once with its dotted path and where it stands."""

from __future__ import annotations

import copy
import itertools
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import decode, denied, reading, yaml_text
from harness.config import claims, environment, schema
from harness.errors import ConfigError, Fault, PermissionError_, UnavailableError, UnreadableError
from harness.paths import Paths, matches

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_ENDS = str.maketrans("", "", "\n\t")
_MAY_HAVE_LINES = ("proxy.env.", "probes.commands.")  # certificates as PEM; the script of a shell


@dataclass(slots=True)
class Layers:
    """Values merged so far, later layers over earlier ones, and which source each leaf came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, layer: Mapping[str, Any], source: str) -> None:
        self._merge(self.values, layer, source, "")

    def _merge(self, into: dict[str, Any], layer: Mapping[str, Any], source: str, path: str) -> None:
        for name, value in layer.items():
            here = f"{path}.{name}" if path else str(name)
            if isinstance(value, Mapping) and isinstance(into.get(name, {}), dict):
                into.setdefault(name, {})
                self._merge(into[name], value, source, here)
            else:
                into[name] = value
                self.origins[here] = source

    def origin(self, path: str) -> str:
        """The source of the value at `path`, or of the nearest value above it."""
        while path and path not in self.origins:
            path = path.rpartition("[")[0] if path.endswith("]") else path.rpartition(".")[0]
        return self.origins.get(path, "")


def load(paths: Paths, environ: Mapping[str, str]) -> schema.Config:
    """Raises ConfigError (exit 78) with all faults of all sources."""
    return load_with_origins(paths, environ)[0]


def is_unconfigured(paths: Paths, environ: Mapping[str, str]) -> bool:
    """Whether nobody has said yet what this machine is: there is no `workload` in any source, which is no mistake."""
    layers, faults = sources(paths, environ)
    return not faults and "workload" not in layers.values


def of_member(paths: Paths, environ: Mapping[str, str]) -> schema.Config:
    """For verbs that need a member. Raises UnavailableError while this machine waits for its configuration, else as `load`."""
    if not is_unconfigured(paths, environ):
        return load(paths, environ)
    raise UnavailableError("this machine waits for its configuration, and is no member of a mesh yet", to_configure(paths))


def to_configure(paths: Paths) -> str:
    """The next step on a machine that waits for its configuration."""
    instance = f" --instance {paths.instance}" if paths.instance else ""
    return f"run `meshexp join{instance} INVITATION`, or set workload.group and workload.namespace in {paths.harness_yaml}"


def load_with_origins(paths: Paths, environ: Mapping[str, str]) -> tuple[schema.Config, Layers]:
    layers, faults = sources(paths, environ)
    try:
        config = decode.decode(schema.Config, layers.values, source="configuration")
    except ConfigError as error:
        config = None
        faults.extend(_placed(fault, layers, paths) for fault in error.faults)
    rest = config if config is not None and not faults else _rest(layers.values, faults)
    if rest is not None:
        clashes = (*check(rest), *claims.faults(rest, claims.of_config(paths, rest), others(paths)))
        faults.extend([_placed(fault, layers, paths) for fault in _not_of(faults, clashes)])
    if faults or config is None:
        raise WrongError(tuple(faults), f"configuration ({paths.harness_yaml} and drop-ins)", rest)
    return config, layers


class WrongError(ConfigError):
    """`rest`: what is left without the keys that have faults, to look for more; None where nothing can be made of it."""

    def __init__(self, faults: tuple[Fault, ...], source: str, rest: schema.Config | None) -> None:
        super().__init__(faults, source)
        self.rest = rest

    def further(self, found: Iterable[Fault]) -> tuple[Fault, ...]:
        """Of faults of the rest, those that do not follow from a key that has been left out."""
        return tuple(_not_of(self.faults, found))


def _rest(values: Mapping[str, Any], faults: list[Fault]) -> schema.Config | None:
    """What is left without the keys that have faults; None when a file is left out, since any key may be in it."""
    if any(fault.path.startswith("/") for fault in faults):
        return None
    try:
        return decode.decode(schema.Config, _without(values, faults), source="configuration")
    except ConfigError:
        return None


def _without(values: Mapping[str, Any], faults: Iterable[Fault]) -> dict[str, Any]:
    left = copy.deepcopy(dict(values))
    for fault in faults:
        *sections, name = _key(fault).split(".")
        inside: Any = left
        for section in sections:
            inside = inside.get(section) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside.pop(name, None)
    return left


def _not_of(known: Iterable[Fault], found: Iterable[Fault]) -> Iterator[Fault]:
    """Without those of a key that has a fault already, or of what is above or below it."""
    taken = [_key(fault) for fault in known]
    for fault in found:
        if not any(_overlap(_key(fault), path) for path in taken):
            yield fault


def _key(fault: Fault) -> str:
    """The fault's path without the index into a list."""
    return fault.path.partition("[")[0]


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or is above or below it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def others(paths: Paths) -> tuple[claims.Claim, ...]:
    """What the other workloads of this machine have for themselves, by their files alone."""
    return claims.others(paths, lambda where: sources(where, {})[0].values)


def files_of(paths: Paths) -> tuple[Path, ...]:
    """Raises UnreadableError when nobody can say which drop-ins there are."""
    return paths.harness_yaml, *matches(paths.drop_ins, "*.yaml")


def _each(paths: Paths, faults: list[Fault]) -> tuple[Path, ...]:
    try:
        return files_of(paths)
    except UnreadableError as error:
        faults.append(Fault(str(error.path), error.message))
        return (paths.harness_yaml,)


def sources(paths: Paths, environ: Mapping[str, str]) -> tuple[Layers, list[Fault]]:
    """All values as they were written, merged, and the faults of files that cannot be read.

    Raises PermissionError_ when only root may read them: then nothing is known of them, not even that there are none.
    """
    closed = denied.to_this_user((paths.config, paths.drop_ins))
    if unreadable := closed or denied.to_this_user(_each(paths, [])):
        raise PermissionError_(f"{', '.join(map(str, unreadable))} cannot be read by this user", "run it with sudo")
    layers = Layers()
    faults: list[Fault] = []
    layers.add(environment.playground(environ, socket.gethostname()), "environment")
    for file in _each(paths, faults):
        try:
            layers.add(_read(file), str(file))
        except ConfigError as error:
            faults.extend(error.faults)
    values, unknown = environment.overrides(environ)
    layers.add(values, "environment")
    return layers, [*faults, *unknown, *_unfit(values, "", "environment")]


_VARIABLES = {"workload.group": "WORKLOAD_NAME", "workload.namespace": "WORKLOAD_NAMESPACE"}


def how_to_set(path: str, paths: Paths, *, in_container: bool) -> str:
    """How to set a key that a workload must have. Only in a container it names variables: there a user sets the environment."""
    keys = [key for key in _VARIABLES if key == path or path == "workload"]
    words = [_VARIABLES[key] if in_container else key for key in keys]
    place = "in the container's environment" if in_container else f"in {paths.harness_yaml}"
    return f"set {' and '.join(words)} {place}, or let `meshexp join` do it"


def _placed(fault: Fault, layers: Layers, paths: Paths) -> Fault:
    origin = layers.origin(fault.path)
    if not origin and fault.path in ("workload", *_VARIABLES):
        return Fault(fault.path, fault.message, how_to_set(fault.path, paths, in_container=environment.in_container()))
    return Fault(fault.path, f"{fault.message} [{origin}]", fault.hint) if origin else fault


def _read(file: Path) -> dict[str, Any]:
    try:
        text = reading.text(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError((Fault(str(file), f"cannot be read: {error.strerror}"),)) from None
    except UnicodeDecodeError as error:
        raise ConfigError((Fault(str(file), f"cannot be read: {error}"),)) from None
    try:
        data = yaml_text.document(text, strict=True)
    except ValueError as error:
        raise ConfigError((Fault(str(file), str(error)),)) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError((Fault(str(file), "must be a mapping of sections"),))
    if unfit := tuple(_unfit(data, "", str(file))):
        raise ConfigError(unfit)
    return data


def _unfit(value: object, path: str, origin: str) -> Iterator[Fault]:
    """Texts that the kernel and the C library refuse with an error of their own, or that would command a terminal."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unfit(str(name), path, origin)
            yield from _unfit(inner, f"{path}.{name}" if path else str(name), origin)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unfit(inner, f"{path}[{index}]", origin)
    elif isinstance(value, str):
        may_have_lines = path.startswith(_MAY_HAVE_LINES)
        text = value.translate(_LINE_ENDS) if may_have_lines else value
        if _UNFIT.search(text):
            yield Fault(path, f"{value!r:.60} has a control character, or half of a character [{origin}]")


def check(config: schema.Config) -> tuple[Fault, ...]:
    """What no single key can tell: values that contradict one another."""
    faults = []
    network = config.network
    named = [(f"network.pod_cidrs[{i}]", n) for i, n in enumerate(network.pod_cidrs)]
    named += [(f"network.service_cidrs[{i}]", n) for i, n in enumerate(network.service_cidrs)]
    for (path, one), (other_path, other) in itertools.combinations(named, 2):
        if one.version == other.version and one.overlaps(other):
            faults.append(Fault(other_path, f"{other} overlaps {one} of {path}", "pod and service networks must be disjoint"))
    for path, one in named:
        faults += [
            Fault(path, f"{one} holds the node's own address {node}", "the route would swallow the way to the node")
            for node in (network.node, *network.spare_nodes)
            if node is not None and node in one
        ]
        if one.prefixlen == 0:
            faults.append(Fault(path, f"{one} is a default route", "name the cluster's network"))
    ports = (config.proxy.inbound_port, config.proxy.outbound_port, config.proxy.admin_port)
    if len(set(ports)) != len(ports):
        faults.append(Fault("proxy", f"inbound_port, outbound_port and admin_port must differ, and are {ports}"))
    if config.proxy.user in ("root", "0"):
        faults.append(Fault("proxy.user", "the proxy must not run as root", "every root process would bypass the mesh"))
    for name in config.proxy.env:
        if not re.fullmatch(r"LINKERD2_PROXY_[A-Z0-9_]+", name):
            faults.append(Fault(f"proxy.env.{name}", "is no variable of the proxy", "they all begin with LINKERD2_PROXY_"))
    if len({a.version for a in config.workload.addresses}) != len(config.workload.addresses):
        faults.append(Fault("workload.addresses", "at most one address per family"))
    if config.proxy.path is not None and not Path(config.proxy.path).is_absolute():
        faults.append(Fault("proxy.path", f"{config.proxy.path!r} is not an absolute path"))
    return tuple(faults)
