"""`meshexp anchors`: what is in force, in the file and told; and `accept`, which takes exactly what was told."""

from __future__ import annotations

import hashlib
import json
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import anchors_cli, decode
from harness.daemon import anchors_kept
from harness.errors import UnavailableError, UsageError
from harness.messages import ClusterFacts
from harness.paths import Paths
from harness.terminal import Answer
from tests import builders
from tests.controller_support import Authority


@dataclass
class Place:
    paths: Paths
    file: Path
    old: str
    new: str

    def configure(self, mode: str) -> None:
        config = {
            "workload": {"group": "face", "namespace": "faces"},
            "controller": {"trust_anchors": str(self.file), "anchors": mode},
        }
        self.paths.config.mkdir(exist_ok=True)
        self.paths.harness_yaml.write_text(yaml.safe_dump(config))

    def tell(self, pem: str) -> None:
        known = builders.registration(facts=ClusterFacts(trust_anchors_pem=pem))
        self.paths.known_registration.parent.mkdir(exist_ok=True)
        self.paths.known_registration.write_text(json.dumps(decode.encode(known)))


@pytest.fixture(name="place")
def place_fixture(tmp_path: Path) -> Place:
    old, new = (Path(Authority(tmp_path, name).anchors).read_text() for name in ("old", "new"))
    found = Place(Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run"), tmp_path / "etc/anchors.pem", old, new)
    found.configure("pinned")
    found.file.write_text(old)
    return found


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def shown(place: Place, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert anchors_cli.show(place.paths, "json") == 0
    return dict(json.loads(capsys.readouterr().out))


def test_it_shows_what_is_in_force_what_the_file_has_and_what_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.tell(place.old + place.new)
    found = shown(place, capsys)
    assert (found["mode"], found["path"], len(found["told"])) == ("pinned", str(place.file), 2)
    assert [one["fingerprint"] for one in found["in_force"]] == [fingerprint(place.old)]
    assert found["file"][0]["subject"] == "CN=old" and found["file"][0]["ends"].endswith("Z")
    assert anchors_cli.show(place.paths) == 0
    text = capsys.readouterr().out
    assert f"  {fingerprint(place.new)}  CN=new, ends " in text and "in force (controller.anchors: pinned):" in text


def test_in_follow_the_proven_ones_are_in_force(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.anchors import Adopted

    place.configure("follow")
    anchors_kept.keep(place.paths, Adopted.of(place.new, place.old))
    assert [one["subject"] for one in shown(place, capsys)["in_force"]] == ["CN=new"]


def test_without_anything_it_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.file.unlink()
    assert anchors_cli.show(place.paths) == 0
    text = capsys.readouterr().out
    assert "cannot be read: No such file" in text and "none: it has told nothing yet" in text


def test_accept_writes_exactly_what_is_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.tell(place.old + place.new)
    colons = fingerprint(place.new).upper()
    colons = ":".join(colons[i : i + 2] for i in range(0, 64, 2))
    assert anchors_cli.accept(place.paths, [colons, fingerprint(place.old)], Answer()) == 0
    assert {fingerprint(one["pem"]) for one in pems(place)} == {fingerprint(place.old), fingerprint(place.new)}
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o644
    assert "no daemon runs" in capsys.readouterr().out
    assert anchors_cli.accept(place.paths, [fingerprint(place.new)], Answer("json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["accepted"], told["removed"]) == ([fingerprint(place.new)], [fingerprint(place.old)])
    assert [one["pem"] for one in pems(place)] == [place.new]


def pems(place: Place) -> list[dict[str, str]]:
    end = "-----END CERTIFICATE-----\n"
    return [{"pem": text + end} for text in place.file.read_text().split(end) if text]


def test_what_was_not_told_is_refused_and_nothing_is_written(place: Place) -> None:
    with pytest.raises(UnavailableError, match="has told no trust anchors"):
        anchors_cli.accept(place.paths, ["ab" * 32], Answer())
    place.tell(place.new)
    for wrong, error in (("ab" * 32, "does not tell abab"), ("abc", "is no SHA-256 fingerprint")):
        with pytest.raises(UsageError, match=error):
            anchors_cli.accept(place.paths, [fingerprint(place.new), wrong], Answer())
    assert place.file.read_text() == place.old
