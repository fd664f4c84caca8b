"""`meshexp join FILE|-|URL`: from an invitation to a ready member; checks first, and takes everything back on a failure."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from harness import paths, phrases, reading, status_cli, times
from harness.arguments import output, seconds
from harness.errors import HarnessError, TemporaryError, UnavailableError, UsageError
from harness.paths import Paths

WAIT_SECONDS = 120.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "join",
        help="make this machine a member, by an invitation; on a failure everything is as before",
        description="Checks this machine, writes the configuration, starts the harness, and waits until it is ready.",
    )
    verb.add_argument("source", metavar="FILE|-|URL", help="the invitation: a file, standard input, or https://…")
    verb.add_argument(
        "--proxy", metavar="FILE|REFERENCE", help="take linkerd2-proxy from there, if there is none on this machine"
    )
    verb.add_argument("--spire", metavar="FILE", help="take SPIRE's programs out of its release archive, if there are none")
    verb.add_argument("--force", action="store_true", help="over a configuration of other content; a failure brings that back")
    verb.add_argument("--wait", type=seconds, default=WAIT_SECONDS, metavar="SECONDS", help="for readiness (default %(default)g)")
    output(verb)
    return verb


def run(options: argparse.Namespace) -> int:
    from harness.steps import Steps
    from harness.system import privileges

    privileges.root("join")
    steps, undo, join = Steps(options.output), Undo(), Join(paths.from_environment(), options)
    with _interruptible():
        try:
            facts = join.all(steps, undo)
        except (HarnessError, KeyboardInterrupt) as error:
            failure = error if isinstance(error, HarnessError) else TemporaryError("interrupted")
            for name, back in undo.back():
                with contextlib.suppress(HarnessError), steps.step(f"undo: {name}"):
                    back()
            steps.finish(failure, joined=False)
            if options.output == "json":
                return failure.exit_code
            raise failure from None
    steps.finish(**facts)
    return 0 if facts["ready"] or not facts["started"] else 1


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM is taken back as Ctrl-C is."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Undo:
    """What takes back each thing that was done, the last first."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, name: str, back: Callable[[], object]) -> None:
        self._steps.append((name, back))

    def forget(self) -> None:
        self._steps.clear()

    def back(self) -> Iterator[tuple[str, Callable[[], object]]]:
        while self._steps:
            yield self._steps.pop()


