"""Names of contents: what is refused as a URL, what a plain one is, task ids."""
from __future__ import annotations

import random
from urllib.parse import urlsplit

import pytest

from dfly.errors import UsageError
from dfly.names import (
    canonical_url,
    is_plain_url,
    is_shared_url,
    is_task_id,
    origin_of,
    shared_digest,
    shared_url,
    split_url,
)


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


# -------------------------------------------------------------------------------- shared
HEX = "ab" * 32


@pytest.mark.parametrize("url", [
    f"dfly://sha256/{HEX}", f"dfly://sha256/{HEX}/", f"dfly://sha256/{HEX}/a%20b.iso",
    f"DFLY://SHA256/{HEX.upper()}/x"])
def test_a_shared_contents_url_is_its_digest_whatever_name_it_bears(url: str) -> None:
    assert is_shared_url(url) and is_plain_url(url)
    assert shared_digest(url) == f"sha256:{HEX}"
    assert canonical_url(url) == f"dfly://sha256/{HEX}"
    assert origin_of(url) == "dfly://sha256"
    with pytest.raises(UsageError, match="unknown scheme"):
        split_url(url)   # no server has it


@pytest.mark.parametrize("url", [
    "dfly://", "dfly://sha256", "dfly://sha256/", f"dfly://sha256/{HEX[:-1]}",
    f"dfly://sha256/{HEX}0", f"dfly://md5/{HEX}", f"dfly:///{HEX}", f"dfly://sha256/{HEX}/a/b",
    f"dfly://sha256/{HEX}?name=a", f"dfly://sha256/{HEX}#a", f"dfly://u:p@sha256/{HEX}",
    f"dfly://sha256/{HEX}/a b", f"dfly://sha256/{HEX}/\udcff", f"dfly://sha256/{'g' * 64}",
    f"dfly://sha256/{HEX}/{'a' * 8000}"])
def test_malformed_urls_of_shared_contents(url: str) -> None:
    assert is_shared_url(url) and not is_plain_url(url)
    for ask in (shared_digest, canonical_url, split_url, origin_of):
        with pytest.raises(UsageError, match="malformed URL|characters") as caught:
            ask(url)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, part", [
    ("", ""), ("image.iso", "/image.iso"), ("a b", "/a%20b"), ("\u00fc", "/%C3%BC"),
    ("\udcff", "/%FF"), ("50%/?#", "/50%25%2F%3F%23")])
def test_a_file_name_in_a_shared_contents_url(name: str, part: str) -> None:
    url = shared_url(f"sha256:{HEX}", name)
    assert url == f"dfly://sha256/{HEX}{part}" and shared_digest(url) == f"sha256:{HEX}"


def test_other_urls_are_not_shared_contents() -> None:
    for url in ("http://f/a", "dfly:/sha256", "", "xdfly://sha256/"):
        assert not is_shared_url(url) and shared_digest(url) == ""
