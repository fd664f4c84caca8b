"""`meshexp-controller invite`: on the administrator's machine, one file that lets one machine join one group."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import secrets
import time

from controller import tickets
from controller.installed import Installed
from controller.kubernetes import flags
from controller.kubernetes.client import Client
from controller.kubernetes.cluster import Cluster
from controller.kubernetes.collection import KubernetesCollection
from controller.kubernetes.store import KubernetesStore
from controller.manifest import ExternalGroup
from controller.model import Key
from controller.naming import mesh_identity
from controller.peer import spki_sha256
from controller.store import NotFoundError
from harness import ca
from harness.clock import SystemClock
from harness.decode import encode
from harness.errors import ConfigError, Fault, UnavailableError
from harness.invitation import VERSION, AgentIdentity, Invitation, LocalIdentity
from harness.messages import ClusterFacts
from harness.values import SpiffeId, parse_duration, parse_host_port, parse_label, parse_network, parse_spiffe_id

NO_FACTS = ClusterFacts()
_FACTS_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", required=True, help="the ExternalGroup that the machine may join")
    parser.add_argument("-n", "--namespace", required=True, help="the group's namespace")
    parser.add_argument(
        "--output", metavar="FILE", default="", help="where the invitation goes, mode 0600; <group>.invitation if unset"
    )
    parser.add_argument("--ttl", default="1h", help="how long it counts")
    parser.add_argument(
        "--spiffe-id", default="", help="who the machine will be; spiffe://<trust domain>/<namespace>/<group> if unset"
    )
    parser.add_argument("--trust-domain", default="root.linkerd.cluster.local")
    parser.add_argument(
        "--ca", metavar="DIR", default="", help="ca.crt and ca.key of the trust anchor: the machine gets an intermediate"
    )
    parser.add_argument("--ca-days", type=float, default=90.0, help="lifetime of that intermediate")
    parser.add_argument(
        "--spire-server", metavar="HOST:PORT", default="", help="instead of --ca: the SPIRE server of the machine's agent"
    )
    parser.add_argument("--join-token", default="", help="one of that server's join tokens")
    parser.add_argument(
        "--controller", metavar="HOST:PORT", default="", help="where the machine reaches the controller; its Service if unset"
    )
    flags.add_arguments(parser)
    parser.add_argument("--controller-namespace", default="meshexp", help="where the controller is")
    parser.add_argument(
        "--service-account",
        default="",
        help="the controller's, which its name in the mesh is made of; that of its Deployment if unset",
    )
    parser.add_argument("--linkerd-namespace", default="linkerd")
    parser.add_argument(
        "--allow", metavar="CIDR", action="append", default=[],
        help="the machine takes only networks within this one from the controller; may be given several times",
    )  # fmt: skip


def run(options: argparse.Namespace) -> str:
    """The path of the file. Raises ConfigError, NotFoundError or UnavailableError; then nothing was written anywhere."""
    path = pathlib.Path(options.output or f"{options.group}.invitation")
    if path.exists():
        raise ConfigError((Fault("output", f"{path} exists"),), "invite")
    invitation, ticket = asyncio.run(_invite(options))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(encode(invitation), file, indent=1)
        file.flush()
        os.fsync(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the token is told once: the cluster has only its hash
    finally:
        os.close(folder)
    return f"{path}: invitation {ticket.id} into {options.namespace}/{options.group} as {invitation.spiffe_id}, for {options.ttl}"


async def _invite(options: argparse.Namespace) -> tuple[Invitation, tickets.Ticket]:
    if bool(options.ca) == bool(options.spire_server) or bool(options.spire_server) != bool(options.join_token):
        raise ConfigError((Fault("", "give either --ca, or --spire-server with --join-token"),), "invite")
    try:
        key = Key(parse_label(options.namespace), parse_label(options.group))
        identity = parse_spiffe_id(options.spiffe_id or f"spiffe://{options.trust_domain}/{key}")
        expires = time.time() + parse_duration(options.ttl)
        local, pin = _local(options, key, identity) if options.ca else (None, "")
        agent = AgentIdentity(parse_host_port(options.spire_server), options.join_token) if options.spire_server else None
        address = parse_host_port(options.controller) if options.controller else None
        allow = tuple(map(parse_network, options.allow))
    except ValueError as error:
        raise ConfigError((Fault("", str(error)),), "invite") from None
    async with Client(flags.find(options)) as client:
        groups, group = await _find(KubernetesStore(client), key)
        facts = await read_facts(client, options.linkerd_namespace)
        installed = Installed(client, options.controller_namespace)
        account = options.service_account or await installed.service_account()
        address = address or await installed.address(facts.cluster_domain)
        token = secrets.token_urlsafe(32)
        ticket = tickets.ticket(token, expires, (identity,), pin)
        invitation = Invitation(
            VERSION, token, expires, address, mesh_identity(account, options.controller_namespace, facts.linkerd),
            facts.trust_anchors_pem, key.name, key.namespace, identity, facts.pod_routes, facts.service_cidrs,
            facts.cluster_domain, local, agent, allow,
        )  # fmt: skip
        await groups.annotate(group.key, dict([ticket.annotation]), f"meshexp-invite-{ticket.id}")
    return invitation, ticket


def _local(options: argparse.Namespace, group: Key, identity: SpiffeId) -> tuple[LocalIdentity, str]:
    folder = pathlib.Path(options.ca)
    anchor = ca.load_anchor(folder / "ca.crt", folder / "ca.key")
    key = ca.new_key()
    name = tickets.ca_name(group, secrets.token_hex(4))
    now = datetime.datetime.now(datetime.UTC)
    certificate = ca.issue(anchor, name, key.public_key(), options.ca_days, now, str(identity))
    return LocalIdentity(ca.certificate_pem(certificate), ca.key_pem(key)), spki_sha256(certificate)


async def _find(store: KubernetesStore, key: Key) -> tuple[KubernetesCollection[ExternalGroup], ExternalGroup]:
    """Our own API group goes before the other."""
    for groups in (store.groups, store.buoyant_groups):
        try:
            return groups, await groups.get(key)
        except NotFoundError:
            continue
    raise UnavailableError(f"there is no ExternalGroup {key}", "create the group first")


async def read_facts(client: Client, linkerd_namespace: str, configured: ClusterFacts = NO_FACTS) -> ClusterFacts:
    """What the cluster tells now, and for the rest what is configured. Raises UnavailableError, also without trust anchors."""
    cluster = Cluster(client, SystemClock(), configured, linkerd_namespace)
    task = asyncio.create_task(cluster.run())
    try:
        async with asyncio.timeout(_FACTS_SECONDS):
            await cluster.known.wait()
    except TimeoutError:
        raise UnavailableError("the cluster's facts could not be read in time", "see what your kubeconfig may list") from None
    finally:
        task.cancel()
        await asyncio.wait((task,))
    if not cluster.facts.trust_anchors_pem:
        raise UnavailableError("Linkerd's trust anchors are not in the cluster", f"is Linkerd in {linkerd_namespace}?")
    return cluster.facts
