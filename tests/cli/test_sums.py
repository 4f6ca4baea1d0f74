"""Checksum files of all kinds, and names that are looked up in them."""
from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from dfly.cli.sums import NAMED_MAX, Sums, algorithm_of
from dfly.digest import Digest
from dfly.errors import FileError, UsageError

A, B = "ab" * 32, "cd" * 32


def test_a_shared_content_has_its_name_at_the_end() -> None:
    sums = Sums(f"{A}  f g", "SUMS")
    for url in (f"dfly://sha256/{A}/f%20g", "http://h/x/f%20g?a=/b"):
        assert sums.digest_for_url(url) == f"sha256:{A}"


@pytest.mark.parametrize("text, name, digest", [
    (f"{A}  f", "f", f"sha256:{A}"),
    (f"{A} *f", "f", f"sha256:{A}"),
    (f"{A.upper()}\tf\r\n", "f", f"sha256:{A}"),
    (f"{A}  ./dir/f", "f", f"sha256:{A}"),
    (f"{A}  a b (c)", "a b (c)", f"sha256:{A}"),
    (f"\\{A}  a\\nb\\\\nc", "a\nb\\nc", f"sha256:{A}"),
    (f"SHA256 (f) = {A}", "f", f"sha256:{A}"),
    (f"SHA2-256(f)= {A}", "f", f"sha256:{A}"),
    (f"SHA256 (a) (b)) = {A}", "a) (b)", f"sha256:{A}"),
    (f"MD5 (f) = {'0' * 32}\nSHA512 (f) = {'1' * 128}\nBLAKE2b (f) = {'2' * 128}", "f",
     f"sha512:{'1' * 128}"),
    (f"{'1' * 128}  f\n{A}  f\n{'0' * 40}  f", "f", f"sha256:{A}"),
    (f"# made today\n\n{B}  other\n{A}  f\n", "f", f"sha256:{A}"),
    (f"{A}  f\n{A}  old/f\n", "f", f"sha256:{A}"),
    (f"{A}  f\n{B}  old/f\n", "f", f"sha256:{A}"),
    (f"{'0' * 40}  f", "f", f"sha1:{'0' * 40}"),
    (f"{A}\n", "whatever", f"sha256:{A}"),
])
def test_the_digest_of_a_file(text: str, name: str, digest: str) -> None:
    assert Sums(text, "SUMS").digest_for(name) == digest
    Digest.parse(digest)


def test_a_signature_around_it_is_passed_over() -> None:
    text = (f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{A}  f\n- {B}  g\n"
            f"-----BEGIN PGP SIGNATURE-----\n\n{'ef' * 32}  h\n-----END PGP SIGNATURE-----\n")
    sums = Sums(text, "SUMS")
    assert sums.digest_for("f") == f"sha256:{A}" and sums.digest_for("g") == f"sha256:{B}"
    with pytest.raises(UsageError, match="no checksum of"):
        sums.digest_for("h")


def test_by_a_url() -> None:
    sums = Sums(f"{A}  a b.iso\n{B}  c", "SUMS")
    assert sums.digest_for_url("http://h/x/a%20b.iso?token=1#f") == f"sha256:{A}"
    with pytest.raises(UsageError):
        sums.digest_for_url("http://h/x/")


def test_two_that_contradict_each_other_are_both_named() -> None:
    with pytest.raises(UsageError) as error:
        Sums(f"{A}  x/f\n{B}  y/f", "SUMS").digest_for("f")
    assert all(part in str(error.value) for part in (A, B, "x/f", "y/f"))


def test_what_is_in_it_is_listed_within_bounds() -> None:
    with pytest.raises(UsageError) as error:
        Sums("".join(f"{A}  n{number}\x1b\n" for number in range(10_000)), "SUMS").digest_for("f")
    assert "n0" in str(error.value) and f"and {10_000 - NAMED_MAX} more" in str(error.value)
    assert len(str(error.value)) < 500 and "\x1b" not in str(error.value)


@pytest.mark.parametrize("text", ["", "<html>not found</html>", f"{A[:-1]}  f", f"{A}0  f",
                                  f"SHA3-256 (f) = {A}", f"SHA512 (f) = {A}", "\x00" * 1000])
def test_what_is_no_checksum_file(text: str) -> None:
    with pytest.raises(UsageError, match="no checksums in it"):
        Sums(text, "SUMS")


@pytest.mark.parametrize("name", ["B2SUMS", "SHA3-256SUMS", "f.blake2b", "SHA512_256SUMS"])
def test_kinds_that_look_like_others(name: str) -> None:
    with pytest.raises(UsageError, match="doesn't know"):
        Sums(f"{A}  f", f"some/folder/{name}")


def test_algorithms_by_digits() -> None:
    assert [algorithm_of("0" * count) for count in (32, 40, 64, 128, 56, 0)] == [
        "md5", "sha1", "sha256", "sha512", "", ""]
    assert algorithm_of("g" * 64) == "" == algorithm_of("\u0660" * 64)


@pytest.mark.parametrize("options", [[], ["--tag"], ["--binary"]])
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_what_sha256sum_writes(options: "list[str]", tmp_path: Path) -> None:
    for name in ("plain", "a b", "back\\slash", "new\nline"):
        (tmp_path / name).write_text(name)
    written = subprocess.run(["sha256sum", *options, *(path.name for path in tmp_path.iterdir())],
                             cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    sums = Sums(written, "SUMS")
    for path in tmp_path.iterdir():
        seal = hashlib.sha256(path.name.encode()).hexdigest()
        assert sums.digest_for(path.name) == f"sha256:{seal}"


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_bytes(b"\xef\xbb\xbf" + A.encode() + b"  f\xff\n")
    assert Sums.read(str(tmp_path / "SUMS")).digest_for("f\ufffd") == f"sha256:{A}"
    with pytest.raises(FileError):
        Sums.read(str(tmp_path))
