"""The server's certificate and the anchors of its clients: from files, or from Linkerd."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import structlog

from controller import config as configuration
from controller import tls
from controller.anchors import Anchors
from controller.config import ControllerConfig
from controller.linkerd_identity import Certificate, Certifier, Identity
from controller.naming import mesh_identity
from harness.clock import Clock
from harness.errors import ConfigError, InternalError
from harness.messages import ClusterFacts
from harness.values import HostPort

log = structlog.get_logger()
_IDENTITY_PORT = 8080


class Credentials:
    """`facts` tells the present ones, whose trust anchors are those of the clients where no file has them.

    `validity`: of the certificate in force, beginning and end in epoch seconds.
    """

    def __init__(self, config: ControllerConfig, clock: Clock, facts: Callable[[], ClusterFacts]) -> None:
        self._config, self._clock, self._facts = config, clock, facts
        self._certificate: Certificate | None = None
        self._context: ssl.SSLContext | None = None
        self._in_force = ("", "", "")
        self._anchors: Anchors | None = None
        self._verifying = b""
        self.validity: tuple[float, float] | None = None

    async def context(self) -> ssl.SSLContext:
        """To listen with, for good. Waits for Linkerd's identity service if need be. Raises ConfigError."""
        if not self._config.tls_cert:
            self._certificate = await self._certifier().first()
        self._use(*self._pair(), self._facts().trust_anchors_pem)
        return tls.following(self._present)

    @property
    def anchors(self) -> Anchors:
        """Those in force. Only a connection of `context` asks for them: then there are some. Raises InternalError."""
        if self._anchors is None:
            raise InternalError("no trust anchors are in force yet")
        return self._anchors

    async def keep(self) -> None:
        """Renews what expires; returns when there is nothing to renew."""
        if self._certificate is not None:
            await self._certifier().keep(self._certificate, self._renewed)

    def reload(self, anchors: str) -> None:
        """Files again, and these anchors. Raises ConfigError; what is wrong stays as it was."""
        if self._context is not None:
            self._use(*self._pair(), anchors)

    def _renewed(self, certificate: Certificate) -> None:
        self._certificate = certificate
        try:
            self.reload(self._facts().trust_anchors_pem)
        except ConfigError as error:
            log.error("certificate not used", error=str(error))

    def _use(self, chain: str, key: str, anchors: str) -> None:
        """For handshakes from now on; of those before, `anchors` says which still count."""
        if self._context is None or (chain, key, anchors) != self._in_force:
            read = Anchors(anchors)
            verifying = read.to_verify(self._clock.wall())
            self._context = tls.server_context(chain, key, verifying)
            self._anchors = read
            self._verifying = verifying
            self._in_force = (chain, key, anchors)
            self.validity = tls.validity(chain)

    def _present(self) -> ssl.SSLContext:
        """For one handshake. What verifies it changes with the time too: an anchor begins or ends."""
        verifying = self.anchors.to_verify(self._clock.wall())
        if self._context is None or verifying != self._verifying:
            chain, key, _ = self._in_force
            self._context = tls.server_context(chain, key, verifying)
            self._verifying = verifying
        return self._context

    def _pair(self) -> tuple[str, str]:
        if self._certificate is not None:
            return self._certificate.chain, self._certificate.key
        return (
            configuration.read_text(self._config.tls_cert, "tls_cert"),
            configuration.read_text(self._config.tls_key, "tls_key"),
        )

    def _certifier(self) -> Certifier:
        config, facts = self._config, self._facts()
        host = f"linkerd-identity-headless.{config.linkerd_namespace}.svc.{facts.cluster_domain}."
        identity = Identity(
            mesh_identity(config.service_account, config.namespace, facts.linkerd),
            config.identity_token,
            config.identity_address or HostPort(host, _IDENTITY_PORT),
            mesh_identity("linkerd-identity", config.linkerd_namespace, facts.linkerd),
        )
        return Certifier(identity, lambda: self._facts().trust_anchors_pem, self._clock)
