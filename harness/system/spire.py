"""The files, directories and commands of SPIRE's server and agent on this machine.

    RUN/spire/server/    root:server 0750   configuration, signing certificate and key, bundle   (read by the server)
    RUN/spire/admin/     root:server 0770   the server's admin socket: nobody else's, as it asks for no other credential
    RUN/spire/agent/     root:agent 0750    configuration, anchors, key pair or token            (read by the agent)
    RUN/workload-api/    root:agent 0775    the Workload API's socket, open to every uid: the entry decides
    STATE/spire/…        root:… 0770        what SPIRE itself keeps; all of it comes back by itself when it is lost

Both programs run without capabilities and read nothing but their folder, so keys that only root may read are copied to RUN, which
is a tmpfs. All of it is root's, given by group: a daemon that joins the group needs neither CAP_CHOWN nor CAP_DAC_OVERRIDE.
A folder of STATE belongs to one trust domain and one signing certificate (or server): what another one left is of no use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from harness import phrases, problems, spire
from harness.errors import UnavailableError, UnreadableError, UnwritableError
from harness.paths import Paths
from harness.problems import Found
from harness.specs import IdentitySpec, SpireAgent, SpireServer, User
from harness.system import files, process, spire_api
from harness.system import spire_certificate as certificates

SERVER, AGENT = "spire-server", "spire-agent"
SPIRE_UMASK = 0o027
"""Both programs set it themselves, and warn when they were started with a weaker one."""
_PROGRAM_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/opt/spire/bin"))
Stamp = tuple[tuple[str, int, int], ...]


class PreparationError(UnavailableError):
    """A program cannot be started as things are; `found` says which known problem that is."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.came, found.hint(), tried=found.tried)
        self.found = found


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a program was given. `begins` and `ends` are of the signing certificate, `file`; `stamp` of the administrator's files.

    `cold`: a server that was started without the entry. An agent gets the entry only when the server has read its database again.
    `anchors`: those that were asked for. `origin`: the server's data and the anchors in use; an agent goes with one of them.
    """

    command: process.Command
    stamp: Stamp
    cold: bool = False
    root: bool = False
    begins: float = 0.0
    ends: float = 0.0
    anchors: str = field(default="", repr=False)
    origin: str = ""
    file: str = ""


class Spire:
    def __init__(self, paths: Paths) -> None:
        self._run, self._state = paths.run / "spire", paths.state / "spire"
        self.admin_socket = self._run / "admin" / "api.sock"
        self._node_pair_made = False
        self._server_data: Path | None = None

    async def prepare_server(self, spec: IdentitySpec, server: SpireServer, wall: float) -> Prepared:
        """Raises PreparationError before anything is changed that a running server uses."""
        program = find_program(server.path, SERVER)
        stamp = stamp_of(spec, SERVER)
        try:
            signing, *rest = chain = certificates.read_pem(certificates.read_file(server.ca_cert, "the signing certificate"))
            key = certificates.read_file(server.ca_key, "the signing key").decode("ascii")
            certificates.check_signing(chain, certificates.read_pem(spec.anchors_pem.encode()), wall)
        except (ValueError, UnavailableError) as error:
            raise PreparationError(_unusable(server, _reason(error))) from None
        if signing.root and not server.allow_root_key:
            raise PreparationError(_unusable(server, f"it {phrases.IS_ROOT}, and a root's key must not be on this machine"))
        folder = _folder(self._run / "server", server.user, 0o750)
        given = {
            "upstream.crt": certificates.to_pem((signing, *(c for c in rest if not c.root))),
            "upstream.key": key,
            "bundle.pem": spec.anchors_pem,
        }
        fresh = {name: folder / f"{name}.new" for name in given}
        for name, text in given.items():
            _give(fresh[name], text, server.user)
        try:
            await asyncio.gather(
                certificates.verify(fresh["upstream.crt"], fresh["bundle.pem"], fresh["upstream.key"], signing.public_key),
                self._make_node_pair(spec.agent.user if spec.agent else server.user),
            )
        except UnavailableError as error:
            raise PreparationError(_unusable(server, error.message)) from None
        for name, path in fresh.items():
            path.replace(folder / name)
        return self._finish_server(spec, server, program, stamp, signing, wall)

    def _finish_server(
        self, spec: IdentitySpec, server: SpireServer, program: str, stamp: Stamp, signing: certificates.Certificate, wall: float
    ) -> Prepared:
        folder, domain = self._run / "server", spec.spiffe_id.trust_domain
        data = self._server_data = self._data("server", server.user, domain.encode() + signing.data)
        _folder(self.admin_socket.parent, server.user, 0o770)
        _give(folder / "node.crt", _made(self._run / "agent" / "node.crt"), server.user)
        cold = not (data / "datastore.sqlite3").exists() or self._entry_made() != _entry_text(spec, data)
        config = spire.Server(
            trust_domain=domain,
            port=spec.agent.server.port if spec.agent else 0,
            socket=self.admin_socket,
            data=data,
            node_certificate=folder / "node.crt",
            certificate=folder / "upstream.crt",
            key=folder / "upstream.key",
            bundle=None if signing.root else folder / "bundle.pem",
            lifetimes=spire.lifetimes(server.svid_ttl, signing.not_after - wall),
        )
        _give(folder / "server.json", spire.server_config(config), server.user)
        command = _command(SERVER, program, folder / "server.json", server.user)
        life = signing.not_before, signing.not_after
        return Prepared(command, stamp, cold, signing.root, *life, spec.anchors_pem, self._origin(), server.ca_cert)

    async def prepare_agent(self, spec: IdentitySpec, agent: SpireAgent) -> Prepared:
        program = find_program(agent.path, AGENT)
        stamp = stamp_of(spec, AGENT)
        folder = _folder(self._run / "agent", agent.user, 0o750)
        given = {"node.crt": agent.certificate_file, "node.key": agent.key_file, "token": agent.join_token_file}
        try:
            for name, source in given.items():
                if source is not None:
                    _give(folder / name, certificates.read_file(source, "the agent's credential").decode("ascii"), agent.user)
        except (UnavailableError, ValueError) as error:
            found = problems.SPIRE_NOT_ATTESTED.found("reading the agent's credential", _reason(error))
            raise PreparationError(found) from None
        local = spec.server is not None
        # What our own server has in use: anchors that it refused would not lead to it.
        anchors = _made(self._run / "server" / "bundle.pem") if local else spec.anchors_pem
        _give(folder / "anchors.pem", anchors, agent.user)
        _folder(Path(spec.socket).parent, agent.user, 0o775)
        if local:
            _own(folder / "node.key", agent.user)
            _own(folder / "node.crt", agent.user)
        token, domain = folder / "token" if agent.join_token_file else None, spec.spiffe_id.trust_domain
        config = spire.Agent(
            trust_domain=domain,
            server=agent.server,
            socket=Path(spec.socket),
            data=self._data("agent", agent.user, (self._origin() if local else f"{domain} {agent.server}").encode()),
            anchors=folder / "anchors.pem",
            certificate=None if token else folder / "node.crt",
            key=None if token else folder / "node.key",
            token=token,
        )
        _give(folder / "agent.json", spire.agent_config(config), agent.user)
        command = _command(AGENT, program, folder / "agent.json", agent.user)
        return Prepared(command, stamp, anchors=spec.anchors_pem, origin=self._origin() if local else "")

    async def make_entry(self, spec: IdentitySpec) -> None:
        """Raises HarnessError. Remembers which entry is in the server's data: the next server starts with it."""
        await asyncio.to_thread(spire_api.ensure_entry, self.admin_socket, spire.Entry(spec.spiffe_id, spec.user.uid))
        if self._server_data is not None and self._server_data.is_dir():
            entry = _entry_text(spec, self._server_data)
            await asyncio.to_thread(files.write, self._state / "entry", entry, mode=0o600, durable=True)

    def _origin(self) -> str:
        """Of an agent's trust: our server's data, and the anchors that it has in use."""
        data = sorted(folder.name for folder in self._state.glob("server-*"))
        return hashlib.sha256(f"{data} {_made(self._run / 'server' / 'bundle.pem')}".encode()).hexdigest()

    def _entry_made(self) -> str:
        """Empty where that is not known: then the entry is made."""
        try:
            return files.text(self._state / "entry") or ""
        except UnreadableError:
            return ""

    def remove(self) -> None:
        """What holds keys and means nothing after a stop."""
        self._node_pair_made = False
        shutil.rmtree(self._run, ignore_errors=True)

    async def _make_node_pair(self, user: User) -> None:
        """One pair for as long as the server that trusts it and the agent that has it, and reads it again each time, are ours."""
        folder = _folder(self._run / "agent", user, 0o750)
        pair = folder / "node.crt", folder / "node.key"
        if not (self._node_pair_made and all(path.exists() for path in pair)):
            await certificates.make_node_pair(*pair)
            self._node_pair_made = True

    def _data(self, name: str, user: User, owner: bytes) -> Path:
        """The folder that SPIRE keeps its data in, made if need be; those of another owner are removed."""
        _folder(self._state, User(0, 0), 0o711)
        wanted = self._state / f"{name}-{hashlib.sha256(owner).hexdigest()[:16]}"
        for other in self._state.glob(f"{name}-*"):
            if other != wanted:
                shutil.rmtree(other, ignore_errors=True)
        return _folder(wanted, user, 0o770)


