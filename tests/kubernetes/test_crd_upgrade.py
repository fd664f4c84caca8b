"""A cluster whose definitions and groups are those of the first builds of 0.1: nothing that is stored is lost or held fast.

`externalgroups-first.yaml` is the definition as it was, with fractions of a second and probes in two places. It stays as it is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controller.manifest import BUOYANT_GROUP_API, GROUP_API
from tests.controller_support import group_object
from tests.kubernetes_site import Site
from tests.kubernetes_support import CRDS, ROOT, cluster
from tests.waiting import wait

FIRST = ROOT / "tests" / "kubernetes" / "externalgroups-first.yaml"
APIS = (GROUP_API, BUOYANT_GROUP_API)
IN_FORCE = {"first": "at least 0.1", "now": "at least 1"}
SPEC = {
    "leaseSeconds": 30.5,
    "drainSeconds": 0.5,
    "probes": [{"tcpSocket": {"port": 8000}, "periodSeconds": 0.5}],
    "template": {
        "metadata": {"labels": {"service": "face"}},
        "ports": [{"port": 8000, "name": "http"}, {"port": 53, "name": "dns"}, {"port": 53, "protocol": "UDP"}],
        "probes": [{"httpGet": {"port": 8000}, "timeoutSeconds": 0.25}],
    },
}


def apply(item: dict[str, Any], *flags: str) -> str:
    return cluster().kubectl("apply", *flags, "-f", "-", given=json.dumps(item), check=False)


def kind(api: str) -> str:
    return f"externalgroups.{api.partition('/')[0]}"


def item(name: str, api: str, **spec: Any) -> dict[str, Any]:
    return group_object(name, api=api) | {"spec": SPEC | spec}


def define(which: str) -> None:
    """Returns when the server judges groups by these definitions."""
    if which == "first":
        ours = yaml.safe_load(FIRST.read_text())
        theirs = json.loads(json.dumps(ours).replace(kind(GROUP_API), kind(BUOYANT_GROUP_API)))
        theirs["spec"]["group"] = BUOYANT_GROUP_API.partition("/")[0]
        del theirs["spec"]["names"]["shortNames"]
        given = yaml.safe_dump_all((ours, theirs))
        cluster().kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)
    else:
        cluster().apply(*CRDS)
    for api in APIS:
        bad = group_object("bad", api=api) | {"spec": {"probes": [{"tcpSocket": {"port": 1}, "periodSeconds": 0}]}}
        wait(functools.partial(_judged, bad, IN_FORCE[which]), 60)


def _judged(bad: dict[str, Any], words: str) -> bool:
    return words in apply(bad, "--dry-run=server")


@pytest.fixture
def first_definitions() -> Iterator[None]:
    define("first")
    try:
        yield
    finally:
        for api in APIS:
            cluster().kubectl("-n", "faces", "delete", kind(api), "--all")
        define("now")


def condition(name: str, api: str) -> dict[str, Any]:
    found = json.loads(cluster().kubectl("-n", "faces", "get", kind(api), name, "-o", "json"))
    conditions = found.get("status", {}).get("conditions", ())
    mine = [
        one for one in conditions if one["type"] == "Accepted" and one["observedGeneration"] == found["metadata"]["generation"]
    ]
    return dict(mine[0]) if mine else {"status": "Unknown", "reason": "", "message": ""}


def told(name: str, api: str) -> str:
    """What the group's author is told once the controller has seen this generation of it."""
    wait(lambda: condition(name, api)["status"] == "True", 60, lambda: str(condition(name, api)))
    found = condition(name, api)
    assert found["reason"] == ("ValidWithWarnings" if found["message"] else "Valid")
    return str(found["message"])


@pytest.mark.usefixtures("first_definitions")
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_a_stored_group_stays_valid_and_can_be_changed(api: str, flags: tuple[str, ...]) -> None:
    kubectl = cluster().kubectl
    old = item("old", api)
    assert "old" in apply(old, *flags) and "old" in kubectl("-n", "faces", "get", kind(api), "-o", "name")
    poor = [{"type": t, "status": "True", "reason": "Valid", "message": ""} for t in ("Accepted", "Ready")]
    # As the first builds wrote them: with every field that is required now.
    full = [one | {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1} for one in poor]
    status = {"observedGeneration": 1, "ready": "1/1", "readyWorkloads": 1, "workloads": 1, "probe": "x", "conditions": full}
    patch = json.dumps({"status": status})
    kubectl("-n", "faces", "patch", kind(api), "old", "--subresource=status", "--type=merge", "-p", patch)
    define("now")
    found = json.loads(kubectl("-n", "faces", "get", kind(api), "old", "-o", "json"))
    assert found["status"] == status and found["spec"]["leaseSeconds"] == 30.5
    kubectl("-n", "faces", "label", kind(api), "old", "a=b")
    assert "invalid" not in apply(old, *flags)
    # A further edit keeps the fractions, and changes the number of a port that keeps its name.
    ports = [{"port": 8001, "name": "http"}, *SPEC["template"]["ports"][1:]]  # type: ignore[index]
    edited = item("old", api, template=SPEC["template"] | {"ports": ports})  # type: ignore[operator]
    assert "invalid" not in apply(edited, *flags)
    found = json.loads(kubectl("-n", "faces", "get", kind(api), "old", "-o", "json"))
    assert [port["port"] for port in found["spec"]["template"]["ports"]] == [8001, 53, 53]
    assert found["spec"]["probes"] == SPEC["probes"] and found["status"] == status


@pytest.mark.usefixtures("first_definitions")
def test_the_controller_may_come_before_the_definitions_or_after_them(site: Site) -> None:
    apply(item("face", GROUP_API))
    apply(item("other", BUOYANT_GROUP_API))
    site.start("a")  # under the first definitions
    text = told("face", GROUP_API)
    assert text.startswith(
        "spec.template.probes is deprecated: move its entries to spec.probes; spec.leaseSeconds: 30.5 counts as 31"
    )
    assert "spec.probes[0].periodSeconds: 0.5 counts as 1" in text and "spec.template.probes[0].timeoutSeconds: 0.25" in text
    assert "deprecated" not in told("other", BUOYANT_GROUP_API) and "drainSeconds" in told("other", BUOYANT_GROUP_API)
    events = ("-n", "faces", "get", "events", "--field-selector=reason=ValidWithWarnings", "-o")
    wait(lambda: "30.5 counts as 31" in cluster().kubectl(*events, "jsonpath={.items[*].message}"))
    fleet = site.fleet("a")
    fleet("join", count=1)
    define("now")  # while it runs
    assert told("face", GROUP_API) == text
    # Named ports and whole seconds: no warning is left.
    plain = item("face", GROUP_API, leaseSeconds=31, drainSeconds=1, probes=[{"httpGet": {"port": "http"}}])
    plain["spec"]["template"] = {name: value for name, value in plain["spec"]["template"].items() if name != "probes"}
    assert "configured" in apply(plain)
    assert told("face", GROUP_API) == ""
    gone = plain["spec"]["template"] | {"ports": [{"port": 8000, "name": "web"}]}
    assert "is invalid" in apply(plain | {"spec": plain["spec"] | {"template": gone}})
    site.kill("a")
    site.start("b")  # under the definitions of now
    apply(plain)
    assert told("face", GROUP_API) == ""
    wide = cluster().kubectl("-n", "faces", "get", kind(BUOYANT_GROUP_API), "-o", "wide")
    assert wide.splitlines()[0].split()[-1] == "MESSAGE" and "counts as" in wide
