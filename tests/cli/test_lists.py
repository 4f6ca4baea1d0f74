"""Lists of URLs: what is read, what is passed over, what is told of."""
from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from dfly.cli.lists import URLS_MAX, parse_list, read_list, url_of
from dfly.errors import FileError, UsageError

HEX = "ab" * 32


def test_one_url_a_line_with_spaces_comments_and_other_systems_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(b"\xef\xbb\xbfhttp://h/a\n\n  http://h/b  \r\n# no\n#http://h/c\nhttp://h/d")
    found = read_list(str(file))
    assert [(entry.url, entry.line, entry.error) for entry in found] == [
        ("http://h/a", 1, None), ("http://h/b", 3, None), ("http://h/d", 6, None)]


@pytest.mark.parametrize("line, digest, url", [
    (f"sha256:{HEX}  http://h/a", f"sha256:{HEX}", "http://h/a"),
    (f"SHA-256={HEX.upper()}\thttp://h/a", f"sha256:{HEX}", "http://h/a"),
    (f"{HEX}  http://h/a", f"sha256:{HEX}", "http://h/a"),
    (f"{HEX} *http://h/a", f"sha256:{HEX}", "http://h/a"),
    (f"md5:{'0' * 32} http://h/a", f"md5:{'0' * 32}", "http://h/a"),
    ("http://h/a", "", "http://h/a"),
])
def test_a_line_may_begin_with_a_digest(line: str, digest: str, url: str) -> None:
    (entry,) = parse_list(line, "list")
    assert (entry.digest, entry.url) == (digest, url)


def test_bad_lines_are_told_of_by_number_in_their_place_and_stop_no_other() -> None:
    found = parse_list("http://h/a\nnot a url\nftp://h/x\n/rooted\nsha256:12 http://h/a\n"
                       "http://h/\x1b[2J\nhttp://h:99999/\n\udcff\nhttp://h/z\n", "my list")
    assert [entry.line for entry in found] == list(range(1, 10))
    assert [entry.url for entry in found if entry.error is None] == ["http://h/a", "http://h/z"]
    errors = [entry.error for entry in found if entry.error is not None]
    assert [str(error).split(": ")[0] for error in errors] == [
        f"my list:{number}" for number in (2, 3, 4, 5, 6, 7, 8)]
    assert "malformed URL" in str(errors[0])
    assert all(error.exit_code == 2 and "\x1b" not in str(error) for error in errors)


@pytest.mark.parametrize("text, base, url", [
    ("/f", "http://h/d/x", "http://h/f"),
    ("f", "http://h/d/x", "http://h/d/f"),
    ("../f", "http://h/d/e/x", "http://h/d/f"),
    ("?q=http://other/", "http://h/d/x", "http://h/d/x?q=http://other/"),
    ("https://other/f", "http://h/d/x", "https://other/f"),
    ("//other/f", "http://h/d/x", "http://other/f"),
    ("h/f", None, "http://h/f"),
    ("h:8080/f", None, "http://h:8080/f"),
    ("h/f?from=http://other/", None, "http://h/f?from=http://other/"),
    ("http://h/a b/c d?e f", None, "http://h/a%20b/c%20d?e%20f"),
    ("a b", "http://h/d/x", "http://h/d/a%20b"),
])
def test_what_was_written_as_a_url(text: str, base: Optional[str], url: str) -> None:
    assert url_of(text, base) == url


@pytest.mark.parametrize("text, base", [
    ("/f", None), ("a b/c", None), ("http://a b/c", None), ("?f", None), ("../f", None),
    ("", None), ("//[x", "http://h/"), ("file:///etc/passwd", "http://h/")])
def test_what_is_no_url(text: str, base: Optional[str]) -> None:
    with pytest.raises(UsageError):
        url_of(text, base)


def test_a_base_must_be_one() -> None:
    with pytest.raises(UsageError):
        parse_list("f\n", "list", "foo")


def test_no_list_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_list(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="more than"):
        parse_list("http://h/\n" * (URLS_MAX + 1), "list")
    assert read_list("/dev/null") == []
