"""Each package that is needed at run time may be shipped next to ours: its licence is one of these."""

from __future__ import annotations

import pytest

from tests.dependencies import installed, licences

ALLOWED = {
    *("MIT", "MIT License", "The MIT License", "MIT-0", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "ISC"),
    *("Apache-2.0", "Apache 2", "Apache 2.0", "Apache License 2.0", "Apache License, 2.0", "Apache Software License"),
    *("Apache License", "PSF-2.0", "Python Software Foundation License", "MPL-2.0", "Mozilla Public License 2.0"),
    *("GPL-2.0-or-later", "GNU General Public License v2 or later"),
    # A library that a program of ours calls, and nothing of it is in ours.
    *("LGPLv2+", "GNU Lesser General Public License v2 or later"),
}  # fmt: skip
NEEDED = {"h2", "httpx", "pyroute2", "pyyaml", "structlog", "aiohttp", "cryptography"}


def test_all_of_them_are_looked_at() -> None:
    assert installed().keys() >= NEEDED


@pytest.mark.parametrize("name", sorted(installed()))
def test_its_licence_is_allowed(name: str) -> None:
    found = licences(installed()[name])
    assert found and any(one in ALLOWED for one in found), found
