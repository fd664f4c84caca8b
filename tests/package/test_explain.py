"""What messages, help and the man page name is on a machine that has the package: files, commands, and `meshexp explain`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli, explained, hints
from harness.check_problems import REGISTRY
from harness.problems import Problem
from tests.mesh import ROOT
from tests.package.debs import Debs
from tests.package.root import layered, sh
from tests.unit.test_hints import COMMANDS

PATH_NAMED = re.compile(r"(?<![\w/.}])/(?:etc|var|run|usr|opt|lib|proc)(?:/[\w.@*-]+)+")
MADE_LATER = {
    "/etc/meshexp/trust-anchors.pem": "by join, or by who configures the machine",
    "/etc/meshexp/invitation": "by join",
    "/etc/meshexp/instances": "by who adds a workload",
    "/run/meshexp": "by the unit, when it starts",
    "/run/meshexp-": "by the unit of another workload",
    "/var/lib/meshexp": "by the unit, when it starts",
    "/opt/spire/bin": "by who installs SPIRE",
    "/var/lib/linkerd/linkerd-proxy-harness.cfg": "by the proprietary harness",
    "/proc/self/status": "by the kernel",
    "/etc/resolv.conf": "by the machine's own network",
}
OF_A_KERNEL = ("modprobe",)
"""In an image without a kernel there is no kmod either."""


def texts() -> Iterator[str]:
    """All that the registry, the help of each verb and the man page say."""
    for problem in REGISTRY.values():
        yield from explained.paragraphs(problem)
    for parser in _parsers():
        yield parser.format_help()
    yield (ROOT / "packaging/meshexp.8.tail").read_text().replace("\\-", "-").replace("\\fI", "").replace("\\fR", "")


def _parsers() -> Iterator[cli._Parser]:
    waiting = [cli.parser()]
    while waiting:
        parser = waiting.pop()
        yield parser  # type: ignore[misc]
        for action in parser._actions:
            waiting += (action.choices or {}).values() if isinstance(action.choices, dict) else ()


def named() -> set[str]:
    return {path.rstrip(".") for text in texts() for path in PATH_NAMED.findall(text)}


def commands() -> set[str]:
    found = set()
    for problem in REGISTRY.values():
        for text in _advice(problem):
            found |= {command.split()[0] for command in re.findall(r"`([^`]+)`", text)}
    return found & COMMANDS.keys()


def _advice(problem: Problem) -> Iterator[str]:
    for text in (problem.advice, *(text for _, text in problem.cases)):
        yield hints.put(text, hints.GENERAL | hints.SPECIFIC)


@pytest.fixture(name="deb", scope="module")
def deb_fixture(debian: Path, debs: Debs) -> Iterator[Path]:
    with layered(debian) as root:
        (root / "opt/package.deb").write_bytes(debs.present.read_bytes())
        sh("unshare", "--net", "--mount", "chroot", str(root), "dpkg", "--install", "/opt/package.deb")
        yield root


@pytest.fixture(name="rpm", scope="module")
def rpm_fixture(debian: Path) -> Iterator[Path]:
    """As Debian's rpm installs it: there is no Fedora here."""
    package = ROOT / "dist" / sh(str(ROOT / "packaging/rpm/build")).split()[-1].rpartition("/")[2]
    with layered(debian) as root:
        (root / "opt/package.rpm").write_bytes(package.read_bytes())
        sh("unshare", "--net", "--mount", "chroot", str(root), "rpm", "--install", "--nodeps", "/opt/package.rpm")
        yield root


@pytest.fixture(name="root", params=["deb", "rpm"])
def root_fixture(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def inside(root: Path, *command: str) -> str:
    """As a user without rights, without a network, and with nothing configured."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    return sh("unshare", "--net", "--mount", "chroot", str(root), *user, *command)


def test_each_file_that_is_named_is_there(root: Path) -> None:
    paths = named()
    assert {"/etc/meshexp/harness.yaml", "/usr/share/doc/meshexp-harness"} <= paths, "the search finds what it should"
    missing = set()
    for path in paths - {path for path in paths if any(path.startswith(later) for later in MADE_LATER)}:
        if not list(root.glob(path.lstrip("/"))) and not (root / path.lstrip("/").partition("*")[0]).exists():
            missing.add(path)
    assert not missing, f"named, and not there: {sorted(missing)}"


def test_explain_works_for_everybody_without_a_network(root: Path) -> None:
    assert inside(root, "meshexp", "explain", "probe-failed").startswith("probe-failed\n")
    assert len(inside(root, "meshexp", "explain").splitlines()) == len(REGISTRY)
    assert "explain" in inside(root, "meshexp", "--help")


def test_no_man_page_has_a_gap(root: Path) -> None:
    """argparse-manpage writes "UNSET" where it was not told something."""
    pages = [page for page in (root / "usr/share/man").rglob("meshexp*") if page.is_file()]
    assert pages
    for page in pages:
        text = sh("man", "--warnings", "-l", str(page))
        assert "UNSET" not in text and "<<" not in text
        assert "OPTIONS 'meshexp explain'" in text and "EXIT STATUS" in text and "SEE ALSO" in text


def test_each_command_of_a_hint_comes_with_debian_or_with_the_package(deb: Path) -> None:
    """Essential, of a minimal Debian, or what the package asks for; systemd is what runs the machine."""
    asked = sh("dpkg-deb", "--field", str(deb / "opt/package.deb"), "Depends", "Recommends")
    allowed = set(re.findall(r"[a-z][a-z0-9.+-]+", asked)) | {"meshexp-harness", "systemd"}
    for command in sorted(commands() - set(OF_A_KERNEL)):
        path = inside(deb, "sh", "-c", f"command -v {command}").strip()
        owner = sh("chroot", str(deb), "sh", "-c", f"dpkg -S {path} 2>/dev/null || dpkg -S {path.removeprefix('/usr')}")
        package = owner.partition(":")[0]
        standing = sh("chroot", str(deb), "dpkg-query", "--show", "--showformat", "${Essential} ${Priority}", package)
        assert "yes" in standing or "required" in standing or package in allowed, f"{command} is of {package} ({standing})"
