"""The three workloads: smiley and color answer what they are told to, face asks both."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from demo.faces import palette
from demo.faces.provider import Data, Provider, Settings, service
from demo.faces.server import Request

PART_TIMEOUT = 10.0  # seconds


def smiley(environment: Mapping[str, str]) -> Provider:
    shown = dict.fromkeys(("center", "edge"), palette.smiley(environment.get("SMILEY") or "Grinning"))

    def update(data: Data) -> Data:
        which, face = data.get("which"), data.get("smiley")
        if which not in ("all", "center", "edge") or not isinstance(face, str):
            raise ValueError('expected {"which": "all" or "center" or "edge", "smiley": "…"}')
        for segment in shown if which == "all" else (which,):
            shown[segment] = palette.smiley(face)
        return {"which": which, "smiley": palette.smiley(face)}

    return Provider(environment, lambda request: {"smiley": shown[request.segment]}, update)


def color(environment: Mapping[str, str]) -> Provider:
    shown = palette.color(environment.get("COLOR") or "blue")
    return Provider(environment, lambda request: {"color": shown})


@dataclass(frozen=True, slots=True)
class Part:
    """A value, or the status and message of the failure to get one."""

    value: str = ""
    status: int = 200
    error: str = ""


def face(environment: Mapping[str, str]) -> Provider:
    services = {key: service(environment, f"{key.upper()}_SERVICE", key) for key in ("smiley", "color")}
    header = Settings.read(environment).user_header

    def answer(request: Request) -> Data:
        if request.path == "/ready":
            # Unlike Faces 1.x: a probe that asked the parts would take face down with smiley.
            return {}
        forwarded = {header: request.header(header) or "unknown", "User-Agent": request.header("User-Agent") or "unknown"}
        target = f"/{request.segment}/" + (f"?{request.query}" if request.query else "")
        parts: dict[str, Part] = {}

        def ask(key: str) -> None:
            parts[key] = _ask(services[key], key, target, forwarded)

        # Not a pool, which would hold up the end of the process for a part that hangs.
        threads = [threading.Thread(target=ask, args=(key,), daemon=True) for key in services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shown: dict[str, object] = {
            "smiley": parts["smiley"].value or palette.SMILEYS["Sleeping" if parts["smiley"].status == 504 else "Cursing"],
            "color": parts["color"].value or palette.COLORS["red" if parts["color"].status == 504 else "grey"],
        }
        if errors := [f"{key}: {parts[key].error}" for key in services if parts[key].error]:
            shown["errors"] = errors
        return shown

    return Provider(environment, answer)


def _ask(host: str, key: str, target: str, headers: Mapping[str, str]) -> Part:
    """One connection per request, so that a balancer of connections spreads them."""
    connection = http.client.HTTPConnection(host, timeout=PART_TIMEOUT)
    try:
        connection.request("GET", target, headers=dict(headers) | {"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            return Part(status=response.status, error=f"{host} answered {response.status}")
        value = json.loads(body)[key]
        return Part(value) if isinstance(value, str) else Part(status=500, error=f"{host} sent no {key}")
    except TimeoutError:
        return Part(status=504, error=f"{host} did not answer within {PART_TIMEOUT:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Part(status=500, error=f"{host} could not be asked: {error!r}")
    except (ValueError, KeyError, TypeError):
        return Part(status=500, error=f"{host} sent no {key}")
    finally:
        connection.close()
