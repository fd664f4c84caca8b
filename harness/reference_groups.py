"""The reference page of ExternalGroup, from the definition that clusters get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import reading, yaml_text

_DEFINITION = Path(__file__).parents[1] / "deploy" / "crds" / "externalgroups.workload.meshexp.io.yaml"
_OLD_PLACE, _PLACE = "spec.template.probes", "spec.probes"
_KINDS = {"string": "text", "boolean": "yes or no", "integer": "whole number", "number": "whole seconds", "object": "mapping"}


def fields() -> str:
    """Two tables: what an administrator writes, and what the controller answers."""
    definition: Any = next(iter(yaml_text.documents(reading.text(_DEFINITION))))
    version = definition["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    lines: list[str] = []
    for part in ("spec", "status"):
        lines += [f"## `{part}`\n", f"{properties[part]['description']}\n", "| field | kind | meaning |", "|---|---|---|"]
        lines += _rows(properties[part], part)
        lines.append("")
    return "\n".join(lines)


def _rows(schema: Any, path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        own = f"{path}.{name}"
        meaning = inner["description"].replace("<", "&lt;").replace("|", "\\|")
        mark = " Required." if name in required else ""
        yield f"| `{own}` | {_kind(inner)} | {meaning}{mark} |"
        if own == _OLD_PLACE:
            yield f"| `{own}[]` | mapping | As in `{_PLACE}[]`. |"
            continue
        yield from _rows(inner, own)
        if "properties" in inner.get("items", {}):
            yield from _rows(inner["items"], f"{own}[]")


def _kind(schema: Any) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "whole number or text"
    if schema["type"] == "array":
        return f"list of at most {schema['maxItems']}"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    least, most = schema.get("minimum"), schema.get("maximum")
    kind = _KINDS[schema["type"]]
    if most is not None and least is not None:
        return f"{kind}, {least} to {most}"
    if most is not None:
        return f"{kind}, at most {most}"
    return f"{kind}, at least {least}" if least is not None else kind
