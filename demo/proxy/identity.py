"""The proxy's certificate: from the Workload API into a pair of TLS contexts, anew at each rotation."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import threading
import time
from dataclasses import dataclass

from demo.proxy.settings import Settings
from harness.backoff import Backoff
from harness.errors import HarnessError
from harness.system import workload_api

_LOG = logging.getLogger(__name__)
BACKOFF = Backoff(first=0.1, most=1.0)  # as linkerd2-proxy


@dataclass(frozen=True, slots=True)
class Certified:
    client: ssl.SSLContext
    server: ssl.SSLContext
    expires_at: float


class Identity:
    """`current` is for new connections; those that exist keep what they began with."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.current: Certified | None = None
        self.certified = asyncio.Event()
        self.refreshes = 0

    def start(self) -> None:
        arguments = (asyncio.get_running_loop(),)
        threading.Thread(target=self._follow, args=arguments, name="identity", daemon=True).start()

    def accept(self, svids: tuple[workload_api.Svid, ...]) -> None:
        """Takes the SVID that is ours, if peers would accept it; else the one before stays."""
        svid = next((one for one in svids if str(one.spiffe_id) == self._settings.server_id), None)
        if svid is None:
            _LOG.error("no matching SVID found for %s", self._settings.server_id)
            return
        try:
            self.current = certify(svid, self._settings)
        except ssl.SSLError as error:
            _LOG.error("the SVID is unusable: %s", error)
            return
        self.refreshes += 1
        self.certified.set()
        _LOG.info("Certified identity id=%s", self._settings.server_id)

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        failures = 0
        while not loop.is_closed():
            try:
                for svids in workload_api.stream(self._settings.workload_api):
                    failures = 0
                    loop.call_soon_threadsafe(self.accept, svids)
            except HarnessError as error:
                _LOG.warning("%s", error.message)
            except RuntimeError:  # the loop was closed: the process ends
                return
            failures += 1
            time.sleep(BACKOFF.pause(failures))


def certify(svid: workload_api.Svid, settings: Settings) -> Certified:
    """Contexts for both sides; ssl.SSLError if the certificate does not chain to the anchors, has expired, or lacks its key."""
    client, server = (_context(side, settings.trust_anchors) for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER))

    def check_server_name(_: ssl.SSLObject | ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> int | None:
        return None if name == settings.server_name else int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    key = base64.encodebytes(svid.key_der).decode()
    pem = f"-----BEGIN PRIVATE KEY-----\n{key}-----END PRIVATE KEY-----\n"
    pem += "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in svid.chain_der)
    memory = os.memfd_create("svid", os.MFD_CLOEXEC)  # ssl reads keys by path only, and a key never goes to disk
    try:
        os.write(memory, pem.encode())
        for context in (client, server):
            context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    server.sni_callback = check_server_name
    server.num_tickets = 0
    _handshake(client, server, settings.server_name)
    return Certified(client, server, svid.expires_at)


def load_anchors(pem: str) -> None:
    """ssl.SSLError if there is no certificate among them."""
    _context(ssl.PROTOCOL_TLS_CLIENT, pem)


def _context(side: int, anchors: str) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the peer's SPIFFE ID is what counts
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an anchor need not be self-signed
    context.load_verify_locations(cadata=anchors)
    return context


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, server_name: str) -> None:
    """Both sides in memory: proves the chain, the key and the times by the code that will judge them later."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(back, there, server_hostname=server_name),
        server.wrap_bio(there, back, server_side=True),
    ]
    for side in (*sides, *sides):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
