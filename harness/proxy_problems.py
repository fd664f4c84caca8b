"""The problems of the proxy: its program, its start, its certificate."""

from __future__ import annotations

from harness.problem_registry import Severity, Where, register

_GET_PROXY = (
    "`meshexp proxy install --from cr.l5d.io/linkerd/proxy:VERSION`, with the VERSION that `linkerd"
    " version` prints on the admin's machine, or --from FILE"
)
PROXY_MISSING = register(
    "proxy-missing",
    Where.MACHINE,
    "there is no linkerd2-proxy on this machine",
    f"{_GET_PROXY}; while joining the same is `meshexp join INVITATION --proxy"
    " cr.l5d.io/linkerd/proxy:VERSION`; `meshexp proxy list` shows what is installed, and proxy.path names"
    " one elsewhere",
)
PROXY_NOT_CERTIFIED = register(
    "proxy-not-certified",
    Where.IDENTITY,
    "the proxy runs but has no certificate",
    "`meshexp logs{instance}` has the proxy's lines; does the Workload API listen? `ss -xlp src {socket}`;"
    " the identity that it issues to uid {uid} must be identity.spiffe_id",
)
PROXY_ENV_OVERRIDDEN = register(
    "proxy-env-overridden",
    Where.MACHINE,
    "variables of the proxy are set by hand",
    "`meshexp config show{instance}` says in which file; nothing that proxy.env changes is tested with the"
    " harness, so leave it empty unless you need it",
    Severity.WARNING,
    standing=True,
)
PROXY_REPLACED = register(
    "proxy-replaced",
    Where.MACHINE,
    "the proxy runs from another binary than the one that its next start takes",
    "`meshexp proxy restart{instance}` tells its peers first; until then the old one goes on; `meshexp"
    " proxy list` shows the versions",
    Severity.WARNING,
    standing=True,
)
PROXY_CRASH_LOOP = register(
    "proxy-crash-loop",
    Where.MACHINE,
    "the proxy keeps exiting",
    "`meshexp logs{instance}` has its last lines; `meshexp proxy list` shows other versions",
)
PROXY_PORT_TAKEN = register(
    "proxy-port-taken",
    Where.MACHINE,
    "another process listens on a port that the proxy needs",
    "`ss -ltnp 'sport = :{port}'` names it; end it, or set proxy.inbound_port, proxy.outbound_port or proxy.admin_port",
)
PROXY_BAD_RELEASE = register(
    "proxy-bad-release",
    Where.MACHINE,
    "this linkerd2-proxy release cannot work with SPIRE",
    "use 2.331.0 or newer, which Linkerd edge-25.11.3 and newer have: `meshexp proxy list` shows what is"
    f" installed; {_GET_PROXY}",
)
