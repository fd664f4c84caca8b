"""The server's certificate and the anchors of its clients: from files, or from Linkerd."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import structlog

from controller import config as configuration
from controller import tls
from controller.config import ControllerConfig
from controller.linkerd_identity import Certificate, Certifier, Identity
from harness.clock import Clock
from harness.errors import ConfigError
from harness.messages import ClusterFacts
from harness.values import HostPort

log = structlog.get_logger()
_IDENTITY_PORT = 8080


class Credentials:
    """`facts` tells the present ones, whose trust anchors are those of the clients where no file has them."""

    def __init__(self, config: ControllerConfig, clock: Clock, facts: Callable[[], ClusterFacts]) -> None:
        self._config, self._clock, self._facts = config, clock, facts
        self._context: ssl.SSLContext | None = None
        self._certificate: Certificate | None = None
        self._anchors = ""

    async def context(self) -> ssl.SSLContext:
        """Waits for Linkerd's identity service if need be. Raises ConfigError."""
        if self._config.tls_cert:
            chain, key = self._files()
        else:
            self._certificate = await self._certifier().first()
            chain, key = self._certificate.chain, self._certificate.key
        self._anchors = self._facts().trust_anchors_pem
        self._context = tls.server_context(chain, key, self._anchors)
        return self._context

    async def keep(self) -> None:
        """Renews what expires; returns when there is nothing to renew."""
        if self._certificate is not None:
            await self._certifier().keep(self._certificate, self._use)

    def reload(self) -> None:
        """Files and anchors again. Raises ConfigError; what is wrong stays as it was."""
        if self._context is None:
            return
        if self._config.tls_cert:
            tls.load_certificate(self._context, *self._files())
        if self._facts().trust_anchors_pem != self._anchors:
            tls.load_anchors(self._context, self._facts().trust_anchors_pem)
            self._anchors = self._facts().trust_anchors_pem

    def _use(self, certificate: Certificate) -> None:
        if self._context is not None:
            try:
                tls.load_certificate(self._context, certificate.chain, certificate.key)
            except ConfigError as error:
                log.error("certificate not used", error=str(error))

    def _files(self) -> tuple[str, str]:
        return configuration.read_text(self._config.tls_cert, "tls_cert"), configuration.read_text(
            self._config.tls_key, "tls_key"
        )

    def _certifier(self) -> Certifier:
        config, facts = self._config, self._facts()
        _, _, suffix = facts.linkerd.destination_identity.partition(".serviceaccount.")
        host = f"linkerd-identity-headless.{config.linkerd_namespace}.svc.{facts.cluster_domain}."
        identity = Identity(
            f"{config.service_account}.{config.namespace}.serviceaccount.{suffix}",
            config.identity_token,
            config.identity_address or HostPort(host, _IDENTITY_PORT),
            f"linkerd-identity.{config.linkerd_namespace}.serviceaccount.{suffix}",
        )
        return Certifier(identity, lambda: self._facts().trust_anchors_pem, self._clock)
