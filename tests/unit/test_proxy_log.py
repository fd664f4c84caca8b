from __future__ import annotations

import pytest

from harness.system import proxy_log


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("[     0.002034s]  INFO ThreadId(01) linkerd2_proxy: release 2.366.0 (29637b64f) by linkerd on 2026-08-20", "info"),
        ("[    13.102000s]  WARN ThreadId(01) linkerd_reconnect: Failed to connect error=endpoint 10.42.0.12:8090", "warning"),
        ("[  1301.1ms] ERROR the development proxy writes like this", "error"),
        ('{"timestamp":"[     0.001s]","level":"ERROR","fields":{"message":"no"},"target":"linkerd_app"}', "error"),
        ("[     0.002034s] DEBUG ThreadId(01) its own filter asked for that", "info"),
        ("Invalid configuration: an ERROR in the middle", "info"),
    ],
)
def test_lines_of_the_proxy_keep_their_level(line: str, level: str) -> None:
    assert proxy_log.level(line) == level
