"""Where the API server is and who we are there: a pod's service account, or a kubeconfig."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controller import tls
from controller.kubernetes import kubeconfig as files
from harness import reading
from harness.errors import ConfigError, Fault, UnavailableError

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0
"""The kubelet renews a projected token at four fifths of its life, which is 10 minutes at least."""
_PLUGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Impersonated:
    """Who the API server takes the calls for; ourselves without a user."""

    user: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """`token` is asked for each call; it is None where the client certificate says who we are."""

    server: str
    context: ssl.SSLContext
    token: Callable[[], str | None]
    namespace: str
    impersonated: Impersonated = Impersonated()


def find(kubeconfig: str = "", context: str = "", impersonated: Impersonated = Impersonated()) -> Access:
    """A given kubeconfig, else the pod's service account, else the user's own kubeconfig. Raises ConfigError.

    A `context` is one of a kubeconfig: with it no service account is used.
    """
    if kubeconfig:
        found = from_kubeconfig(kubeconfig, context)
    elif not context and (ACCOUNT / "token").exists():
        found = from_service_account(os.environ, ACCOUNT)
    else:
        found = _from_files(files.usual(), context)
    return replace(found, impersonated=impersonated) if impersonated.user else found


def from_service_account(environment: Mapping[str, str], folder: pathlib.Path) -> Access:
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError((Fault("KUBERNETES_SERVICE_HOST", "not set, although there is a service account"),), "environment")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    context = _context(str(folder / "ca.crt"), None)
    namespace = _read(folder / "namespace").strip()
    return Access(server, context, _Cached(lambda: _read(folder / "token").strip()), namespace)


def from_kubeconfig(path: str, context: str = "") -> Access:
    """The current context, if no other is named. Raises ConfigError."""
    return _from_files((pathlib.Path(path),), context)


def _from_files(paths: tuple[pathlib.Path, ...], context: str) -> Access:
    chosen = files.choose(paths, context)
    cluster, user = chosen.cluster.values, chosen.user.values
    folder = chosen.user.folder
    try:
        authority = _file(cluster, "certificate-authority", chosen.cluster.folder)
        verified = _context(authority, _data(cluster, "certificate-authority"))
        if cluster.get("insecure-skip-tls-verify"):
            fault = Fault("insecure-skip-tls-verify", "not supported: the API server must be verified")
            raise ConfigError((fault,), chosen.source)
        certificate = _data(user, "client-certificate") or _text(_file(user, "client-certificate", folder))
        if certificate:
            tls.load_pair(verified, certificate, _data(user, "client-key") or _text(_file(user, "client-key", folder)))
        who = Impersonated(str(user.get("as") or ""), tuple(map(str, user.get("as-groups") or ())))
        return Access(cluster["server"].rstrip("/"), verified, _token(user, folder), chosen.namespace, who)
    except (KeyError, TypeError, AttributeError, ssl.SSLError, ValueError) as error:
        raise ConfigError((Fault("", f"not a kubeconfig that can be used: {error!r}"),), chosen.source) from None


def _token(user: Mapping[str, Any], folder: pathlib.Path) -> Callable[[], str | None]:
    if path := _file(user, "tokenFile", folder):
        return _Cached(lambda: _text(path).strip())
    if plugin := user.get("exec"):
        return _Cached(lambda: _ask(plugin))
    return lambda: user.get("token")


def _ask(plugin: Mapping[str, Any]) -> str:
    """A client-go credential plugin, as managed clusters have; only its tokens are supported."""
    environment = {**os.environ, **{entry["name"]: entry["value"] for entry in plugin.get("env") or ()}}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(
        {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    )
    command = [plugin["command"], *(plugin.get("args") or ())]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PLUGIN_SECONDS, check=True)
        return str(json.loads(done.stdout)["status"]["token"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise UnavailableError(f"the credential plugin {command[0]} gave no token: {error}") from None


class _Cached:
    """Asks again once a minute."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._value, self._until = ask, "", float("-inf")

    def __call__(self) -> str:
        now = time.monotonic()
        if now >= self._until:
            self._value, self._until = self._ask(), now + _TOKEN_SECONDS
        return self._value


def _file(entry: Mapping[str, Any], key: str, folder: pathlib.Path) -> str:
    return str(folder / entry[key]) if entry.get(key) else ""


def _data(entry: Mapping[str, Any], key: str) -> str:
    return base64.b64decode(entry.get(f"{key}-data", "")).decode()


def _text(path: str) -> str:
    return _read(pathlib.Path(path)) if path else ""


def _context(file: str, text: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=file or None, cadata=text or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError((Fault("certificate-authority", f"{file}: {error}"),), "Kubernetes") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read(path: pathlib.Path) -> str:
    try:
        return reading.text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((Fault("", str(error)),), str(path)) from None
