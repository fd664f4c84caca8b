"""`meshexp-controller reach HOST:PORT`: whether a controller answers there by its name in the mesh. `helm test` runs it.

It connects as a machine does, but it has no certificate of its own. So it looks at the controller's certificate in the handshake,
and makes no call, which the controller would refuse.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time

from controller import config as configuration
from controller import tls
from controller.installed import OURS
from controller.invite import read_facts
from controller.kubernetes import access
from controller.kubernetes.client import Client
from controller.naming import mesh_identity
from harness import trust
from harness.backoff import Backoff
from harness.errors import ConfigError, Fault, TemporaryError, UnavailableError
from harness.values import HostPort, parse_duration, parse_host_port

_CALL_SECONDS = 5.0
_BACKOFF = Backoff(first=0.5, most=5.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="HOST:PORT", help="such as that of the controller's Service")
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="the controller's configuration, which its name is made of"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", default="", help="outside a pod")
    parser.add_argument("--wait", metavar="DURATION", default="0s", help="try again for at most so long, such as 60s")


def run(options: argparse.Namespace) -> str:
    """What was found. Raises ConfigError, UnavailableError or TemporaryError."""
    try:
        address = parse_host_port(options.address)
        seconds = parse_duration(options.wait)
    except ValueError as error:
        raise ConfigError((Fault("", str(error)),), "reach") from None
    config = configuration.load(options.config, {})
    if not config.kubernetes:
        raise ConfigError((Fault("kubernetes", "must be true: the name is one of Linkerd's"),), options.config)
    configured = configuration.load_facts(config)
    found = access.find(options.kubeconfig or config.kubeconfig)
    namespace = config.namespace or found.namespace

    async def reach() -> str:
        async with Client(found) as client:
            facts = await read_facts(client, config.linkerd_namespace, configured)
        identity = mesh_identity(config.service_account, namespace, facts.linkerd)
        hint = f"`kubectl -n {namespace} describe pods -l {OURS}`"
        await _reach(address, identity, tls.client_context(facts.trust_anchors_pem), seconds, hint)
        return f"{address}: the controller answers as {identity}"

    return asyncio.run(reach())


async def _reach(address: HostPort, identity: str, context: ssl.SSLContext, seconds: float, hint: str) -> None:
    """Tries until it answers. Raises UnavailableError for another's certificate, TemporaryError when the time is over."""
    started = time.monotonic()
    failures = 0
    while True:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                _, writer = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=identity)
            writer.transport.abort()
            return
        except ssl.SSLCertVerificationError as error:
            said, advice = trust.words(identity, error), trust.hint_of(error, hint)
            raise UnavailableError(said, advice, tried=f"TLS with {address}") from None
        except (OSError, TimeoutError) as error:
            failures += 1
            spent = time.monotonic() - started
            if spent >= seconds:
                came = f"{_words(error)} (try {failures}, for {spent:.0f} s)"
                raise TemporaryError(came, hint, tried=f"TLS with {address}") from None
        await asyncio.sleep(min(_BACKOFF.pause(failures), max(0.0, seconds - spent)))


def _words(error: OSError) -> str:
    """What came back. asyncio has no words for a peer that closes the connection instead of answering."""
    silent = f"no answer in {_CALL_SECONDS:.0f} s" if isinstance(error, TimeoutError) else "the connection was closed"
    return str(error) or silent
