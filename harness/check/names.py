"""DNS: the names by which this machine and its proxy find the control plane, A or AAAA and SRV, asked of each name server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.system import dns_query
from harness.system.dns_query import Answer, Kind
from harness.values import HostPort, IPAddress

NAME = "meshexp-dns"
SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Name:
    """`error`: why the system's resolver, with all its rules, does not resolve it; empty when it does.

    `answers`: of each name server, to A and to SRV.
    """

    name: str
    srv: bool
    error: str
    answers: tuple[tuple[IPAddress, Answer, Answer], ...]

    @property
    def resolved(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class Facts:
    """`names`: all in the configuration and in what the controller told; none where these have only addresses."""

    names: tuple[Name, ...] = ()


async def gather(context: Context) -> Facts:
    linkerd = [found[0] for found in (context.destination, context.policy) if found is not None]
    wanted = {context.config.controller.address.host: False} | {endpoint.host: True for endpoint in linkerd}
    names = {host: srv for host, srv in wanted.items() if HostPort(host, 1).ip is None}
    servers = dns_query.name_servers() if names else ()
    return Facts(tuple(await asyncio.gather(*(_look(name, srv, servers) for name, srv in names.items()))))


async def _look(name: str, srv: bool, servers: tuple[IPAddress, ...]) -> Name:
    async def both(server: IPAddress) -> tuple[IPAddress, Answer, Answer]:
        a, found = await asyncio.gather(
            dns_query.ask(server, name, Kind.A, SECONDS), dns_query.ask(server, name, Kind.SRV, SECONDS)
        )
        return server, a, found

    error, answers = await asyncio.gather(_unresolved(name), asyncio.gather(*map(both, servers)))
    return Name(name, srv, error, tuple(answers))


async def _unresolved(name: str) -> str:
    """Why it does not resolve; empty when it does."""
    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        return str(error) or f"no answer within {SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        return str(error)
    return ""


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    if not facts.names:
        return  # only addresses: DNS is not needed
    to = Judge(NAME)
    asked = {server for name in facts.names for server, _, _ in name.answers}
    silent = {server: a for name in facts.names for server, a, srv in name.answers if a.code is None and srv.code is None}
    reasons = [f"{server} does not answer ({a.error})" for server, a in sorted(silent.items(), key=str)]
    yield to.found("the name servers answer", problems.DNS_SILENT, reasons, tried=bool(asked), why="no name server was asked")
    for name in facts.names:
        if silent.keys() == asked and not name.resolved:
            yield to.skipped(f"{name.name} resolves", "no name server answers")
            continue
        reasons = [] if name.resolved else [f"{name.name} does not resolve: {name.error} ({_told(name)})"]
        yield to.found(f"{name.name} resolves", problems.DNS_UNRESOLVED, reasons, tried=True)
        if name.srv and name.resolved:
            yield _judge_srv(to, name)


def _judge_srv(to: Judge, name: Name) -> Result:
    answers = [srv for _, _, srv in name.answers if srv.code is not None]
    none = bool(answers) and not any(srv.records for srv in answers)
    reasons = [f"no name server has one for {name.name}"] if none else []
    text = f"{name.name} has SRV records"
    return to.found(text, problems.DNS_NO_SRV, reasons, tried=bool(answers), why="no name server answers")


_CODES = {0: "no records", 2: "a failure of the server", 3: "no such name", 5: "refused"}


def _told(name: Name) -> str:
    said = (f"{server} says {_CODES.get(a.code, str(a.code))}" for server, a, _ in name.answers if a.code is not None)
    return ", ".join(said) or "no name server answers"
