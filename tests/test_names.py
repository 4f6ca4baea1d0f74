"""Names of contents: what is refused as a URL, what a plain one is, task ids."""
from __future__ import annotations

import random
from urllib.parse import urlsplit

import pytest

from dfly.errors import UsageError
from dfly.names import canonical_url, is_plain_url, is_task_id, split_url


@pytest.mark.parametrize("url, says", [
    ("ftp://files.example/a", "unknown scheme"), ("files.example/a", "unknown scheme"),
    ("http:///a", "names no host"), ("http://files.example:99999/a", "malformed URL"),
    ("http://files.example:0/a", "malformed URL"), ("http://files.example/a b", "malformed URL"),
    ("http://files.example/a\udcff", "%FF"),
    ("http://files.example/a\nb", "malformed URL"), ("http://[::1/a", "malformed URL"),
    ("http://files.example/" + "a" * 9000, "9021 characters"), ("", "unknown scheme"),
])
def test_what_cannot_be_fetched_is_refused_in_a_line(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        canonical_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url, plain", [
    ("http://files.example/a/b.iso", True), ("https://10.0.0.1:8443/", True),
    ("http://files.example", True), ("http://f/a%20b", False), ("http://f/a?b", False),
    ("http://f/a#b", False), ("http://u@f/a", False), ("http://[::1]/a", False),
    ("http://f:/a", False), ("http://f:0/a", False), ("http://f:65536/a", False),
    ("http:///a", False), ("HTTP://f/a", False), ("ftp://f/a", False), ("http://f/a:b", False),
    ("http://f/\u00fc", False), ("http://f/" + "a" * 8000, False), ("http:/f/a", False)])
def test_plain_urls(url: str, plain: bool) -> None:
    assert is_plain_url(url) is plain


def test_a_plain_url_is_never_refused_and_has_nothing_hidden() -> None:
    rng = random.Random(1)
    pieces = ["http://", "https://", "a", "f.example", ":", "80", "0", "/", "//", ".", "~", "%41",
              "?", "#", "@", "[", "]", " ", "\u0663", "-", "x.tar"]
    seen = 0
    for _ in range(20_000):
        url = rng.choice(pieces[:2]) + "".join(rng.choices(pieces[2:], k=rng.randrange(7)))
        if is_plain_url(url):
            seen += 1
            parts = split_url(url)
            assert parts == urlsplit(url) and not parts.query and not parts.fragment
            assert parts.path.rpartition("/")[2] == url.partition("://")[2].partition("/")[2] \
                .rpartition("/")[2]
    assert seen > 1000


@pytest.mark.parametrize("text, known", [("ab" * 32, True), ("AB" * 32, False), ("ab" * 31, False),
                                         ("ab" * 31 + "a\n", False), ("", False),
                                         ("\u0661" * 64, False)])
def test_task_ids(text: str, known: bool) -> None:
    assert is_task_id(text) is known
