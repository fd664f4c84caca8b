"""Versions of linkerd2-proxy, those that cannot work with a Workload API, and the table of Linkerd's releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import problems, proxy_release
from harness.errors import UnavailableError
from harness.proxy_release import Release
from tests.mesh import ROOT


@pytest.mark.parametrize("text", ["2.366.0", "v2.366.0", "release/v2.366.0"])
def test_the_tag_and_the_number_are_the_same_release(text: str) -> None:
    assert proxy_release.parse(text) == Release((2, 366, 0))


@pytest.mark.parametrize(
    "text", ["", "2.366", "../../etc", "2.366.0/..", "2.366.0-", "2.366.0\n", "edge-26.8.3", "02.1.1", "2.1.1-a/b"]
)
def test_what_is_no_version_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        proxy_release.parse(text)


numbers = st.integers(0, 999_999_999)
releases = st.builds(
    Release,
    st.tuples(numbers, numbers, numbers),
    st.one_of(st.just(""), st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}", fullmatch=True)),
)


@given(releases)
def test_text_form_is_read_back_and_is_one_file_name(release: Release) -> None:
    assert proxy_release.parse(str(release)) == release
    assert "/" not in str(release) and not str(release).startswith(".")


def test_order_is_by_number_with_builds_before_their_release() -> None:
    texts = ["2.9.0", "2.331.0-dev.2", "2.331.0", "2.366.0", "0.0.0-dev.29637b64f"]
    assert [str(r) for r in sorted(map(proxy_release.parse, texts))] == [
        "0.0.0-dev.29637b64f",
        "2.9.0",
        "2.331.0-dev.2",
        "2.331.0",
        "2.366.0",
    ]


@pytest.mark.parametrize(
    ("line", "version"),
    [
        # As linkerd2-proxy prints it, in both log formats; the second with a version that the tag of its image does not tell.
        (
            "[     0.000237s]  INFO ThreadId(01) linkerd2_proxy: release 2.366.0 (29637b64f) by lab on 2026-11-24T15:16:13Z",
            "2.366.0",
        ),
        ('{"fields":{"message":"release 2.330.0 (0a1b2c3) by linkerd on 2025-12-01T00:00:00Z"}}', "2.330.0"),
        ("linkerd2_proxy: debug 0.0.0-dev.29637b64f (29637b64f) by me on 2026-01-01T00:00:00Z", "0.0.0-dev.29637b64f"),
        ("Invalid configuration: no destination service configured", None),
        ("release 2.366 (29637b64f) by lab", None),
    ],
)
def test_the_version_is_in_the_first_line_of_the_log(line: str, version: str | None) -> None:
    found = proxy_release.from_output(f"{line}\nmore\n")
    assert (str(found) if found else None) == version


@pytest.mark.parametrize("text", ["2.329.0", "2.330.0", "2.303.0", "2.221.0", "1.0.0"])
def test_known_bad_releases_are_refused_with_a_hint(text: str) -> None:
    release = proxy_release.parse(text)
    assert proxy_release.problem(release) is problems.PROXY_BAD_RELEASE
    with pytest.raises(UnavailableError, match=r"proxy-bad-release") as caught:
        proxy_release.check(release)
    assert "2.331.0" in caught.value.hint


@pytest.mark.parametrize("text", ["2.304.0", "2.328.0", "2.331.0", "2.366.0", "0.0.0-dev.29637b64f"])
def test_their_neighbours_are_not(text: str) -> None:
    release = proxy_release.parse(text)
    assert proxy_release.problem(release) is None
    proxy_release.check(release)
    assert proxy_release.problem(None) is None


def releases_of_linkerd() -> list[tuple[str, Release, bool]]:
    """Of docs/proxy.md: edge release, its proxy, and whether the page says that machines can have it."""
    text = (ROOT / "docs" / "proxy.md").read_text().partition("## Which Linkerd has which proxy")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    return [(edge, proxy_release.parse(proxy), machines.startswith("yes")) for _, edge, proxy, machines in cells]


def test_the_table_of_linkerds_releases_says_what_the_code_refuses() -> None:
    table = releases_of_linkerd()
    assert len(table) > 8
    assert [release for _, release, _ in table] == sorted((release for _, release, _ in table), reverse=True)
    for edge, release, machines in table:
        assert machines == (proxy_release.problem(release) is None), edge
    assert any(release.numbers in proxy_release.BAD_WITH_SPIRE for _, release, _ in table)
    assert any(release.numbers == proxy_release.FIRST_FOR_MACHINES for _, release, _ in table)
