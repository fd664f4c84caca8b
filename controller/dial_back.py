"""A real connection to a machine, on its own request: what a cloud's security group does with one, only a packet shows.

It goes where peers go, and nowhere else: to the address that the registration holds, which admission let in, and to its proxy's
port; never into the cluster's own networks. A machine chooses no byte of it. What answers is read as far as the handshake, whose
messages OpenSSL bounds, and for a few seconds.

In ten seconds there is one connection for a registration, over all replicas, while their clocks agree. The replica that makes it
says so on the machine's Lease first, and then what it has found. There is also one to an address, but only as far as the other
replicas have told: two that begin at the same moment, for two registrations, do not know of each other.

Of one SPIFFE ID few tests are under way at a replica, so a machine with many registrations at silent addresses does not take the
place of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from controller import admission, own_networks, tls
from controller.admission import RefusedError
from controller.fleet import Record
from controller.model import Key
from controller.own_networks import OwnNetworks
from controller.peer import peer_of
from controller.registry import Caller, Registry
from controller.tested import PAUSE_SECONDS, TESTED, Tested, of_address, parsed
from harness import phrases, trust
from harness.errors import TemporaryError
from harness.messages import Reach, Reached
from harness.values import IPAddress, SpiffeId, parse_address

STEP_SECONDS = 3.0
"""For the connection, and as much for TLS."""
MOST = 50
"""At once, to all machines."""
MOST_OF_ONE = 2
"""At once, for one SPIFFE ID: a whole group may have the same one, and where packets get through a test takes no time."""
_MOST_CHARACTERS = 200
Dial = Callable[[IPAddress, int, str, SpiffeId, str], Coroutine[None, None, Reach]]
"""To an address and port, with a server name, the SPIFFE ID that is expected, and the trust anchors."""


async def connect(address: IPAddress, port: int, server_name: str, identity: SpiffeId, anchors: str) -> Reach:
    """Never raises: what goes wrong is the answer. The handshake is all: nothing else is read or sent."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    source = None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.setblocking(False)
            async with asyncio.timeout(STEP_SECONDS):
                await loop.sock_connect(made, (str(address), port))
            source = parse_address(made.getsockname()[0])
            outcome, message = await _prove(made.dup(), server_name, identity, anchors)
    except ConnectionRefusedError:
        outcome, message = Reached.REFUSED, phrases.REFUSED
    except TimeoutError:
        outcome, message = Reached.TIMED_OUT, f"{phrases.NO_CONNECTION} within {STEP_SECONDS:g} s"
    except OSError as error:
        outcome, message = Reached.NO_WAY, os.strerror(error.errno) if error.errno else "the connection failed"
    return Reach(address, port, outcome, message[:_MOST_CHARACTERS], source, loop.time() - began)


async def _prove(made: socket.socket, server_name: str, identity: SpiffeId, anchors: str) -> tuple[Reached, str]:
    """As a peer's proxy has it: the name asks for a certificate, and the SPIFFE ID in that is what counts."""
    context = tls.client_context(anchors)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        async with asyncio.timeout(STEP_SECONDS):
            _, writer = await asyncio.open_connection(sock=made, ssl=context, server_hostname=server_name)
    except ssl.SSLCertVerificationError as error:
        return Reached.UNTRUSTED, trust.words("this machine's proxy", error, "the controller's clock")
    except (OSError, TimeoutError, ValueError) as error:  # the last: a server name that no DNS name can be
        made.close()
        return Reached.NO_TLS, f"connected, but {phrases.NO_PROXY_TLS} of {server_name[:64]}: {_words(error)}"
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    try:
        found = peer_of(certificate).identity
    except RefusedError:
        return Reached.WRONG_NAME, f"{phrases.ANSWERS_AS} has a certificate without a SPIFFE ID"
    if found != identity:
        return Reached.WRONG_NAME, f"{phrases.ANSWERS_AS} is {found}, not {identity}"
    return Reached.CONNECTED, ""


def _words(error: Exception) -> str:
    """What came back instead of a handshake. asyncio has no words for a peer that closes the connection."""
    if isinstance(error, TimeoutError):
        return f"{phrases.NO_ANSWER} within {STEP_SECONDS:g} s"
    if isinstance(error, ConnectionResetError):
        return phrases.RESET if error.errno else f"it {phrases.DISCONNECTED}"
    return str(error) or f"it {phrases.DISCONNECTED}"


@dataclass(frozen=True, slots=True)
class _Test:
    began: float
    target: tuple[IPAddress, int]
    identity: SpiffeId
    outcome: asyncio.Task[Reach]


