"""Where things are on the machine. systemd, a container or a test may move them by environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import reading
from harness.errors import UnreadableError, UsageError

INSTANCE = "MESHEXP_INSTANCE"
"""The variable that says which of the machine's workloads is meant, as `--instance` does."""
LOCK = "harness.lock"
"""In the run directory, next to the status: held by the daemon that runs."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,9}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Whether an instance can be called that."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Paths:
    """Of one workload: of the machine's first, or of the further one that `instance` names; `machine` is then the first's."""

    config: Path = Path("/etc/meshexp")
    state: Path = Path("/var/lib/meshexp")
    run: Path = Path("/run/meshexp")
    resolv_conf: Path = Path("/etc/resolv.conf")
    instance: str = ""
    machine: Paths | None = None

    @property
    def first(self) -> Paths:
        return self.machine or self

    def of(self, instance: str) -> Paths:
        """Of another workload of this machine. Raises UsageError for what cannot be the name of one.

        The run directory is next to the first's and not below it: systemd removes that when the first stops.
        """
        first = self.first
        if not instance:
            return first
        if not is_name(instance):
            hint = "a-z, 0-9 and dash, at most 11 characters: it becomes part of the name of an iptables chain"
            raise UsageError(f"{instance!r} cannot be the name of an instance", hint)
        below = Path("instances") / instance
        run = first.run.with_name(f"{first.run.name}-{instance}")
        return Paths(first.config / below, first.state / below, run, first.resolv_conf, instance, first)

    @property
    def title(self) -> str:
        return f"the workload {self.instance!r}" if self.instance else "the machine's first workload"

    @property
    def harness_yaml(self) -> Path:
        return self.config / "harness.yaml"

    @property
    def drop_ins(self) -> Path:
        return self.config / "harness.d"

    @property
    def joined(self) -> Path:
        """What `meshexp join` sets, as a drop-in: a file with a later name wins over it."""
        return self.drop_ins / "50-join.yaml"

    @property
    def invitation(self) -> Path:
        """The token that lets this machine in, 0600; shown at its first registration."""
        return self.config / "invitation"

    @property
    def cordon(self) -> Path:
        """Why an operator keeps traffic away, over restarts and reboots; not there when nobody does."""
        return self.state / "cordon.json"

    @property
    def instance_id(self) -> Path:
        return self.state / "instance-id"

    @property
    def registration(self) -> Path:
        """Name and secret of this machine's registration, 0600."""
        return self.state / "registration.json"

    @property
    def anchors(self) -> Path:
        """The trust anchors that the controller has told, and that were proven; not there where the file alone counts."""
        return self.state / "trust-anchors.json"

    @property
    def proxy_versions(self) -> Path:
        """The installed versions of linkerd2-proxy, and links to the one in use and the one before: the machine's."""
        return self.first.state / "proxy"

    @property
    def redirect_lock(self) -> Path:
        """Held over a change of rules, whichever workload's."""
        return self.first.run / "redirect.lock"

    @property
    def lock(self) -> Path:
        return self.run / LOCK

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def known_registration(self) -> Path:
        """What the controller last told, without the secret: for `meshexp plan`."""
        return self.run / "registration.json"

    @property
    def in_force(self) -> Path:
        """The configuration that a member has in force, 0600: it goes on with it after a restart while the files are wrong."""
        return self.state / "configuration.json"

    @property
    def member(self) -> Path:
        """This machine is a member that must send the mesh no plaintext: a start holds that until the proxy serves."""
        return self.state / "member.json"

    @property
    def proxy(self) -> Path:
        """What the running proxy was started with, for the daemon that adopts it."""
        return self.run / "proxy.json"

    @property
    def dnsmasq(self) -> Path:
        """Configuration of the dnsmasq that splits the machine's DNS where systemd-resolved does not."""
        return self.run / "dnsmasq.conf"

    @property
    def bug(self) -> Path:
        """The bug that ended the daemon before this one; not there when it ended well."""
        return self.run / "bug.json"

    @property
    def children(self) -> Path:
        """One record per child, so that `cleanup` finds orphans by pid and start time."""
        return self.run / "children"

    @property
    def workload_api(self) -> Path:
        """The socket of a Workload API that the harness itself runs."""
        return self.run / "workload-api" / "api.sock"


def from_environment(environ: Mapping[str, str] = os.environ) -> Paths:
    default = Paths()
    return Paths(
        config=Path(environ.get("MESHEXP_CONFIG_DIR", default.config)),
        state=Path(environ.get("MESHEXP_STATE_DIR", default.state)),
        run=Path(environ.get("MESHEXP_RUN_DIR", default.run)),
        resolv_conf=Path(environ.get("MESHEXP_RESOLV_CONF", default.resolv_conf)),
    ).of(environ.get(INSTANCE, ""))


def configured(paths: Paths) -> tuple[Paths, ...]:
    """The machine's first workload, configured or not, and every other of which there is a configuration, sorted.

    Also those whose folder is closed: what runs of them has its own files elsewhere. Where this user may not see which there are,
    the first alone: a verb that needs the others says so, since it reads the first too.
    """
    found = workloads(paths)
    first, *others = found.readable
    return (first, *sorted((*others, *found.closed), key=lambda where: where.instance))


@dataclass(frozen=True, slots=True)
class Workloads:
    """`readable`: the first, and every other of which there is a configuration. `closed`: nobody knows whether a workload is
    configured there. `errors`: which folders cannot be read."""

    readable: tuple[Paths, ...]
    closed: tuple[Paths, ...] = ()
    errors: tuple[UnreadableError, ...] = ()


def workloads(paths: Paths) -> Workloads:
    """Where no folder can be seen, those that have a run directory count as closed."""
    first = paths.first
    there = [first]
    closed = []
    errors = []
    try:
        folders = matches(first.config / "instances", "*")
    except UnreadableError as error:
        return Workloads((first,), with_run_directory(first), (error,))
    for name in (folder.name for folder in folders if is_name(folder.name)):
        where = first.of(name)
        try:
            if matches(where.config, "harness.*"):
                there.append(where)
        except UnreadableError as error:
            closed.append(where)
            errors.append(error)
    return Workloads(tuple(there), tuple(closed), tuple(errors))


def with_run_directory(paths: Paths) -> tuple[Paths, ...]:
    """The machine's further workloads that a daemon has run of since the boot, sorted."""
    run = paths.first.run
    names = {lock.parent.name.removeprefix(f"{run.name}-") for lock in run.parent.glob(f"{run.name}-*/*.lock")}
    return tuple(paths.of(name) for name in sorted(names) if is_name(name))


def matches(folder: Path, pattern: str) -> tuple[Path, ...]:
    """Sorted. None in a folder that a user other than root may not look into (denied.to_this_user says so).

    Raises UnreadableError for root, to whom it happens for other reasons.
    """
    try:
        return reading.matches(folder, pattern)
    except OSError as error:
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            return ()
        raise UnreadableError(folder, error) from None