class Join:
    def __init__(self, where: Paths, options: argparse.Namespace) -> None:
        self._paths, self._options = where, options

    def all(self, steps: Any, undo: Undo) -> dict[str, Any]:
        """What is so at the end, for programs."""
        from harness import joining
        from harness.join_start import Service, try_from_outside, wait_ready
        from harness.steps import Step

        with steps.step("read the invitation") as step:
            invitation = joining.parse(read(self._options.source), _shown(self._options.source))
            self._check_invitation(invitation)
            left = times.span(invitation.expires - time.time())
            step.message = f"{invitation.namespace}/{invitation.group} as {invitation.spiffe_id}, good for {left}"
        placed = joining.files(invitation, self._paths)
        with steps.step("see what is configured already"):
            self._check_present(invitation, placed)
        if self._options.proxy:
            with steps.step("install the proxy") as step:
                step.message = self._install_proxy(undo)
        if self._options.spire:
            with steps.step("install SPIRE") as step:
                step.message = self._install_spire(undo)
        with steps.step("check this machine") as step:
            step.message = self._check_machine(invitation)
        service = Service.find(self._paths)
        changed = [one for one in placed if not _holds(one)]
        with steps.step("write the configuration") as step:
            service.prepare(undo, bool(changed))
            self._write(changed, undo)
            step.message = f"{phrases.counted(len(changed), 'file')} in {self._paths.config}" if changed else "as it is already"
        with steps.step("start the harness") as step:
            started = step.message = service.start(undo)
        facts: dict[str, Any] = {"joined": True, "started": bool(started), "ready": False}
        if not started:
            which = f" --instance {self._paths.instance}" if self._paths.instance else ""
            how = f"nothing here starts programs: run `meshexp run{which}`, or make it the container's entry point"
            steps.add(Step("to be started by you", "warning", 0.0, how))
            return facts
        facts["ready"] = wait_ready(self._paths, service, steps, self._options.wait)
        undo.forget()  # it is a member: what follows only tells more
        try_from_outside(self._paths, steps)
        return facts | {"workload": status_cli.read(self._paths).get("workload")}

    def _check_invitation(self, invitation: Any) -> None:
        if invitation.expires <= time.time():
            raise UsageError("the invitation has expired", "is the clock right? `timedatectl`; if so, ask for a new one")

    def _check_present(self, invitation: Any, placed: Any) -> None:
        """Raises UsageError when something else is configured, unless --force is given and helps."""
        from harness import joining
        from harness.config import load

        wanted = joining.settings(invitation, self._paths)
        with self._staged() as bare:
            layers, faults = load.sources(bare, os.environ)
        if faults:
            raise UsageError(f"the configuration that is there cannot be read: {faults[0]}", "correct or remove it first")
        other = [f"{key} in {layers.origin(key)}" for key in joining.differences(wanted, layers.values)]
        other += [str(one.path) for one in placed if one.path.exists() and not _holds(one)]
        if other and not self._options.force:
            text = (
                f"this machine is configured otherwise already: {', '.join(other).replace(str(bare.config), 'the configuration')}"
            )
            raise UsageError(text, "--force puts the invitation in its place; `meshexp leave --purge` removes what a join set")

    def _install_proxy(self, undo: Undo) -> str:
        from harness import cli
        from harness.join_start import new_below
        from harness.system.proxy_store import Store

        store = Store(self._paths.proxy_versions)
        if store.in_use() is not None:
            return f"{store.in_use()} is there already"
        undo.add("remove the proxy", new_below(self._paths.proxy_versions))
        options = cli.parser("proxy").parse_args(["proxy", "install", "--from", self._options.proxy])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            options.function(options)
        return said.getvalue().partition("\n")[0]

    def _install_spire(self, undo: Undo) -> str:
        from harness.join_start import new_below
        from harness.system import spire, spire_archive

        try:
            there = [spire.find_program(None, name) for name in (spire.SERVER, spire.AGENT)]
            return f"{', '.join(there)} are there already"
        except UnavailableError:
            for folder in (spire_archive.FOLDER.parent, spire_archive.FOLDER):
                undo.add(f"what is new in {folder}", new_below(folder))
            return ", ".join(map(str, spire_archive.install(Path(self._options.spire))))

    def _check_machine(self, invitation: Any) -> str:
        """What `meshexp check --pre` says of the machine as it would be. Raises UnavailableError when a check fails."""
        from harness import check_cli, joining
        from harness.check import report
        from harness.check.run import Scope
        from harness.config import load
        from harness.problems import CONTROLLER_UNREACHABLE

        with self._staged(invitation) as staged:
            layers, _ = load.sources(staged, os.environ)
            if over := joining.differences(joining.settings(invitation, staged), layers.values):
                said = ", ".join(
                    f"{key} ({layers.origin(key).replace(str(staged.config), str(self._paths.config))})" for key in over
                )
                raise UsageError(f"other values override the invitation's: {said}", "take them away first")
            results = check_cli.look(staged, Scope.PRE)
        passed = sum(result.outcome is report.Outcome.PASSED for result in results)
        skipped = sum(result.outcome is report.Outcome.SKIPPED for result in results)
        wrong = [result for result in results if result.problem is not None]
        lines = [f"{r.problem.code}: {r.reason} ({r.problem.hint})" for r in wrong if r.problem is not None]
        # The staged folder is gone when somebody reads this.
        lines = [line.replace(str(staged.config), str(self._paths.config)) for line in lines]
        # The controller may come any time: the join waits for it, within --wait.
        if not report.success(r for r in results if r.problem is None or r.problem.code != CONTROLLER_UNREACHABLE.code):
            raise UnavailableError(
                "\n  ".join([f"not passed: {len(wrong)} of {phrases.counted(len(results), 'check')}", *lines]),
                "nothing was changed",
            )
        counted = phrases.counted(passed, "check passes", "checks pass") + (f", {skipped} skipped" if skipped else "")
        return "; ".join([counted, *lines])

    @contextlib.contextmanager
    def _staged(self, invitation: Any = None) -> Iterator[Paths]:
        """The configuration as it is, and as an invitation makes it, in a folder of root's alone that goes again."""
        from harness import joining
        from harness.system import files

        with tempfile.TemporaryDirectory(prefix="meshexp-join-", dir="/run" if Path("/run").is_dir() else None) as folder:
            staged = replace(self._paths, config=Path(folder), machine=self._paths.first)
            for file in (self._paths.harness_yaml, *self._paths.drop_ins.glob("*.yaml")):
                if file.exists() and file != self._paths.joined:
                    files.write(staged.config / file.relative_to(self._paths.config), reading.text(file), mode=0o600)
            for one in joining.files(invitation, staged) if invitation is not None else ():
                files.write(one.path, one.text, mode=one.mode)
            yield staged

    def _write(self, changed: list[Any], undo: Undo) -> None:
        from harness.system import files

        for one in changed:
            undo.add(f"{one.path}", _restore(one.path))
            files.write(one.path, one.text, mode=one.mode, durable=True)


def read(source: str) -> str:
    """Raises UnavailableError or UsageError."""
    if source == "-":
        return _text(sys.stdin.buffer, source)
    if "://" in source:
        from harness.system import https

        return https.fetch(source)
    try:
        with Path(source).open("rb") as file:
            return _text(file, source)
    except OSError as error:
        raise UnavailableError(f"{source} cannot be read: {error.strerror}") from None


def _text(file: BinaryIO, source: str) -> str:
    try:
        return reading.whole(file).decode("utf-8")
    except OSError as error:
        raise UnavailableError(f"{_shown(source)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{_shown(source)} is no invitation") from None


def _shown(source: str) -> str:
    return "standard input" if source == "-" else source.partition("://")[0] + "://…" if "://" in source else source


def _holds(one: Any) -> bool:
    try:
        return bool(reading.text(one.path) == one.text and one.path.stat().st_mode & 0o777 == one.mode)
    except (OSError, UnicodeDecodeError):
        return False


def _restore(path: Path) -> Callable[[], None]:
    """Makes the file, and the folders above it, what they are now."""
    from harness.system import files

    there = path.exists()
    text, mode = (reading.text(path), path.stat().st_mode & 0o777) if there else ("", 0)
    fresh = [folder for folder in path.parents if not folder.exists()]

    def back() -> None:
        if there:
            files.write(path, text, mode=mode, durable=True)
            return
        path.unlink(missing_ok=True)
        for folder in fresh:
            with contextlib.suppress(OSError):
                folder.rmdir()

    return back
