"""Images read from blobs in memory: which manifest, which layer, and every way in which bytes can be wrong."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Any

import pytest

from harness.errors import UnavailableError, UsageError
from harness.system import oci, oci_registry
from tests.images import ARCHITECTURE, PROXY, Blobs, layer, special

BASE = layer(("etc/passwd", b"root"), (PROXY, b"old"))
WANTED = layer((f"./{PROXY}", b"the binary"), ("usr/lib/linkerd/linkerd-await", b"await"))
TOP = layer(("bin/sleep", b"sleep"))


def extracted(blobs: Blobs, top: str, architecture: str = ARCHITECTURE) -> bytes:
    out = io.BytesIO()
    oci.extract(blobs, oci.resolve(blobs, blobs.stored[top], architecture), f"/{PROXY}", out)
    return out.getvalue()


def test_the_highest_layer_that_has_the_file_counts_and_lower_ones_are_not_fetched() -> None:
    blobs = Blobs()
    top = blobs.image(gzip.compress(BASE), gzip.compress(WANTED), TOP)
    assert extracted(blobs, top) == b"the binary"
    assert oci.sha256(gzip.compress(BASE)) not in blobs.fetched


def test_an_index_leads_to_the_manifest_of_the_asked_platform() -> None:
    blobs = Blobs()
    arm = blobs.image(layer((PROXY, b"arm")), architecture="arm64")
    amd = blobs.image(layer((PROXY, b"amd")), architecture="amd64")
    top = blobs.index((arm, "arm64"), (amd, "amd64"), (blobs.image(TOP), "unknown"))
    assert extracted(blobs, top, "amd64") == b"amd"
    assert extracted(blobs, top, "arm64") == b"arm"
    assert oci.resolve(blobs, blobs.stored[top], "amd64").digests == (top, amd)
    with pytest.raises(UnavailableError, match=r"not for linux/riscv64, but for linux/amd64, linux/arm64"):
        extracted(blobs, top, "riscv64")


def test_an_index_that_lies_about_a_platform_and_a_lone_manifest_of_another_are_noticed() -> None:
    blobs = Blobs()
    other = blobs.image(layer((PROXY, b"x")), architecture="s390x")
    for top in (other, blobs.index((other, ARCHITECTURE))):
        with pytest.raises(UnavailableError, match=r"not for linux/.*, but for linux/s390x"):
            extracted(blobs, top)


def test_indexes_that_lead_to_indexes_end() -> None:
    blobs = Blobs()
    top = blobs.image(WANTED)
    for _ in range(2):
        top = blobs.index((top, None))
    assert extracted(blobs, top) == b"the binary"
    with pytest.raises(UnavailableError, match="lead to more indexes"):
        extracted(blobs, blobs.index((top, None)))


@pytest.mark.parametrize(
    "deletion",
    ["usr/lib/linkerd/.wh.linkerd2-proxy", "usr/lib/.wh.linkerd", "usr/.wh.lib", ".wh.usr", "usr/lib/linkerd/.wh..wh..opq"],
)
def test_a_file_that_a_higher_layer_deleted_is_not_there(deletion: str) -> None:
    blobs = Blobs()
    with pytest.raises(UnavailableError, match="there is no /usr/lib/linkerd/linkerd2-proxy"):
        extracted(blobs, blobs.image(WANTED, layer((deletion, b""))))
    # What the same layer brings anew is there.
    assert extracted(blobs, blobs.image(BASE, layer((deletion, b""), (PROXY, b"new")))) == b"new"
    assert extracted(blobs, blobs.image(BASE, layer((PROXY, b"new"), (deletion, b"")))) == b"new"


@pytest.mark.parametrize(
    "entries",
    [
        (special(PROXY, tarfile.SYMTYPE, "/bin/sh"),),
        (special(PROXY, tarfile.LNKTYPE, "bin/sh"),),
        (special(PROXY, tarfile.CHRTYPE),),
        (special("usr/lib/linkerd", tarfile.SYMTYPE, "/tmp"),),
        ((PROXY, b"one"), (PROXY, b"two")),
    ],
    ids=["symbolic link", "hard link", "device", "folder is a link", "twice"],
)
def test_links_devices_and_doubles_are_refused(entries: tuple[Any, ...]) -> None:
    blobs = Blobs()
    with pytest.raises(UnavailableError, match=r"is no plain file|is no directory"):
        extracted(blobs, blobs.image(BASE, layer(*entries)))


@pytest.mark.parametrize("name", [f"../{PROXY}", f"x/../{PROXY}", f"/../{PROXY}", "usr/lib/linkerd/linkerd2-proxy2"])
def test_names_that_only_resemble_it_are_something_else(name: str) -> None:
    blobs = Blobs()
    with pytest.raises(UnavailableError, match="there is no"):
        extracted(blobs, blobs.image(layer((name, b"evil"))))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", ["changed", "short", "long", "other"])
def test_damaged_layers_are_never_taken(damage: str, packed: bool) -> None:
    blobs = Blobs()
    good = gzip.compress(WANTED + bytes(5000)) if packed else WANTED + bytes(5000)
    top = blobs.image(good)
    at = len(good) - 4 if packed else len(good) - 1
    bad = {
        "changed": good[:at] + b"\xff" + good[at + 1 :],
        "short": good[:-1],
        "long": good + b"x",
        "other": layer((PROXY, b"evil")),
    }[damage]
    blobs.stored[oci.sha256(good)] = bad
    with pytest.raises(oci.IntegrityError) as caught:
        extracted(blobs, top)
    assert caught.value.exit_code == 1


def test_a_manifest_and_a_configuration_with_another_digest_are_refused() -> None:
    blobs = Blobs()
    manifest = blobs.image(WANTED)
    top = blobs.index((manifest, ARCHITECTURE))
    right = blobs.stored[manifest]
    blobs.stored[manifest] = right + b" "
    with pytest.raises(oci.IntegrityError):
        extracted(blobs, top)
    blobs.stored[manifest] = right
    config = json.loads(right)["config"]["digest"]
    blobs.stored[config] = blobs.stored[config].replace(b"linux", b"LINUX")
    with pytest.raises(oci.IntegrityError):
        extracted(blobs, top)


def test_zstd_is_refused_by_name() -> None:
    blobs = Blobs()
    with pytest.raises(UnavailableError, match="zstd") as caught:
        extracted(blobs, blobs.image(b"\x28\xb5\x2f\xfd" + bytes(100)))
    assert "skopeo" in caught.value.hint


def test_a_decompression_bomb_ends() -> None:
    packed = gzip.compress(bytes(1 << 20))
    plain = oci.unpacked(oci.Checked(iter([packed]), oci.Descriptor(oci.sha256(packed), len(packed))), limit=1 << 19)
    with pytest.raises(UnavailableError, match="unpacks to more than 524288 bytes"):
        while plain.read(10_000):
            pass


@pytest.mark.parametrize("data", [b"", b"x", b"no tar" * 1000, gzip.compress(b"no tar" * 1000)], ids=range(4))
def test_a_layer_that_is_no_archive_is_said_to_be_none(data: bytes) -> None:
    blobs = Blobs()
    with pytest.raises(UnavailableError, match="no tar archive"):
        extracted(blobs, blobs.image(data))


def test_a_layer_may_have_several_gzip_members() -> None:
    blobs = Blobs()
    assert extracted(blobs, blobs.image(gzip.compress(WANTED[:700]) + gzip.compress(WANTED[700:]))) == b"the binary"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"layers": 1}',
        b'{"manifests": []}',
        b'{"manifests": [7]}',
        b'{"layers": [{}], "config": {}}',
        b'{"layers": [{"digest": "sha256:../../x", "size": 1}], "config": {}}',
        b'{"layers": [{"digest": "sha512:00", "size": 1}], "config": {}}',
        json.dumps({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1 << 40}]}).encode(),
        json.dumps({"layers": [{"digest": "sha256:" + "0" * 64, "size": -1}]}).encode(),
        b'{"schemaVersion": 1, "fsLayers": []}',
        json.dumps(
            {"manifests": [{"digest": "sha256:../x", "platform": {"os": "linux", "architecture": ARCHITECTURE}}]}
        ).encode(),
    ],
)
def test_nonsense_in_place_of_a_manifest_is_an_error_of_ours(document: bytes) -> None:
    with pytest.raises(UnavailableError):
        oci.resolve(Blobs(), document, ARCHITECTURE)


def test_a_file_that_claims_more_than_any_binary_has_is_refused() -> None:
    huge = special(PROXY, tarfile.REGTYPE)
    huge.size = oci.MAX_FILE_BYTES + 1
    blobs = Blobs()
    with pytest.raises(UnavailableError, match="sensible size"):
        extracted(blobs, blobs.image(gzip.compress(huge.tobuf() + bytes(1 << 20))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cr.l5d.io/linkerd/proxy:edge-26.8.3", ("cr.l5d.io", "linkerd/proxy", "edge-26.8.3")),
        ("localhost/p:1", ("localhost", "p", "1")),
        ("[::1]:5000/p:1", ("[::1]:5000", "p", "1")),
        (f"127.0.0.1:5000/a/b_c@sha256:{'a' * 64}", ("127.0.0.1:5000", "a/b_c", f"sha256:{'a' * 64}")),
        (f"ghcr.io/linkerd/proxy:tag@sha256:{'a' * 64}", ("ghcr.io", "linkerd/proxy", f"sha256:{'a' * 64}")),
    ],
)
def test_references(text: str, expected: tuple[str, str, str]) -> None:
    found = oci_registry.parse(text)
    assert (found.registry, found.repository, found.version) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "proxy", "linkerd/proxy:tag", "ghcr.io/linkerd/proxy", "ghcr.io/a/../b:1", "ghcr.io/A:1", "https://ghcr.io/a:1"),
        *("ghcr.io/a:b/c", "u:p@ghcr.io/a:1", "ghcr.io/a@sha256:12", "ghcr.io/a:1?x", "-x.io/a:1", "ghcr.io/a:1\n"),
    ],
)
def test_what_is_no_reference_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        oci_registry.parse(text)


def header(kind: bytes, size: int) -> bytes:
    """As a member's header says of the next one's; tarfile itself writes none like it."""
    info = tarfile.TarInfo("x")
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_would_be_held_whole_is_refused(kind: bytes) -> None:
    blobs = Blobs()
    bomb = header(kind, 2 << 30) + bytes(1 << 16)
    with pytest.raises(UnavailableError, match="a header in the archive has 2147483648 bytes"):
        extracted(blobs, blobs.image(gzip.compress(bomb)))


def test_headers_of_headers_end() -> None:
    blobs = Blobs()
    nested = header(tarfile.GNUTYPE_LONGNAME, 1) + b"a" + bytes(511)
    with pytest.raises(UnavailableError, match="too many headers in the archive follow each other"):
        extracted(blobs, blobs.image(gzip.compress(nested * 5000)))
