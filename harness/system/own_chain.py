"""Whether this machine's own certificate leads to some trust anchors: OpenSSL says it, in a handshake within this process."""

from __future__ import annotations

import contextlib
import ssl

from harness.errors import HarnessError
from harness.system.control_plane import load_svid, server_context
from harness.system.workload_api import Svid

_FLIGHTS = 4


def refusal(svid: Svid, anchors_pem: str) -> str:
    """Why it does not lead to one of them; empty where it does. Raises ConfigError for a text without certificates."""
    peer = server_context(anchors_pem, "")
    peer.check_hostname = False  # an SVID has an URI, and no name
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_svid(own, svid)
    except HarnessError as error:
        return error.message
    to_own = ssl.MemoryBIO()
    to_peer = ssl.MemoryBIO()
    asking = ssl.SSLContext.wrap_bio(peer, to_peer, to_own, server_hostname=None)
    answering = own.wrap_bio(to_own, to_peer, server_side=True)
    try:
        for _ in range(_FLIGHTS):
            for side in (asking, answering):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return str(error.reason or error)
    return ""
