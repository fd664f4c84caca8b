"""What the daemon finds out about its machine before the first cycle."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.clock import SystemClock
from harness.config import claims, environment, load, neighbours, schema
from harness.daemon import anchors_kept, needs
from harness.desired import workload_api
from harness.errors import ConfigError, Fault, TemporaryError, UnreadableError, UnwritableError
from harness.known import Machine, Others, Told
from harness.paths import Paths, configured
from harness.specs import User
from harness.system import addresses, cordon, files, process, procfs, redirect_exclusions, snapshot_reader
from harness.system.proxy_store import Store
from harness.values import HostPort, IPAddress

_ID = re.compile(r"[ -~]{1,256}")
AT_ONCE_SECONDS = 0.05
"""What a name server on this machine takes."""
PACKAGED_PROXY = Path("/usr/lib/meshexp-harness/linkerd2-proxy")


async def look(config: schema.Config, paths: Paths, anchors_before: str = "", before: Machine | None = None) -> Machine:
    """`anchors_before`: the trust anchors that a member goes on with when their file cannot be used any more.

    `before`: what was found the last time, for what nobody can say at the moment.
    """
    hostname = config.workload.hostname or socket.gethostname()
    user = process.find_user(config.proxy.user)
    if user.uid == 0:
        raise ConfigError((Fault("proxy.user", "the proxy must not run as root", "every root process would bypass the mesh"),))
    mode = config.identity.mode
    spire_server = _spire_user(config, "server", user) if mode is schema.IdentityMode.LOCAL else None
    in_spire = mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT)
    others = load.others(paths)
    unread = neighbours.unread(paths)
    own = (config.proxy.admin_port, *((config.metrics.listen.port,) if config.metrics.listen else ()))
    theirs = (port for claim in others for _, port in claim.ports)
    kept = paths.instance_id
    identifier, unkept = await asyncio.to_thread(instance_id, config.workload.instance_id, kept, ephemeral(paths), hostname)
    way = await _way(config, before)
    excluded = await asyncio.to_thread(redirect_exclusions.exclusions, (*own, *theirs))
    return Machine(
        user=user,
        hostname=hostname,
        instance_id=identifier,
        unkept=unkept,
        addresses=way.addresses,
        unaddressed=way.missing,
        controller_at=way.controller_at,
        anchors_pem=_anchors(config.controller.trust_anchors, anchors_before),
        adopted=before.adopted if before else anchors_kept.of(config, paths),
        workload_api=workload_api(config, paths),
        never_inbound=excluded.inbound,
        never_outbound=excluded.outbound,
        ipv6=addresses.has_ipv6(before.ipv6 if before else True),
        v6only=addresses.v6only(before.v6only if before else False),
        dns_user=_dns_user(config),
        spire_server=spire_server,
        spire_agent=_spire_user(config, "agent", user) if in_spire else None,
        probe_user=_apart(config.probes.user, "probes.user", user) if config.probes.commands else None,
        spire_told=await _spire_told(config, before.spire_told if before else None),
        users=tuple(process.find_user(name, f"workload.users[{i}]").uid for i, name in enumerate(config.workload.users)),
        others=_with(_others(others), before.others) if before and unread else _others(others),
        unread=unread,
    )


async def _spire_told(config: schema.Config, before: Told | None, seconds: float = addresses.LOOKUP_SECONDS) -> Told | None:
    """Of the SPIRE server; while nobody tells, what was told before. The agent meets the same, and its condition says so."""
    remote = config.identity.agent.server_address
    if config.identity.mode is not schema.IdentityMode.AGENT or remote is None:
        return None
    known = before if before is not None and before.server == remote else Told(remote)
    try:
        found = await _targets(remote, seconds)
    except TemporaryError:
        return known
    return known.again(found, SystemClock().now())


def _others(there: tuple[claims.Claim, ...]) -> Others:
    """A user that does not exist has no connections; its own workload's daemon names the fault."""
    return Others(
        proxies=tuple(_uids(claim.proxy_user for claim in there)),
        users=tuple(_uids(name for claim in there for _, name in claim.users)),
        servers=tuple(server.ip for claim in there for server in claim.servers if server.ip is not None),
    )


def _with(found: Others, before: Others) -> Others:
    """Where not all can be read: what was found before stays."""
    return Others(
        proxies=tuple(dict.fromkeys((*found.proxies, *before.proxies))),
        users=tuple(dict.fromkeys((*found.users, *before.users))),
        servers=tuple(dict.fromkeys((*found.servers, *before.servers))),
    )


