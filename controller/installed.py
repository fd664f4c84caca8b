"""The names of the controller's objects in a cluster.

The chart's values can change each name, but not the label by which the objects are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.kubernetes.client import Client
from controller.store import RefusedCallError
from harness.errors import UnavailableError
from harness.values import HostPort

OURS = "app.kubernetes.io/part-of=meshexp"
MACHINES = "machines"
"""The name of the port that machines call."""
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Installed:
    """Raises RefusedCallError without the right to look, UnavailableError unless there is exactly one of what was asked for."""

    client: Client
    namespace: str

    async def deployments(self) -> list[Object]:
        return await self._ours("apps/v1", "deployments")

    async def service_account(self) -> str:
        """The controller's name in the mesh is made of it."""
        found = await self._ours("apps/v1", "deployments", "--service-account")
        accounts = {str(one["spec"]["template"]["spec"].get("serviceAccountName") or "default") for one in found}
        return self._only("Deployment of the controller", accounts, "--service-account")

    async def address(self, cluster_domain: str) -> HostPort:
        """Of its Service, for machines whose networks lead to ClusterIPs."""
        found = await self._ours("v1", "services", "--controller")
        addresses = {
            f"{service['metadata']['name']}.{self.namespace}.svc.{cluster_domain}.": int(port["port"])
            for service in found
            for port in service["spec"].get("ports") or ()
            if port.get("name") == MACHINES
        }
        host = self._only("Service of the controller", set(addresses), "--controller")
        return HostPort(host, addresses[host])

    async def _ours(self, api: str, plural: str, flag: str = "") -> list[Object]:
        root = f"/apis/{api}" if "/" in api else f"/api/{api}"
        try:
            answer = await self.client.get(f"{root}/namespaces/{self.namespace}/{plural}", labelSelector=OURS)
        except RefusedCallError as error:
            if not flag:
                raise
            hint = f"with {flag} this is not read from the cluster; `kubectl auth can-i list {plural} -n {self.namespace}`"
            raise RefusedCallError(error.message, hint) from None
        return list(answer["items"])

    def _only(self, what: str, found: set[str], flag: str) -> str:
        if len(found) == 1:
            return found.pop()
        where = f"in the namespace {self.namespace}"
        if found:
            raise UnavailableError(
                f"there is more than one {what} {where}: {', '.join(sorted(found))}", f"say which one by {flag}"
            )
        hint = f"`kubectl get deployments,services -A -l {OURS}` shows where it is; give that namespace by --controller-namespace"
        raise UnavailableError(f"there is no {what} {where}", hint)
