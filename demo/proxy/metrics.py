"""The counters that linkerd2-proxy has by the same names, by connection, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter

from demo.proxy.identity import Identity


class Metrics:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._opened: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()

    def opened(self, labels: str) -> None:
        self._opened[labels] += 1

    def closed(self, labels: str) -> None:
        self._closed[labels] += 1

    def text(self) -> str:
        lines = ["# TYPE tcp_open_total counter"]
        lines += [f"tcp_open_total{{{labels}}} {number}" for labels, number in self._opened.items()]
        lines += ["# TYPE tcp_close_total counter"]
        lines += [f"tcp_close_total{{{labels}}} {number}" for labels, number in self._closed.items()]
        lines += ["# TYPE tcp_open_connections gauge"]
        lines += [f"tcp_open_connections{{{labels}}} {n - self._closed[labels]}" for labels, n in self._opened.items()]
        if certified := self._identity.current:
            lines += ["# TYPE control_identity_cert_expiration_timestamp_seconds gauge"]
            lines += [f"control_identity_cert_expiration_timestamp_seconds {certified.expires_at}"]
        lines += ["# TYPE control_identity_cert_refreshes_total counter"]
        lines += [f'control_identity_cert_refreshes_total{{result="ok"}} {self._identity.refreshes}']
        return "\n".join([*lines, "# EOF", ""])


def labels(**pairs: object) -> str:
    """Label text such as `direction="inbound",tls="true"`, in the order given."""
    return ",".join(f'{name}="{value}"' for name, value in pairs.items())
