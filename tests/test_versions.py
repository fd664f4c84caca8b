"""One version: everything that is released says the same, and what is installed is what the schema's table says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from harness import __version__, decode, reference
from harness.config import schema

ROOT = Path(__file__).resolve().parents[1]


def first(path: str, pattern: str) -> str:
    found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert found, f"{path} has no version"
    return found[1]


def test_changelogs_and_spec_agree() -> None:
    assert first("CHANGELOG.md", r"^## (\S+)") == __version__
    assert first("packaging/deb/debian/changelog", r"^meshexp-harness \((.*)\)") == __version__
    assert first("packaging/rpm/meshexp-harness.spec", r"^\* .* - (\S+)-1$") == __version__


def test_the_deb_asks_for_what_the_program_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *optional["systemd"], *optional["iptables"]]
    control = (ROOT / "packaging/deb/debian/control").read_text()
    names = {"systemd-python": "python3-systemd", "PyYAML": "python3-yaml", "python-iptables": "python3-iptables"}
    for requirement in wanted:
        name, version = re.match(r"([\w-]+)>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        assert f"{names.get(name, f'python3-{name}')} (>= {version})" in control


def test_the_rpm_carries_what_the_program_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    carried = (ROOT / "packaging/rpm/requirements.txt").read_text().lower()
    for requirement in project["dependencies"]:
        assert re.search(rf"^{re.split('[>=]', requirement)[0].lower()}==", carried, re.MULTILINE), requirement


def test_uncommented_the_installed_configuration_is_the_default_one() -> None:
    lines = reference.example().splitlines()
    assert all(line == "" or line.startswith("#") for line in lines), "as installed it says nothing"
    text = "\n".join(line.removeprefix("#") for line in lines)
    data = yaml.safe_load(text)
    data["workload"] |= {"group": "face", "namespace": "faces"}
    assert decode.decode(schema.Config, data, source="") == schema.Config(schema.Workload("face", "faces"))
