"""The page, and the way from it to face: `/` is one self-contained page, `/ready` a probe, `/face/…` goes to FACE_SERVICE."""

from __future__ import annotations

import html
import http.client
import time
from collections.abc import Mapping
from pathlib import Path

from demo.faces.provider import Settings, service
from demo.faces.server import Request, Response

FACE_TIMEOUT = 15.0  # seconds; more than face gives its parts
_PAGE = Path(__file__).with_name("page.html")
_FORWARDED = ("X-Faces-Pod", "X-Faces-User", "Content-Type")


class Gui:
    def __init__(self, environment: Mapping[str, str]) -> None:
        settings = Settings.read(environment)
        self._pod, self._user_header = settings.pod, settings.user_header
        self._service = service(environment, "FACE_SERVICE", "face")
        self._page = _PAGE.read_text().replace("{{user_header}}", html.escape(settings.user_header)).encode()

    def handle(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return self._text(405, f"method {request.method} is not allowed\n")
        if request.path == "/":
            return Response(200, self._page, {"Content-Type": "text/html; charset=utf-8", "X-Faces-PodName": self._pod})
        if request.path == "/ready":
            return self._text(200, "ready\n")
        if request.path.startswith("/face/"):
            return self._face(request)
        return self._text(404, "there is nothing here\n")

    def _face(self, request: Request) -> Response:
        """face's own answer; 504 when it takes too long, 502 when it cannot be asked."""
        headers = {"Connection": "close", "User-Agent": request.header("User-Agent")}
        headers[self._user_header] = request.header(self._user_header)
        target = request.path.removeprefix("/face") + (f"?{request.query}" if request.query else "")
        connection = http.client.HTTPConnection(self._service, timeout=FACE_TIMEOUT)
        began = time.monotonic()
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except TimeoutError:
            return self._text(504, f"{self._service} did not answer within {FACE_TIMEOUT:g} s\n")
        except (OSError, http.client.HTTPException) as error:
            return self._text(502, f"{self._service} could not be asked: {error!r}\n")
        finally:
            connection.close()
        found = {name: value for name in (*_FORWARDED, self._user_header) if (value := answer.headers.get(name)) is not None}
        milliseconds = round((time.monotonic() - began) * 1000)
        own = {"X-Faces-Latency": str(milliseconds), "X-Faces-User-Agent": request.header("User-Agent")}
        return Response(answer.status, body, found | own | {"X-Faces-PodName": self._pod})

    def _text(self, status: int, text: str) -> Response:
        return Response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", "X-Faces-PodName": self._pod})
