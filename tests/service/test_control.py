"""What a caller may ask of the daemon, and what is refused before anything is begun."""
from __future__ import annotations

from typing import Any, Dict

import pytest

from dfly.errors import UsageError
from dfly.service.control import wish_of

URL = "http://files.example/a"


def test_a_wish_says_all_that_was_asked() -> None:
    wish = wish_of({"url": URL, "tag": "t", "filters": ["sig"], "headers": [["X-A", "1"]],
                    "digest": "sha256:" + "ab" * 32, "check": "md5:" + "00" * 16,
                    "no_source": True, "limit_bps": 5, "timeout_s": 2, "tries": 3})
    assert (wish.spec.url, wish.spec.tag, wish.spec.filters) == (URL, "t", ("sig",))
    assert [digest.algorithm for digest in wish.checks] == ["sha256", "md5"]
    assert wish.headers == (("X-A", "1"),) and wish.no_source
    assert (wish.limit_bps, wish.timeout_s, wish.tries) == (5, 2, 3)


@pytest.mark.parametrize("asked", [
    {}, {"url": "ftp://files.example/a"}, {"url": "http:///a"}, {"url": URL, "tries": 0},
    {"url": URL, "tries": "x"}, {"url": URL, "limit_bps": -1}, {"url": URL, "timeout_s": 0},
    {"url": URL, "headers": [["a"]]}, {"url": URL, "headers": 3},
    {"url": URL, "digest": "sha256:x"},
    {"url": URL, "headers": [["Range", "bytes=0-3"]]},
    {"url": URL, "headers": [["Connection", "close"]]},
    {"url": URL, "headers": [["a b", "x"]]}, {"url": URL, "headers": [["X", "1\r\nHost: evil"]]},
    {"url": URL, "headers": [["Accept-Encoding", "gzip"]]}, {"url": URL, "filters": 7},
])
def test_what_can_not_be_is_refused_in_one_line(asked: Dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        wish_of(asked)
    assert "\n" not in str(caught.value)