class DialBack:
    """Connections to machines that ask for one, to the address and inbound port of their registration only; one test a machine at
    a time, and its result stands for PAUSE_SECONDS. `own`: the networks of the controller's cluster, None where it has none."""

    def __init__(self, registry: Registry, dial: Dial = connect, own: Callable[[], OwnNetworks] | None = None) -> None:
        self._registry = registry
        self._fleet = registry.fleet
        self._dial = dial
        self.own = own
        self._tests: dict[Key, _Test] = {}

    async def reach(self, caller: Caller, key: Key) -> Reach:
        """Raises RefusedError as every call, and for an address that is not to be dialled; TemporaryError when too many ask."""
        record = self._registry.authenticate(caller, key)
        clock = self._fleet.clock
        now = clock.now()
        target = record.workload.spec.workload_ips[0].ip, record.workload.inbound_port
        self._forget(now)
        test = self._tests.get(key)
        if test is None:
            told = parsed(self._registry.replicas.annotation(key, TESTED))
            if told is not None and told.counts(clock.wall()):
                return self._of_another(told, key, target)
            self._check(record, target[0])
            self._make_room(target[0], record.workload.spec.mesh_tls.identity)
            attempt = asyncio.create_task(self._attempt(key, record, target))
            test = self._tests[key] = _Test(now, target, record.workload.spec.mesh_tls.identity, attempt)
        elif test.target != target:
            raise _too_soon(key, "was of another address")
        found = await asyncio.shield(test.outcome)
        return dataclasses.replace(found, ago=max(0.0, clock.now() - test.began - found.took))

    async def _attempt(self, key: Key, record: Record, target: tuple[IPAddress, int]) -> Reach:
        """Where another replica makes one, there is none here; nor where that cannot be told, as the store takes no write."""
        replicas = self._registry.replicas
        mesh = record.workload.spec.mesh_tls
        anchors = self._fleet.facts.trust_anchors_pem
        began = Tested(self._fleet.clock.wall(), *target)
        try:
            if not await replicas.put(key, TESTED, str(began), lambda text: not _counts(text, began.began)):
                raise _too_soon(key, "has just begun at another replica")
        except (RefusedError, TemporaryError):
            self._tests.pop(key, None)
            raise
        found = await self._dial(*target, mesh.server_name, mesh.identity, anchors)
        replicas.say(key, {TESTED: str(dataclasses.replace(began, found=found))})
        return found

    def _of_another(self, told: Tested, key: Key, target: tuple[IPAddress, int]) -> Reach:
        """What another replica has found. Raises RefusedError."""
        if (told.address, told.port) != target:
            raise _too_soon(key, "was of another address")
        if told.found is None:
            raise _too_soon(key, "is under way at another replica")
        ago = self._fleet.clock.wall() - told.began - told.found.took
        return dataclasses.replace(told.found, ago=max(0.0, ago))

    def _make_room(self, address: IPAddress, identity: SpiffeId) -> None:
        """Raises RefusedError or TemporaryError where there is none for another test."""
        if any(test.target[0] == address for test in self._tests.values()) or self._tested_elsewhere(address):
            raise _too_soon(address, "was for another registration")
        under_way = [test for test in self._tests.values() if not test.outcome.done()]
        if len(under_way) >= MOST:
            raise TemporaryError("too many machines are being tested")
        if sum(test.identity == identity for test in under_way) >= MOST_OF_ONE:
            raise TemporaryError(f"too many machines of {identity} are being tested")

    def _tested_elsewhere(self, address: IPAddress) -> bool:
        """As far as the other replicas have told."""
        wall = self._fleet.clock.wall()
        texts = (lease.metadata.annotations.get(TESTED, "") for lease in self._registry.replicas.leases())
        return any(told.counts(wall) for told in of_address(texts, address))

    def _forget(self, now: float) -> None:
        """They are in the order in which they began."""
        for key, test in tuple(self._tests.items()):
            if now - test.began < PAUSE_SECONDS:
                return
            del self._tests[key]

    def _check(self, record: Record, address: IPAddress) -> None:
        """Again what the registration was checked for: the group and the cluster may have changed since. Raises RefusedError."""
        group = self._fleet.group(record.member.group_key)
        if group is not None:
            admission.check_addresses(group, (address,))
        facts = self._fleet.facts
        own = self.own() if self.own is not None else OwnNetworks()
        if self.own is not None and not (facts.service_cidrs or own.services):
            hint = "name them in `facts.serviceCIDRs` of the controller's chart"
            raise RefusedError("address-not-allowed", "the cluster's service networks are not known (facts.serviceCIDRs)", hint)
        if inside := own_networks.whose(facts, own, address):
            raise RefusedError("address-not-allowed", f"{address} is {inside}, and no connection is made there")
        for one in own_networks.within(address):
            if not admission.can_be_dialled(one):
                raise RefusedError("address-not-allowed", f"{address} has {one} within, which is not an address of a machine")


def _too_soon(what: Key | IPAddress, last: str) -> RefusedError:
    hint = f"ask again {PAUSE_SECONDS:g} s after the last test, which {last}"
    return RefusedError("too-soon", f"{what} was tested a moment ago", hint)


def _counts(text: str, wall: float) -> bool:
    told = parsed(text)
    return told is not None and told.counts(wall)
