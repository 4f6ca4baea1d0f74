"""`dfly get` beside the real wget: the same command line, the same source, an equal folder.

Each case runs three times, in a folder of its own: by wget, by dfly through a manager, by dfly
without one. Compared are the exit codes, what came to standard output, and the tree of files:
names, bytes, and times where they are the source's. Where dfly means to differ, the case says in
`differs` why, and what dfly does instead is tested all the same.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest

from tests.source.gatekeeper import Gatekeeper
from tests.support import MONDAY, TUESDAY, SourceServer
from tests.system.scene import content_of
from tests.system.yard import OURS, Tree, Yard, each, needs_wget, open_yard, shown, tree_of

pytestmark = [pytest.mark.system, pytest.mark.long, needs_wget]

A, B = content_of(0.3), content_of(1.7, seed=2)
OLD = parsedate_to_datetime(MONDAY).timestamp()
NEW = parsedate_to_datetime(TUESDAY).timestamp()
BASIC = "Basic YW5uOnNlY3JldA=="   # ann:secret


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Yard]:
    with open_yard(tmp_path_factory.mktemp("wget"), program) as it:
        furnish(it.source)
        yield it


def furnish(source: SourceServer) -> None:
    source.add("/a.bin", A)
    source.add("/b.bin", B, last_modified=TUESDAY)
    source.add("/one/two/three/a.bin", A)
    source.add("/", A)
    source.add("/one/", B)
    source.add("/undated", A, last_modified="")
    source.add("/unranged.bin", B, ranges=False)
    source.add("/chunked.bin", B, framing="chunked", ranges=False)
    source.add("/empty", b"")
    source.add("/told", A, headers=(("Content-Disposition", 'attachment; filename="real.bin"'),))
    source.add("/told-path", A, headers=(
        ("Content-Disposition", 'attachment; filename="../../etc/pass%2fwd"'),))
    source.add("/moved", redirect="/one/two/three/a.bin")
    source.add("/moved-query", redirect="/q?x=1&y=2")
    source.add("/q", A)
    source.add("/basic.bin", A, authorization=BASIC)
    source.add("/digest.bin", A, guard=Gatekeeper("ann", "secret", opaque="o"))
    source.add("/%C3%A9t%C3%A9.bin", A)
    source.add("/with%20space.bin", A)
    source.add("/semi;colon=,.bin", A)
    source.add("/tilde~+&%25.bin", A)
    source.add("/gone", status=410)
    source.add("/broken", status=500)
    source.add("/busy", status=503)
    source.add("/UPPER.Bin", A)


# ------------------------------------------------------------------------------- the cases
@dataclass(frozen=True)
class Case:
    """Command lines ({u} = the source's URL, {h} = its host and port) run one after another in a
    folder that has the files of `before` ({name: (content, time)}).

    `codes` and `files`: dfly's own exit codes and {name: content} where it means to differ from
    wget, for the reason in `differs`."""

    lines: Sequence[Sequence[str]]
    before: Mapping[str, Tuple[bytes, Optional[float]]] = field(default_factory=dict)
    home: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    differs: str = ""
    codes: Optional[Sequence[int]] = None
    files: Optional[Mapping[str, bytes]] = None


def once(*words: str, **more: Any) -> Case:
    return Case([words], **more)


def twice(*words: str, **more: Any) -> Case:
    return Case([words, words], **more)


# Why dfly means to differ. (Others, beside these: long options aren't abbreviated, and no code of
# dfly's is 1 for want of a better one.)
PILE = "what is put together of several sources has the time at which it was"
KEEPS = "nothing is made, emptied or removed for what doesn't come"
KINDS = "wget says 1 to many things; dfly(1) has a code for each"
LOST = "whoever asked for it must learn that it didn't come"

LIST = "{u}/a.bin\n\nnot a url at all:99999999\n  {u}/b.bin  \n{u}/nothing\n"
CASES: Dict[str, Case] = {
    # ---- where files go
    "plain": once("{u}/a.bin"),
    "a taken name": Case([["{u}/a.bin"]] * 3),
    "-O": once("-O", "out", "{u}/a.bin"),
    "-O twice": Case([["-O", "out", "{u}/a.bin"], ["-O", "out", "{u}/b.bin"]]),
    "-O of several": once("-O", "out", "{u}/a.bin", "{u}/b.bin", differs=PILE,
                           files={"out": A + B}),
    "-O of several, one lost": once("-O", "out", "{u}/a.bin", "{u}/nothing", "{u}/b.bin",
                                    differs=PILE, files={"out": A + B}),
    "-O and a 404": once("-O", "out", "{u}/nothing", differs=KEEPS, files={}),
    "-O and a 404 over a file": once("-O", "out", "{u}/nothing", before={"out": (b"old", OLD)},
                                     differs=KEEPS, files={"out": b"old"}),
    "-O into no folder": once("-O", "no/out", "{u}/a.bin", differs=KINDS, codes=[3]),
    "-O and -P": once("-O", "out", "-P", "there", "{u}/a.bin"),
    "-O and -nc": once("-nc", "-O", "out", "{u}/a.bin", before={"out": (b"old", OLD)},
                       differs="left alone is no failure, with -O as without", codes=[0]),
    "-O -": once("-O", "-", "{u}/a.bin"),
    "-qO-": once("-qO-", "{u}/b.bin"),
    "-O - of several": once("-qO-", "{u}/a.bin", "{u}/b.bin"),
    "-O - and a 404": once("-qO-", "{u}/nothing"),
    "-P": once("-P", "there", "{u}/a.bin"),
    "-P deep": once("-P", "there/and/here", "{u}/a.bin", "{u}/b.bin"),
    "-P on a file": once("-P", "a.bin", "{u}/b.bin", before={"a.bin": (b"old", OLD)},
                         differs=KEEPS, codes=[3], files={"a.bin": b"old"}),
    "a folder has the name": once("{u}/a.bin", before={"a.bin/x": (b"x", OLD)},
                                  differs="a name is taken whatever has it", codes=[0],
                                  files={"a.bin/": b"", "a.bin/x": b"x", "a.bin.1": A}),
    "-nc": once("-nc", "{u}/a.bin", before={"a.bin": (b"old", OLD)}),
    "-nc of several": once("-nc", "{u}/a.bin", "{u}/b.bin", before={"a.bin": (b"old", OLD)}),
    "-nc -P": twice("-nc", "-P", "there", "{u}/a.bin"),
    "-x": once("-x", "{u}/one/two/three/a.bin"),
    "-x twice": twice("-x", "{u}/one/two/three/a.bin"),
    "-x -nH": once("-x", "-nH", "{u}/one/two/three/a.bin"),
    "-x --cut-dirs": once("-x", "--cut-dirs=2", "{u}/one/two/three/a.bin"),
    "-x -nH --cut-dirs": once("-x", "-nH", "--cut-dirs=9", "{u}/one/two/three/a.bin"),
    "-x --protocol-directories": once("-x", "--protocol-directories", "{u}/one/two/three/a.bin"),
    "-x of /": once("-x", "{u}/"),
    "-x ..": once("-x", "-nH", "{u}/x/../../one/two/three/a.bin"),
    "-nd": once("-nd", "{u}/one/two/three/a.bin"),
    "--cut-dirs without -x": once("--cut-dirs=1", "{u}/one/two/three/a.bin"),
    "-x -P": once("-x", "-nH", "-P", "there", "{u}/one/two/three/a.bin"),
    "--backups": Case([["--backups=2", "{u}/a.bin"]] * 4),
    "--backups of others": Case([["--backups", "{u}/a.bin"]] * 3,
                                before={"a.bin": (b"old", OLD)}),
    # ---- names
    "index": once("{u}/"),
    "index of a folder": once("{u}/one/"),
    "no path": once("{u}"),
    "no scheme": once("{h}/a.bin"),
    "--default-page": once("--default-page=page.htm", "{u}/one/"),
    "a query": once("{u}/q?x=1&y=2"),
    "a query with slashes": once("{u}/q?x=/1/2"),
    "a fragment": once("{u}/a.bin#part"),
    "spaces": once("{u}/with%20space.bin"),
    "spaces unescaped": once("{u}/with space.bin"),
    "punctuation": once("{u}/semi;colon=,.bin", "{u}/tilde~+&%25.bin"),
    "UTF-8": once("{u}/%C3%A9t%C3%A9.bin"),
    "upper": once("--restrict-file-names=lowercase", "{u}/UPPER.Bin"),
    "windows": once("--restrict-file-names=windows", "{u}/q?x=1:2"),
    "ascii": once("--restrict-file-names=ascii", "{u}/%C3%A9t%C3%A9.bin"),
    "a name told, unasked": once("{u}/told"),
    "--content-disposition": twice("--content-disposition", "{u}/told"),
    "--content-disposition of nothing told": once("--content-disposition", "{u}/a.bin"),
    "--content-disposition -P": once("--content-disposition", "-P", "there", "{u}/told"),
    "--content-disposition -O": once("--content-disposition", "-O", "mine", "{u}/told"),
    "--content-disposition -nc": once("--content-disposition", "-nc", "{u}/told",
                                      before={"real.bin": (b"old", OLD)}),
    "redirect": once("{u}/moved"),
    "--trust-server-names": once("--trust-server-names", "{u}/moved"),
    "--trust-server-names, a query": once("--trust-server-names", "{u}/moved-query", differs=(
        "the query of where a redirect leads is mostly a signature"), files={"q": A}),
    "--trust-server-names -x": once("--trust-server-names", "-x", "-nH", "{u}/moved", differs=(
        "a server names a file, never folders"), files={"a.bin": A}),
    # ---- what is there already
    "-N": once("-N", "{u}/a.bin"),
    "-N twice": twice("-N", "{u}/a.bin"),
    "-N on the same size and newer": once("-N", "{u}/a.bin", before={"a.bin": (B[:len(A)], NEW)}),
    "-N on another size and newer": once("-N", "{u}/a.bin", before={"a.bin": (b"old", NEW)},
                                         differs="wget's manual, less its If-Modified-Since",
                                         files={"a.bin": A}),
    "-N on an older one": once("-N", "{u}/b.bin", before={"b.bin": (A, OLD)}),
    "-N undated": twice("-N", "{u}/undated"),
    "-N and a 404": once("-N", "{u}/nothing", before={"nothing": (b"old", OLD)}),
    "-N -O": once("-N", "-O", "out", "{u}/a.bin", before={"out": (b"old", NEW)}),
    "-N -P": twice("-N", "-P", "there", "{u}/a.bin"),
    "-N -x": twice("-N", "-x", "{u}/one/two/three/a.bin"),
    "-N of several": twice("-N", "{u}/a.bin", "{u}/b.bin"),
    "--no-use-server-timestamps": once("--no-use-server-timestamps", "{u}/a.bin"),
    "-c of nothing": once("-c", "{u}/b.bin"),
    "-c": once("-c", "{u}/b.bin", before={"b.bin": (B[:300_000], None)}),
    "-c -O": once("-c", "-O", "out", "{u}/b.bin", before={"out": (B[:300_000], None)}),
    "-c -P": once("-c", "-P", "there", "{u}/b.bin", before={"there/b.bin": (B[:300_000], None)}),
    "-c of a whole one": once("-c", "{u}/b.bin", before={"b.bin": (B, NEW)}),
    "-c of a longer one": once("-c", "{u}/a.bin", before={"a.bin": (B, NEW)}),
    "-c without ranges": once("-c", "{u}/unranged.bin",
                              before={"unranged.bin": (B[:300_000], None)}),
    "-c and a 404": once("-c", "{u}/nothing", before={"nothing": (b"old", OLD)}),
    "-c of several": once("-c", "{u}/a.bin", "{u}/b.bin", before={"b.bin": (B[:400_000], None)}),
    # ---- lists
    "-i": once("-i", "list", before={"list": (b"{u}/a.bin\n{u}/b.bin\n", None)}),
    "-i with bad lines": once("-i", "list", before={"list": (LIST.encode(), None)},
                              differs=LOST, codes=[2]),
    "-i -": once("-i", "-", stdin="{u}/a.bin\n{u}/b.bin"),
    "-i -B": once("-i", "list", "-B", "{u}/one/two/",
                  before={"list": (b"three/a.bin\n/b.bin\n../\n", None)}),
    "-i and a URL": once("{u}/b.bin", "-i", "list", before={"list": (b"{u}/a.bin\n", None)}),
    "-i -O": once("-i", "list", "-O", "out", before={"list": (b"{u}/a.bin\n", None)}),
    "-i not there": once("-i", "nowhere", differs=LOST, codes=[3]),
    "-i empty": once("-i", "list", before={"list": (b"", None)}),
    "several": once("{u}/a.bin", "{u}/b.bin", "{u}/a.bin"),
    "several, some lost": once("{u}/a.bin", "{u}/nothing", "{u}/b.bin"),
    # ---- looks
    "--spider": once("--spider", "{u}/a.bin"),
    "--spider of nothing": once("--spider", "{u}/nothing"),
    "--spider of several": once("--spider", "{u}/a.bin", "{u}/nothing"),
    "--spider of a redirect": once("--spider", "{u}/moved"),
    "--spider -O": once("--spider", "-O", "out", "{u}/a.bin", differs=KEEPS, files={}),
    # ---- passwords
    "no password": once("{u}/basic.bin"),
    "--user, Basic": once("--user=ann", "--password=secret", "{u}/basic.bin"),
    "--user, Digest": once("--user=ann", "--password=secret", "{u}/digest.bin"),
    "--http-user": once("--http-user=ann", "--http-password=secret", "{u}/basic.bin"),
    "wrong, Basic": once("--user=ann", "--password=wrong", "{u}/basic.bin"),
    "wrong, Digest": once("--user=ann", "--password=wrong", "{u}/digest.bin"),
    "in the URL": once("http://ann:secret@{h}/basic.bin"),
    "in the URL, Digest": once("http://ann:secret@{h}/digest.bin"),
    "--auth-no-challenge": once("--auth-no-challenge", "--user=ann", "--password=secret",
                                "{u}/basic.bin"),
    ".netrc": once("{u}/basic.bin",
                   home={".netrc": "machine 127.0.0.1 login ann password secret\n"}),
    ".netrc, Digest": once("{u}/digest.bin",
                           home={".netrc": "machine 127.0.0.1\n login ann\n password secret\n"}),
    ".netrc default": once("{u}/basic.bin", home={".netrc": "default login ann password secret\n"},
                           differs="netrc(5) has it, and curl", codes=[0],
                           files={"basic.bin": A}),
    "--no-netrc": once("--no-netrc", "{u}/basic.bin",
                       home={".netrc": "machine 127.0.0.1 login ann password secret\n"}),
    # ---- exit codes and odd content
    "an empty file": once("{u}/empty"),
    "an empty file twice": twice("{u}/empty"),
    "chunked": once("{u}/chunked.bin"),
    "404": once("{u}/nothing"),
    "410": once("{u}/gone"),
    "500": once("-t", "1", "{u}/broken"),
    "503": once("-t", "1", "{u}/busy"),
    "nobody listens": once("-t", "1", "http://127.0.0.1:1/a.bin"),
    "no such name": once("-t", "1", "http://no-such-host.invalid/a.bin"),
    "refused and 404": once("-t", "1", "http://127.0.0.1:1/a.bin", "{u}/nothing"),
    "refused and well": once("-t", "1", "http://127.0.0.1:1/a.bin", "{u}/a.bin"),
    "--max-redirect 0": once("--max-redirect=0", "{u}/moved"),
    "--max-redirect 1": once("--max-redirect=1", "{u}/moved"),
    "no URL": once("-q", differs=KINDS, codes=[2]),
    "no such option": once("--no-such-option", "{u}/a.bin"),
    "a scheme": once("gopher://{h}/a.bin", differs=KINDS, codes=[2]),
    "-4": once("-4", "{u}/a.bin"),
    "-6 of IPv4": once("-t", "1", "-6", "{u}/a.bin"),
    "-V": once("-V"),
}


@pytest.mark.parametrize("name", CASES)
def test_as_wget(yard: Yard, name: str) -> None:
    case = CASES[name]
    ends = each(lambda way: lived(yard, way, case))
    codes, out, tree = ends["wget"]
    for way in OURS:
        mine_codes, mine_out, mine = ends[way]
        told = f"wget: {codes} {shown(tree)}\n{way}: {mine_codes} {shown(mine)}"
        if case.codes is None:
            assert mine_codes == codes, told
        else:
            assert mine_codes == list(case.codes) != codes, told
        if case.files is None:
            assert mine == tree, told
        else:
            assert {path: file.content for path, file in mine.items()} == case.files, told
            assert mine != tree, told
        assert name == "-V" or mine_out == out
    assert bool(case.differs) == (case.codes is not None or case.files is not None)


def lived(yard: Yard, way: str, case: Case) -> Tuple[List[int], bytes, Tree]:
    """(exit codes, all that came to standard output, what is there at the end)."""
    folder = yard.folder(way)
    url = yard.source.url("")
    for name, (content, at) in case.before.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(b"{u}", url.encode()))
        if at is not None:
            os.utime(path, (at, at))
    for name, text in case.home.items():
        path = folder.parent / "home" / name
        path.write_text(text)
        path.chmod(0o600)
    ends = [yard.run(way, folder, *line, stdin=case.stdin.replace("{u}", url).encode())
            for line in case.lines]
    return [end.code for end in ends], b"".join(end.out for end in ends), tree_of(folder)
