"""`meshexp proxy install|list|use|rollback|remove`: the versions of linkerd2-proxy on this machine."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import Any

from harness import paths, proxy_release, terminal
from harness.arguments import output, verbs
from harness.errors import UnavailableError, UsageError
from harness.terminal import Answer

RESTART_SECONDS = 90.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "proxy", help="install, list and choose versions of the Linkerd proxy", description="The Linkerd proxy's versions."
    )
    what = verb.add_subparsers(dest="what", metavar="WHAT", required=True)
    install = what.add_parser("install", help="take linkerd2-proxy out of Linkerd's proxy image; no Docker needed")
    install.add_argument(
        "--from",
        dest="source",
        metavar="FILE|REFERENCE",
        required=True,
        help="the binary, an image archive, or REGISTRY/NAME:TAG",
    )
    install.add_argument("--digest", metavar="sha256:…", help="of the file, or of the image's manifest or index")
    install.add_argument("--signature", metavar="FILE", help="detached, or from `cosign download signature`; needs --key")
    install.add_argument("--key", metavar="FILE", help="the signer's public key: ECDSA P-256, PEM")
    install.add_argument("--version", metavar="VERSION", help="for a binary that does not tell its own")
    install.add_argument("--insecure-registry", action="store_true", help="ask the registry by plain http")
    what.add_parser("list", help="what is installed, and which is in use")
    for name, text in (("use", "choose the version that the daemon starts"), ("remove", "delete a version that is not in use")):
        what.add_parser(name, help=text).add_argument("version", metavar="VERSION")
    what.add_parser("restart", help="start the proxy again, when its peers have stopped sending; the only way to do so by hand")
    what.add_parser("rollback", help="use the version that was used before; twice is back again")
    for below in verbs(verb).values():
        output(below)
    return verb


def run(options: argparse.Namespace) -> int:
    from harness.system import privileges
    from harness.system.proxy_store import Store

    store = Store(paths.from_environment().proxy_versions)
    if options.what == "list":
        return _list(store, options)
    privileges.root(f"proxy {options.what}")
    if options.what == "restart":
        return _restart(paths.from_environment(), Answer(options.output))
    chosen = {"install": _install, "use": _use, "rollback": _rollback, "remove": _remove}
    return chosen[options.what](store, options)


def _install(store: Any, options: argparse.Namespace) -> int:
    from harness.system import oci, proxy_binary, proxy_signature, proxy_source, proxy_store

    if (options.signature is None) != (options.key is None):
        raise UsageError("--signature and --key belong together")
    told = _release(options.version) if options.version else None
    with store.stage() as folder, proxy_source.opened(options.source, options.insecure_registry) as source:
        # Both before anything large is read, and long before the binary is run.
        if options.digest and options.digest not in source.digests:
            found = " or ".join(source.digests)
            raise oci.IntegrityError(f"{source.name} is {found}, not {options.digest}", "nothing was installed")
        if options.signature:
            proxy_signature.verify(source.digests, Path(options.signature), Path(options.key))
        binary = folder / proxy_store.BINARY
        with binary.open("wb") as file:
            source.copy(file)
        proxy_binary.check_architecture(binary)
        proxy_store.open_to_all(folder)
        release = proxy_binary.release_of(binary) or told
        if release is None:
            raise UnavailableError("the binary does not tell its version", "is it linkerd2-proxy? if so, give --version")
        if told is not None and told != release:
            raise UsageError(f"the binary says that it is {release}, not {told}")
        proxy_release.check(release)
        fresh = store.commit(folder, release, source.name)
    answer = Answer(options.output)
    answer.say(f"linkerd2-proxy {release} {'is installed' if fresh else 'was installed already'}")
    return _end(store, release, answer)


def _end(store: Any, release: proxy_release.Release, answer: Answer) -> int:
    """With the next step."""
    chosen = bool(store.in_use() == store.binary(release))
    next_step = "it is in use from the proxy's next start: `meshexp proxy restart`"
    answer.say(next_step if chosen else f"to use it: meshexp proxy use {release}")
    return answer.end(0, version=str(release), current=chosen)


def _list(store: Any, options: argparse.Namespace) -> int:
    entries = store.installed()
    if options.output == "json":
        names = ("current", "previous", "origin", "sha256")
        rows = [{"version": str(entry.release)} | {name: getattr(entry, name) for name in names} for entry in entries]
        terminal.say_json(rows)
        return 0
    if not entries:
        terminal.say("none is installed; next: `meshexp proxy install --from FILE|REFERENCE`")
    for entry in entries:
        mark = "current" if entry.current else "previous" if entry.previous else ""
        bad = f"  {found.code}" if (found := proxy_release.problem(entry.release)) else ""
        terminal.say(f"{entry.release!s:<12} {mark:<8}  {entry.origin}{bad}", 23)
    return 0


def _use(store: Any, options: argparse.Namespace) -> int:
    release = _release(options.version)
    proxy_release.check(release)
    store.use(release)
    return _end(store, release, Answer(options.output))


def _rollback(store: Any, options: argparse.Namespace) -> int:
    release = store.rollback()
    answer = Answer(options.output)
    answer.say(f"back to {release}")
    return _end(store, release, answer)


def _remove(store: Any, options: argparse.Namespace) -> int:
    release = _release(options.version)
    store.remove(release)
    answer = Answer(options.output)
    answer.say(f"{release} is removed")
    return answer.end(0, version=str(release))


def _release(text: str) -> proxy_release.Release:
    try:
        return proxy_release.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _restart(where: paths.Paths, answer: Answer) -> int:
    """Asks the daemon, and waits until another process is the proxy and has its certificate."""
    from harness import status_cli
    from harness.status import Phase
    from harness.system import procfs

    before = status_cli.read(where)
    if "children" not in before or before["phase"] == Phase.UNKNOWN.text:
        raise UnavailableError(before["message"], "the daemon starts the proxy: it must run first")
    if not procfs.of_status(before).send(signal.SIGUSR1):
        raise UnavailableError(f"the daemon (pid {before['pid']}) has ended meanwhile", "`meshexp logs` says why")
    deadline = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        now = status_cli.read(where)
        pid = now.get("children", {}).get("proxy", {}).get("pid")
        if pid and pid != before["children"]["proxy"]["pid"] and now.get("phase") == "Ready":
            answer.say(f"the proxy runs again (pid {pid})")
            return answer.end(0, pid=pid)
        time.sleep(0.1)
    raise UnavailableError(f"the proxy is not back after {RESTART_SECONDS:.0f} s", "`meshexp status` says why")
