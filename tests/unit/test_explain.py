"""`meshexp explain`: the same text as docs/troubleshooting.md, without root, a configuration or a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import cli, explained, reference
from harness.check_problems import REGISTRY
from tests.mesh import ROOT


def explain(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(("explain", *words))
    return code, *capsys.readouterr()


def test_without_a_code_it_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, error = explain(capsys)
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in text.splitlines()] == sorted(REGISTRY)


@pytest.mark.parametrize("code", sorted(REGISTRY))
def test_it_tells_what_the_page_tells(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended, text, _ = explain(capsys, code)
    assert ended == 0 and text.startswith(f"{code}\n")
    page = reference.troubleshooting()
    entry = page[page.index(f"## {code}\n") :].partition("\n## ")[0].split()
    assert text.split()[: len(entry) - 1] == entry[1:]
    assert text.split()[-1] == explained.url(REGISTRY[code])


def test_commands_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """People copy them."""
    _, text, _ = explain(capsys, *REGISTRY)
    assert all(line.count("`") % 2 == 0 for line in text.splitlines())
    assert "\x00" not in text


def test_several_codes_as_status_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = explain(capsys, "probe-failed", "cordoned")
    assert code == 0 and [line for line in text.splitlines() if re.fullmatch(r"[\w-]+", line)] == ["probe-failed", "cordoned"]


def test_an_unknown_code_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, error = explain(capsys, "probe-faild")
    assert (code, text) == (64, "")
    assert "there is no problem 'probe-faild'" in error and "did you mean probe-failed" in error
    assert "`meshexp explain` lists all" in explain(capsys, "x")[2]


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = explain(capsys, "probe-failed", "-o", "json")
    (record,) = json.loads(text)
    assert record["code"] == "probe-failed" and record["where"] == "machine" and record["severity"] == "error"
    assert {case["came_back"] for case in record["cases"]} >= {"connection refused", "no answer"}
    _, text, _ = explain(capsys, "-o", "json")
    assert [record["code"] for record in json.loads(text)] == sorted(REGISTRY)


def test_it_needs_nothing_of_the_machine(tmp_path: Path) -> None:
    """Neither root nor a configuration nor a network: also where all of that is the problem."""
    user = ("setpriv", "--reuid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    network = ("unshare", "--net") if os.geteuid() == 0 else ()
    gone = {f"MESHEXP_{name}_DIR": str(tmp_path / "none") for name in ("CONFIG", "STATE", "RUN")}
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT), **gone}
    command = [*network, *user, sys.executable, "-s", "-m", "harness", "explain", "privileges-missing"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=environment)
    assert done.stdout.startswith("privileges-missing\n") and not done.stderr


def test_it_is_light() -> None:
    """It answers at once, and works where a library is broken."""
    code = "import sys; from harness import cli; cli.main(['explain']); print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = done.stdout.splitlines()[-1]
    assert not [name for name in ("httpx", "yaml", "structlog", "pyroute2", "asyncio") if f"'{name}'" in loaded]


def test_the_page_is_in_the_home_that_the_packages_name() -> None:
    """A URL that only one of them has would be forgotten when the project moves."""
    home = explained.PAGE.partition("/blob/")[0]
    spec = (ROOT / "packaging/rpm/meshexp-harness.spec").read_text()
    control = (ROOT / "packaging/deb/debian/control").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r"^URL:\s+(\S+)$", spec, re.MULTILINE)[1] == home  # type: ignore[index]
    assert f"\nHomepage: {home}\n" in control
    assert project["urls"] == {"Homepage": home}
    assert (ROOT / explained.PAGE.partition("/blob/main/")[2]).exists()
