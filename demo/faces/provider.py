"""What face, smiley and color have in common: the JSON object, the headers, injected faults, the readiness switch."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from demo.faces.faults import Injector, from_environment
from demo.faces.server import Request, Response

Data = Mapping[str, object]
Answer = Callable[[Request], Data]
Update = Callable[[Data], Data]


@dataclass(frozen=True, slots=True)
class Settings:
    pod: str
    user_header: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        pod = environment.get("HOST_IP") or environment.get("HOSTNAME") or "unknown"
        return cls(pod, environment.get("USER_HEADER_NAME") or "X-Faces-User")


def service(environment: Mapping[str, str], name: str, default: str) -> str:
    """`host` or `host:port` from a variable; ValueError when it is neither."""
    text = environment.get(name) or default
    try:
        http.client.HTTPConnection(text)
    except http.client.InvalidURL as error:
        raise ValueError(f"{name}: {error}") from None
    return text


class Provider:
    """`answer` gives the workload's own part of the object; `update`, where there is one, takes a PUT and raises ValueError."""

    def __init__(self, environment: Mapping[str, str], answer: Answer, update: Update | None = None) -> None:
        self._settings = Settings.read(environment)
        self._injector = Injector(from_environment(environment))
        self._answer, self._update = answer, update
        self._ready = threading.Event()
        self._ready.set()

    def handle(self, request: Request) -> Response:
        if request.method == "HEAD":
            return self._response(request, 200, b"", "application/json")
        if request.method == "PUT" and request.path == "/ready":
            return self._put(request, self._set_ready)
        if request.method == "PUT" and self._update is not None:
            return self._put(request, self._update)
        if request.method != "GET":
            return self._response(request, 405, f"method {request.method} is not allowed\n".encode(), "text/plain")
        if request.path == "/ready":
            return self._readiness(request)
        return self._get(request)

    def _readiness(self, request: Request) -> Response:
        """By the switch alone, as in Faces 1.3.0: injected faults that a probe met would take the workload out of the mesh."""
        if not self._ready.is_set():
            return self._object(request, 503, {"errors": ["set to not ready"]})
        return self._object(request, 200, self._answer(request))

    def _get(self, request: Request) -> Response:
        verdict = self._injector.judge()
        time.sleep(self._injector.delay_seconds())
        if verdict.status != 200:
            return self._object(request, verdict.status, {"errors": [verdict.message]})
        return self._object(request, 200, self._answer(request))

    def _put(self, request: Request, update: Update) -> Response:
        try:
            data = json.loads(request.body)
            if not isinstance(data, dict):
                raise ValueError("not a JSON object")
            return self._object(request, 200, update(data))
        except ValueError as error:
            return self._object(request, 400, {"errors": [str(error)]})

    def _set_ready(self, data: Data) -> Data:
        match data.get("ready"):
            case True:
                self._ready.set()
            case False:
                self._ready.clear()
            case _:
                raise ValueError('expected {"ready": true} or {"ready": false}')
        return {"ready": self._ready.is_set()}

    def _object(self, request: Request, status: int, data: Data) -> Response:
        common = {
            "path": request.path,
            "client_address": request.client,
            "method": request.method,
            "headers": request.headers,
            "status": status,
        }
        return self._response(request, status, json.dumps(common | dict(data)).encode(), "application/json")

    def _response(self, request: Request, status: int, body: bytes, content_type: str) -> Response:
        headers = {
            "Content-Type": content_type,
            self._settings.user_header: request.header(self._settings.user_header),
            "User-Agent": request.header("User-Agent"),
            "X-Faces-Pod": self._settings.pod,
        }
        return Response(status, body, headers)
