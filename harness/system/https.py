"""One small document by https, verified as the system verifies; nothing else is followed, not even by a redirect."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from harness import trust
from harness.errors import UnavailableError, UsageError
from harness.system import came_back

SECONDS, MOST_SECONDS, MOST_BYTES = 15.0, 60.0, 1 << 20
"""Of silence, of all of it, and of the document."""


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: object, code: int, msg: str, headers: object, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise UnavailableError("the server redirects to something that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(url: str) -> str:
    """Raises UsageError when it is not https, else UnavailableError; neither quotes the path of the URL, which may be secret."""
    if not url.startswith("https://"):
        raise UsageError("an invitation is fetched by https only: it holds keys")
    opener = urllib.request.build_opener(_OnlyHttps)
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            until = time.monotonic() + MOST_SECONDS
            data = b""
            while len(data) <= MOST_BYTES and (more := answer.read1(65536)):
                data += more
                if time.monotonic() > until:
                    raise TimeoutError(f"no whole answer within {MOST_SECONDS:g} s")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        refused = came_back.distrust(error)
        tried = f"fetching the invitation from {urlsplit(url).netloc}"
        raise UnavailableError(came_back.words(error), trust.hint_of(refused) if refused else "", tried=tried) from None
    if len(data) > MOST_BYTES:
        raise UnavailableError("what the server sends is too large for an invitation")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnavailableError("what the server sends is no invitation") from None
