"""The sockets of a server, from one `host:port`.

`[::]` means every address of the machine, of both families, as one socket. The sysctl `net.ipv6.bindv6only` does not change that.
asyncio's own way to listen makes a socket for IPv6 alone: a kubelet's probe to a pod's IPv4 address is then refused.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from harness.errors import UnavailableError
from harness.values import HostPort

_BACKLOG = 128
_MISSING = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""The kernel has no such family (`ipv6.disable=1`), or the machine has no such address."""
_EVERY_IPV6, _EVERY_IPV4 = "::", "0.0.0.0"  # noqa: S104  (what the configuration asks for)


async def listen(where: HostPort, key: str, backlog: int = _BACKLOG) -> list[socket.socket]:
    """Listening sockets, one for each address that the host stands for. `key`: the dotted path of `where`, for the error.

    `[::]` is all of IPv4 where the kernel has no IPv6. Of a name's addresses those are left out that the machine does not have.
    Raises UnavailableError.
    """
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for host in await _hosts(where):
            try:
                made.append(_listen(host, where.port, backlog))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                missing = error
        if missing is not None and not made:
            if where.host != _EVERY_IPV6:
                raise missing
            made.append(_listen(_EVERY_IPV4, where.port, backlog))
    except OSError as error:
        for one in made:
            one.close()
        raise UnavailableError(f"{key}: cannot listen on {where}: {error.strerror}", _hint(error, where)) from None
    return made


async def _hosts(where: HostPort) -> list[str]:
    """Raises OSError for a name without an address."""
    if where.ip is not None:
        return [where.host]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except UnicodeError:  # such as an empty label
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not for two that listen at once, which Linux refuses: for connections of the last run that have just ended.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        made.listen(backlog)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _hint(error: OSError, where: HostPort) -> str:
    if isinstance(error, socket.gaierror):
        return f"see: getent ahosts {where.host}"
    if error.errno == errno.EADDRINUSE:
        return f"who has it: ss -ltnp 'sport = :{where.port}'"
    if error.errno == errno.EADDRNOTAVAIL:
        return "it must be an address of this machine: ip address"
    if error.errno == errno.EACCES:
        return "a port below 1024 needs the capability CAP_NET_BIND_SERVICE"
    return ""