def _uids(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        with contextlib.suppress(ConfigError):
            yield process.find_user(name).uid


def wake_others(paths: Paths) -> None:
    """So that the other workloads' daemons read at once what this one has for itself. One that is not up yet reads it then."""
    for status in _daemons_beside(paths):
        procfs.of_status(status).send(signal.SIGUSR2)


def left_alone(paths: Paths, proxy_uid: int) -> bool:
    """Whether the rules of every other workload that has some know that proxy as one of this machine's."""
    told = (status.get("neighbours") for status in _daemons_beside(paths))
    return all(known is None or proxy_uid in known for known in told)


def _daemons_beside(paths: Paths) -> Iterator[dict[str, Any]]:
    """What the daemons of the machine's other workloads tell, of those that run."""
    for where in configured(paths):
        status = snapshot_reader.read(where.status, where.instance) if where.instance != paths.instance else {}
        if "reported" in status:  # also of one that hangs: its rules are in force
            yield status


def _spire_user(config: schema.Config, program: str, proxy: User) -> User:
    """A user of its own: what runs as the proxy's user gets the proxy's identity, and root everybody's."""
    return _apart(getattr(config.identity.spire, f"{program}_user"), f"identity.spire.{program}_user", proxy)


def _apart(name: str, key: str, proxy: User) -> User:
    user = process.find_user(name, key)
    if user.uid in (0, proxy.uid):
        raise ConfigError((Fault(key, "must be neither root nor the proxy's user"),))
    return user


def _dns_user(config: schema.Config) -> User | None:
    """None where there is no such user: systemd-resolved needs none, and without names the mesh still works by addresses."""
    try:
        return process.find_user(config.dns.user, "dns.user")
    except ConfigError:
        return None


def proxy_in_use(paths: Paths) -> Path:
    """The version that `meshexp proxy use` chose, else where a package may have put one."""
    return Store(paths.proxy_versions).in_use() or PACKAGED_PROXY


def read_cordon(paths: Paths) -> str | None:
    """The operator's reason; None when the machine is not cordoned."""
    found = cordon.read(paths.cordon)
    if found is None:
        return None
    return found.reason or f"the reason in {paths.cordon} cannot be read"


def instance_id(
    configured: str | None, kept: Path, ephemeral: bool, hostname: str
) -> tuple[str, UnwritableError | UnreadableError | None]:
    """Configured, else random and kept in the state directory, else (a container without a volume) the host name.

    Also the host name where it cannot be kept or read: with the reason. It does no harm meanwhile: a machine that cannot keep its
    secret does not register, and a member is known by that secret. Blocking.
    """
    if configured:
        return configured, None
    try:
        if _ID.fullmatch(found := files.bounded(kept).decode(errors="replace").strip()):
            return found, None
        files.set_aside(kept, "it is empty, or no instance id")  # as a power loss leaves it; the registration's secret counts
    except UnreadableError as error:
        if not error.absent and not error.foreign:
            return hostname, error  # it may be there, and another in its place would make this another machine
    if ephemeral:
        return hostname, None
    fresh = secrets.token_hex(16)
    try:
        files.write(kept, fresh + "\n", mode=0o600, durable=True)
    except UnwritableError as error:
        return hostname, error
    return fresh, None


def ephemeral(paths: Paths) -> bool:
    """A container whose state directory goes with it: its host name is then what lasts longest."""
    if not environment.in_container():
        return False
    place = next(folder for folder in (paths.state, *paths.state.parents) if folder.exists())
    return place.stat().st_dev == Path("/").stat().st_dev


def _anchors(path: str, before: str) -> str:
    try:
        return needs.read_anchors(path)
    except ConfigError:
        if before:
            return before
        raise


async def look_at_network(config: schema.Config, before: Machine) -> Machine:
    """What may change at any moment, and costs little to ask: addresses, and what the kernel takes of IPv6."""
    way = await _way(config, before)
    return replace(
        before,
        addresses=way.addresses,
        unaddressed=way.missing,
        controller_at=way.controller_at,
        spire_told=await _spire_told(config, before.spire_told, AT_ONCE_SECONDS),
        ipv6=addresses.has_ipv6(before.ipv6),
        v6only=addresses.v6only(before.v6only),
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """`addresses`: from which this machine reaches the cluster; while there is none, those before, and why in `missing`."""

    addresses: tuple[IPAddress, ...]
    missing: str
    controller_at: tuple[IPAddress, ...]


async def _way(config: schema.Config, before: Machine | None) -> _Way:
    """One address, since Linkerd mixes up the two of a dual-stack workload.

    A member without a configured node asks for the controller's name each time. It waits AT_ONCE_SECONDS for an answer, and then
    goes on with what the name led to before.
    """
    known = before.controller_at if before else ()
    own = before.addresses if before else ()
    if config.workload.addresses:
        return _Way(config.workload.addresses, "", known or await _controller(config))
    targets: list[IPAddress] = []
    unknown: list[str] = []
    if config.network.node is not None:
        targets.append(config.network.node)
    if not targets or _source(targets, own)[0] is None:
        try:
            known = await _targets(config.controller.address, AT_ONCE_SECONDS if known else addresses.LOOKUP_SECONDS)
        except TemporaryError as error:
            unknown = [] if known else [error.message]
        targets = list(dict.fromkeys((*targets, *known)))  # the node is often the controller's, too
    source, failures = _source(targets, own)
    if source is not None:
        return _Way((source,), "", known or await _controller(config))
    if not failures and own:
        return _Way(own, "", known)  # nothing says that it has gone
    return _Way(own, "; ".join((*failures, *unknown)), known)


async def _controller(config: schema.Config) -> tuple[IPAddress, ...]:
    """Where its name leads: the hold leaves these addresses alone. None while no name server answers."""
    try:
        return await _targets(config.controller.address, AT_ONCE_SECONDS)
    except TemporaryError:
        return ()


def _source(targets: list[IPAddress], own: tuple[IPAddress, ...]) -> tuple[IPAddress | None, list[str]]:
    """Of packets to one of the targets. Else None, and why there is no way to each.

    One of `own` stays as long as the kernel takes it for any target: a name server may tell targets in another order each time.
    """
    first = None
    failures = []
    for target in targets:
        try:
            source = addresses.source_of(target)
        except TemporaryError as error:
            failures.append(error.message)
            continue
        if source.is_loopback or source.is_link_local:
            failures.append(f"asking for the way to {target}: it is by {source}, at which no peer reaches this machine")
        elif source in own:
            return source, failures
        else:
            first = first or source
    return first, failures


async def _targets(endpoint: HostPort, seconds: float = addresses.LOOKUP_SECONDS) -> tuple[IPAddress, ...]:
    return (endpoint.ip,) if endpoint.ip is not None else await addresses.resolved(endpoint, seconds)
