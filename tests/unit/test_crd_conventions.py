"""Our definitions by the Kubernetes API conventions: what an author of a group reads, and what the API server bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controller import rendering
from controller.manifest import GroupSpec, GroupStatus
from harness.decode import encode
from tests.controller_support import workload
from tests.mesh import ROOT

OURS = ROOT / "deploy" / "crds" / "externalgroups.workload.meshexp.io.yaml"
COMPATIBLE = ROOT / "deploy" / "crds" / "compatible" / "externalgroups.workload.buoyant.io.yaml"
FILES = sorted((ROOT / "deploy" / "crds").rglob("*.yaml"))
Schema = dict[str, Any]


def versions(path: Any) -> Any:
    return yaml.safe_load(path.read_text())["spec"]["versions"]


def schemas(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Each schema that stands for a value of an object, with its dotted path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}" if path else name)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], path + mark)


EVERY = [
    pytest.param(found, schema, id=f"{path.stem.removeprefix('externalgroups.workload.')}:{found or 'whole'}")
    for path in FILES
    for version in versions(path)
    for found, schema in schemas(version["schema"]["openAPIV3Schema"])
]


def test_all_definitions_are_looked_at() -> None:
    assert set(FILES) == {OURS, COMPATIBLE}
    paths = {str(case.values[0]) for case in EVERY}
    assert {"spec.probes[].httpGet.httpHeaders[].value", "status.conditions[].reason", "spec.template.metadata.labels"} <= paths


@pytest.mark.parametrize(("path", "schema"), EVERY)
def test_each_field_has_a_description(path: str, schema: Schema) -> None:
    if path == "metadata":  # the API server has its own, and refuses another
        return
    if path.endswith(("}", "[]")) and schema["type"] != "object":  # the list or the map above describes its values
        return
    text = schema["description"]
    assert text[0].isupper() and text.endswith("."), text
    assert not any(word in text for word in ("docs/", "deploy/")), "they are in no cluster"


@pytest.mark.parametrize(("path", "schema"), EVERY)
def test_the_schema_is_bounded_and_says_how_lists_are_merged(path: str, schema: Schema) -> None:
    assert "x-kubernetes-preserve-unknown-fields" not in schema and "nullable" not in schema
    assert "type" in schema or schema["x-kubernetes-int-or-string"] is True
    kind = schema.get("type")
    if kind == "array":
        assert schema["maxItems"] <= 64 and schema["x-kubernetes-list-type"] in ("atomic", "map")
    if "additionalProperties" in schema:
        assert schema["maxProperties"] <= 64
    if kind in ("integer", "number") and path.startswith("spec"):
        assert kind == "number" or schema["format"] in ("int32", "int64")
        assert "maximum" in schema or path == "spec.admission.maximum"
    if kind == "number":
        assert path.endswith("Seconds") and "A fraction is rounded up." in schema["description"]
    if path.startswith("spec") and kind == "string" and path != "spec.template.metadata.annotations{}":
        assert "maxLength" in schema or "enum" in schema


CONDITION = {"type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_conditions_are_those_of_kubernetes(path: Any) -> None:
    for version in versions(path):
        conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-type"] == "map" and conditions["x-kubernetes-list-map-keys"] == ["type"]
        one = conditions["items"]
        assert one["properties"].keys() == CONDITION and set(one["required"]) == CONDITION - {"observedGeneration"}
        assert one["properties"]["status"]["enum"] == ["True", "False", "Unknown"]
        limits = {name: field.get("maxLength") for name, field in one["properties"].items()}
        assert (limits["type"], limits["reason"], limits["message"]) == (316, 1024, 32768)
        assert all(column.get("description") for column in version["additionalPrinterColumns"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_schema_has_the_fields_that_the_controller_knows(path: Any) -> None:
    for version in versions(path):
        properties = version["schema"]["openAPIV3Schema"]["properties"]
        assert properties["status"]["properties"].keys() == encode(GroupStatus(), camel=True).keys()
        times = {"leaseSeconds", "expirySeconds", "drainSeconds"}  # without a value they are left out of the object
        assert properties["spec"]["properties"].keys() == encode(GroupSpec(), camel=True).keys() | times


def test_the_compatible_kind_has_our_schema_in_the_other_products_shape() -> None:
    """The port of a probe is a number there, and probes in the template are not deprecated."""
    theirs, ours = versions(COMPATIBLE), copy.deepcopy(versions(OURS))
    for version in ours:
        whole = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec, rules = whole["properties"], whole["x-kubernetes-validations"]
        whole["x-kubernetes-validations"] = [rule for rule in rules if "port of a probe" not in rule["message"]]
        wanted = theirs[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        for kind in ("httpGet", "tcpSocket", "grpc"):
            port = wanted["probes"]["items"]["properties"][kind]["properties"]["port"]
            assert port["type"] == "integer" and (port["minimum"], port["maximum"]) == (1, 65535)
            spec["probes"]["items"]["properties"][kind]["properties"]["port"] = port
        spec["template"]["properties"]["probes"] = {
            **wanted["template"]["properties"]["probes"],
            "items": spec["probes"]["items"],
        }
        name = wanted["template"]["properties"]["ports"]["items"]["properties"]["name"]["description"]
        spec["template"]["properties"]["ports"]["items"]["properties"]["name"]["description"] = name
    assert theirs == ours


def test_what_is_written_of_an_externalworkload_is_in_linkerds_definition() -> None:
    linkerd = yaml.safe_load((ROOT / "tests" / "kubernetes" / "externalworkload.yaml").read_text())["spec"]["versions"][0]
    items = linkerd["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]["items"]
    written = rendering.with_readiness(workload(), True, "Ready", "", 0.0)
    assert written is not None
    for condition in encode(written.status, camel=True)["conditions"]:
        assert condition.keys() <= items["properties"].keys()
        assert set(items["required"]) | {"reason", "message", "lastTransitionTime"} <= condition.keys()