def stamp_of(spec: IdentitySpec, program: str) -> Stamp:
    """Changes when one of the administrator's files for `program` was replaced."""
    server, agent = spec.server, spec.agent
    names = [server.ca_cert, server.ca_key] if program == SERVER and server else []
    if program == AGENT and agent:
        names = [name for name in (agent.join_token_file, agent.certificate_file, agent.key_file) if name]
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            status = Path(name).stat()
            found.append((name, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def _entry_text(spec: IdentitySpec, data: Path) -> str:
    return f"{data.name} {spec.spiffe_id} {spec.user.uid}\n"


def places(configured: str | None, name: str) -> tuple[Path, ...]:
    """Where `find_program` looks."""
    return (Path(configured),) if configured else tuple(Path(folder, name) for folder in _PROGRAM_PATH.split(":"))


def path_key(name: str) -> str:
    """The key of the configuration that says where the program is."""
    return f"identity.spire.{name.removeprefix('spire-')}_path"


def find_program(configured: str | None, name: str) -> str:
    """Raises PreparationError when it is not there."""
    found = configured or shutil.which(name, path=_PROGRAM_PATH)
    if found is None or not os.access(found, os.X_OK):
        where = configured or f"{name} in {_PROGRAM_PATH}"
        came = f"there is {phrases.NO_PROGRAM}"
        raise PreparationError(problems.SPIRE_FAILING.found(f"looking for {where}", came, key=path_key(name)))
    return found


def _command(name: str, program: str, config: Path, user: User) -> process.Command:
    return process.Command(name, (program, "run", "-config", str(config)), user=user, piped=True, umask=SPIRE_UMASK)


def _folder(path: Path, user: User, mode: int) -> Path:
    """Root's folder, which the user's group has the middle digit of `mode` in."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        unwritable = UnwritableError(path, error, "made")
        raise PreparationError(problems.of_failure(f"making {path}", unwritable)) from None
    _own(path, user, mode)
    return path


def _made(path: Path) -> str:
    """What an earlier step has put there."""
    try:
        return files.bounded(path).decode("ascii")
    except (UnavailableError, ValueError) as error:
        raise PreparationError(_failing(f"reading {path}", _reason(error))) from None


def _give(path: Path, text: str, reader: User) -> None:
    """Root's file, which the reader's group may read."""
    try:
        files.write(path, text, mode=0o600)
    except UnwritableError as error:
        raise PreparationError(problems.of_failure(f"giving {path.name} to SPIRE", error)) from None
    _own(path, reader)


def _own(path: Path, reader: User, mode: int = 0o640) -> None:
    try:
        if reader.gid not in (groups := os.getgroups()):
            os.setgroups((*groups, reader.gid))
        os.chown(path, -1, reader.gid)
        path.chmod(mode)
    except OSError as error:
        raise PreparationError(_failing(f"giving {path} to its reader", str(error.strerror))) from None


def _unusable(server: SpireServer, came: str) -> Found:
    return problems.IDENTITY_CA_UNUSABLE.found(f"signing under {server.ca_cert}", came, file=server.ca_cert)


def _failing(tried: str, came: str) -> Found:
    return problems.SPIRE_FAILING.found(tried, came, key="identity.spire")


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, UnavailableError) else f"it is not PEM: {error}"
