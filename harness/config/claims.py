"""What each workload of this machine has for itself, as its configuration says, and where two want the same."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from harness import decode, rules
from harness.config import schema
from harness.errors import ConfigError, Fault
from harness.paths import Paths, workloads
from harness.values import HostPort, PortRange

T = TypeVar("T")
Keyed = tuple[tuple[str, T], ...]
"""Each with its dotted key."""
FAR = 100
"""A free port is proposed this far from the one that is taken, and then again: 4143, 4243, 4343."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`users`: of the workload's programs, `proxy_user`: of its proxy, by name or number. `servers`: what its harness calls."""

    paths: Paths
    ports: Keyed[int]
    users: Keyed[str]
    proxy_user: str
    group: str
    files: Keyed[str]
    redirected: Keyed[PortRange]
    servers: tuple[HostPort, ...]


def others(paths: Paths, read: Callable[[Paths], Mapping[str, Any]]) -> tuple[Claim, ...]:
    """Of all but the workload of `paths`. `read`: the values of one, as they were written."""
    claims = (_of_values(where, read(where)) for where in workloads(paths).readable if where.instance != paths.instance)
    return tuple(claim for claim in claims if claim is not None)


def _of_values(paths: Paths, values: Mapping[str, Any]) -> Claim | None:
    """None when it is not configured yet. A section with a fault counts with its defaults: its own daemon names the fault."""

    def section(cls: type[T], name: str, default: T) -> T:
        try:
            return decode.decode(cls, values.get(name) or {}, source=name, lenient=True)
        except ConfigError:
            return default

    if not (values.get("workload") or {}).get("group"):
        return None
    return _claim(
        paths,
        section(schema.Workload, "workload", schema.Workload("", "")),
        section(schema.Controller, "controller", schema.Controller()),
        section(schema.Identity, "identity", schema.Identity()),
        section(schema.Proxy, "proxy", schema.Proxy()),
        section(schema.Metrics, "metrics", schema.Metrics()),
        section(schema.Redirect, "redirect", schema.Redirect()),
    )


def of_config(paths: Paths, config: schema.Config) -> Claim:
    return _claim(paths, config.workload, config.controller, config.identity, config.proxy, config.metrics, config.redirect)


def _claim(
    paths: Paths,
    workload: schema.Workload,
    controller: schema.Controller,
    identity: schema.Identity,
    proxy: schema.Proxy,
    metrics: schema.Metrics,
    redirect: schema.Redirect,
) -> Claim:
    ports = [(f"proxy.{name}", getattr(proxy, name)) for name in ("inbound_port", "outbound_port", "admin_port")]
    if metrics.listen is not None:
        ports.append(("metrics.listen", metrics.listen.port))
    if identity.mode is schema.IdentityMode.LOCAL:
        ports.append(("identity.local.port", identity.local.port))
    remote = identity.agent.server_address if identity.mode is schema.IdentityMode.AGENT else None
    return Claim(
        paths,
        tuple(ports),
        tuple((f"workload.users[{i}]", name) for i, name in enumerate(workload.users)),
        proxy.user,
        f"{workload.namespace}/{workload.group}",
        (("metrics.textfile", metrics.textfile),) if metrics.textfile else (),
        tuple((f"redirect.ports[{i}]", ports) for i, ports in enumerate(redirect.ports)),
        (controller.address, *((remote,) if remote else ())),
    )


def faults(config: schema.Config, own: Claim, there: tuple[Claim, ...]) -> Iterator[Fault]:
    """Everything of `own` that clashes with the other workloads, and what is wrong with it in itself."""
    if own.paths.instance:
        yield from _of_an_instance(config)
    for path, name in own.users:
        if _uid(name) == 0:
            yield Fault(path, "root is no workload's: the harness itself runs as root", "run the program as a user of its own")
        if _uid(name) == _uid(own.proxy_user):
            yield Fault(path, f"{name!r} is proxy.user too", "the proxy's own connections are never redirected")
    for other in there:
        yield from _between(own, other, there)


def _of_an_instance(config: schema.Config) -> Iterator[Fault]:
    redirect = config.redirect
    if not config.workload.users and redirect.outbound is not rules.Outbound.OFF:
        hint = "name the users that its programs run as, or set redirect.outbound: off"
        yield Fault("workload.users", "must not be empty: only the first workload takes the connections of everybody else", hint)
    if redirect.inbound is rules.Inbound.ALL:
        hint = "leave it at ports, and list in redirect.ports what is not among the group's"
        yield Fault("redirect.inbound", "all is the first workload's alone: two cannot both have every port", hint)


def _between(own: Claim, other: Claim, there: tuple[Claim, ...]) -> Iterator[Fault]:
    title = other.paths.title
    for path, port in own.ports:
        for other_path, taken in other.ports:
            if port == taken:
                free = _free(port, (own, *there))
                yield Fault(path, f"{port} is {other_path} of {title} too", f"take a free one, such as {free}")
    mine = (*own.users, ("proxy.user", own.proxy_user))
    theirs = (*other.users, ("proxy.user", other.proxy_user))
    for path, name in mine:
        for other_path, taken_name in theirs:
            if _uid(name) == _uid(taken_name):
                hint = "by the user it is told whose connection it is: each needs its own, such as one of `useradd --system`"
                yield Fault(path, f"{name!r} is {other_path} of {title} too", hint)
    if own.group == other.group:
        yield Fault("workload.group", f"{own.group} is the group of {title} too", "one machine is in a group once")
    for path, range_ in own.redirected:
        for other_path, other_range in other.redirected:
            if range_.first <= other_range.last and other_range.first <= range_.last:
                yield Fault(path, f"{range_} is in {other_path} of {title} too", "a port leads to one workload")
    for path, file in own.files:
        for other_path, taken_file in other.files:
            if file == taken_file:
                yield Fault(path, f"{file} is {other_path} of {title} too", "give each its own file")


def _free(port: int, claims: tuple[Claim, ...]) -> int:
    taken = {taken for claim in claims for _, taken in claim.ports}
    return next((far for far in range(port + FAR, 65536, FAR) if far not in taken), port)


def _uid(name: str) -> object:
    """The number of a user; of one that does not exist, which the daemon refuses, its name."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return name
