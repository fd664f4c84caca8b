"""What a configuration needs of this machine: users, files and programs, looked at before it takes force. Every fault at once."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness import denied
from harness.config import load, schema
from harness.errors import ConfigError, Fault, HarnessError
from harness.paths import Paths
from harness.system import files, process, spire_certificate

ROOT = 0
ANCHORS = "controller.trust_anchors"
_ANCHORS_HINT = "copy Linkerd's trust anchors there: the ca-bundle.crt of its ConfigMap linkerd-identity-trust-roots"


class MissingError(ConfigError):
    """The configuration itself is right, but this machine lacks something that it needs."""

    def __init__(self, faults: tuple[Fault, ...], config: schema.Config) -> None:
        super().__init__(faults, "what the configuration needs of this machine")
        self.config = config


def lacking(config: schema.Config, environ: Mapping[str, str]) -> MissingError | None:
    """What this machine still lacks; no file of the configuration is read for it."""
    found = faults(config, environ)
    return MissingError(found, config) if found else None


def configuration(paths: Paths, environ: Mapping[str, str], *, new: bool = False) -> tuple[schema.Config, dict[str, Any]]:
    """The configuration, and its values as they were written. Blocking. Raises ConfigError with every fault.

    `new`: also looks at files and programs without which a member could not go on as before. At a start they are not looked at:
    the machine joins as far as it can, and its status names what is missing.
    """
    try:
        config, layers = load.load_with_origins(paths, environ)
    except load.WrongError as error:
        more = error.further(_all_faults(error.rest, environ, new=new)) if error.rest else ()
        raise ConfigError((*error.faults, *more), error.tried) from None
    if found := _all_faults(config, environ, new=new):
        raise MissingError(found, config)
    return config, layers.values


def _all_faults(config: schema.Config, environ: Mapping[str, str], *, new: bool) -> tuple[Fault, ...]:
    return (*faults(config, environ), *(_new_faults(config) if new else ()))


def faults(config: schema.Config, environ: Mapping[str, str], *, anchors: bool = True) -> tuple[Fault, ...]:
    """What no start can do without. `anchors`: whether their file is looked at."""
    found = [*_demo_only(config, environ), *_users(config)]
    if anchors:
        found += _fault(ANCHORS, partial(read_anchors, config.controller.trust_anchors))
    return tuple(found)


def read_anchors(path: str) -> str:
    """Raises ConfigError for a file that cannot be read, or that has no certificate which OpenSSL takes."""
    try:
        text = files.bounded(Path(path)).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except HarnessError as error:
        raise ConfigError((Fault(ANCHORS, error.message, _ANCHORS_HINT),)) from None
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        raise ConfigError((Fault(ANCHORS, f"{path} has no usable PEM certificate: {reason}", _ANCHORS_HINT),)) from None
    return text


def _demo_only(config: schema.Config, environ: Mapping[str, str]) -> Iterator[Fault]:
    """Mode embedded keeps a CA key on this machine: only in a demo, or when forced."""
    embedded = config.identity.mode is schema.IdentityMode.EMBEDDED
    if embedded and not config.identity.embedded.force and environ.get("MESHEXP_DEMO") != "1":
        text = "embedded is for demos: it keeps a CA key on this machine"
        yield Fault("identity.mode", text, "or set identity.embedded.force: true")


def _users(config: schema.Config) -> Iterator[Fault]:
    """The proxy's, those that must be others than that, and those whose connections are the workload's."""
    proxy: int | None = None
    try:
        proxy = process.find_user(config.proxy.user).uid
    except ConfigError as error:
        yield from error.faults
    if proxy == ROOT:
        yield Fault("proxy.user", "the proxy must not run as root", "every root process would bypass the mesh")
    for key, name in _apart(config):
        try:
            uid = process.find_user(name, key).uid
        except ConfigError as error:
            yield from error.faults
        else:
            if uid in (ROOT, proxy):
                yield Fault(key, "must be neither root nor the proxy's user")
    for index, name in enumerate(config.workload.users):
        key = f"workload.users[{index}]"
        yield from _fault(key, partial(process.find_user, name, key))


def _apart(config: schema.Config) -> Iterator[tuple[str, str]]:
    mode, programs = config.identity.mode, config.identity.spire
    if mode is schema.IdentityMode.LOCAL:
        yield "identity.spire.server_user", programs.server_user
    if mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT):
        yield "identity.spire.agent_user", programs.agent_user
    if config.probes.commands:
        yield "probes.user", config.probes.user


def _new_faults(config: schema.Config) -> Iterator[Fault]:
    certificates, keys, programs = _files(config)
    skipped = dict(denied_to_us(config))
    for key, path in certificates.items():
        if key not in skipped:
            yield from _fault(key, partial(_look_at_certificate, path))
    for key, path in keys.items():
        if key not in skipped:
            yield from _fault(key, partial(_look_at_key, path))
    for key, path in programs.items():
        if key not in skipped and not _is_program(Path(path)):
            yield Fault(key, f"{path} is no program on this machine", "give the full path of a file that may be executed")


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:  # such as a name that is too long
        return False


def denied_to_us(config: schema.Config) -> tuple[tuple[str, str], ...]:
    """The files, each with its key, that a user other than root may not look at: nothing is known of them."""
    found = {key: path for paths in _files(config) for key, path in paths.items()}
    unreadable = denied.to_this_user(map(Path, found.values()))
    return tuple((key, path) for key, path in found.items() if Path(path) in unreadable)


def _files(config: schema.Config) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Certificates, keys and programs that the configuration names, by their keys there."""
    identity, mode = config.identity, config.identity.mode
    certificates: dict[str, str | None] = {}
    keys: dict[str, str | None] = {}
    programs: dict[str, str | None] = {"proxy.path": config.proxy.path}
    programs |= {f"probes.commands.{name}": argv[0] for name, argv in config.probes.commands.items()}
    if mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT):
        programs["identity.spire.agent_path"] = identity.spire.agent_path
    if mode is schema.IdentityMode.LOCAL:
        programs["identity.spire.server_path"] = identity.spire.server_path
        certificates["identity.local.ca_cert"] = identity.local.ca_cert
        keys["identity.local.ca_key"] = identity.local.ca_key
    if mode is schema.IdentityMode.EMBEDDED:
        certificates["identity.embedded.ca_cert"] = identity.embedded.ca_cert
        keys["identity.embedded.ca_key"] = identity.embedded.ca_key
    if mode is schema.IdentityMode.AGENT:  # a join token works once: its file may have gone
        certificates["identity.agent.certificate_file"] = identity.agent.certificate_file
        keys["identity.agent.key_file"] = identity.agent.key_file
    return _given(certificates), _given(keys), _given(programs)


def _given(files_: Mapping[str, str | None]) -> dict[str, str]:
    return {key: path for key, path in files_.items() if path}


def _look_at_certificate(path: str) -> None:
    spire_certificate.read_pem(files.bounded(Path(path)))


def _look_at_key(path: str) -> None:
    if b"PRIVATE KEY-----" not in files.bounded(Path(path)):
        raise ValueError("there is no private key in the file")


def _fault(key: str, look: Callable[[], object]) -> Iterator[Fault]:
    """What `look` raises, as a fault under `key`; the faults of a ConfigError have keys of their own."""
    try:
        look()
    except ConfigError as error:
        yield from error.faults
    except HarnessError as error:
        yield Fault(key, error.message)
    except ValueError as error:
        yield Fault(key, str(error))
