"""dfget's words become dfly get's, and the program knows by which name it was called."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

import dfly.cli
from dfly import __version__
from dfly.cli import called_as, main, parser_for
from dfly.cli.dfget import FLAGS, IGNORED, KEPT, overview, translate
from dfly.config import GetSettings, load
from dfly.errors import UsageError
from tests.cli.test_manual import MAN, entries, section

ROOT = Path(__file__).resolve().parents[2]
URL = "http://files.example/dir/a.iso"
NAMED = "--output-document=a.iso"
# What dfget 1.0.6 knew, letters beside their long names.
DFGET_NAMES = re.findall(r"-+\w+", """
    -u --url -o --output -n --node -s --locallimit --totallimit --minrate -e --timeout -m --md5
    -i --identifier -f --filter --header -p --pattern --notbs --callsystem --dfdaemon --clientqueue
    --expiretime --alivetime --cacerts --insecure --ip --port --home -b --showbar --console
    --verbose""")


# ------------------------------------------------------------------------------ translation
@pytest.mark.parametrize("words, became", [
    ([], []),
    (["-o", "/tmp/x"], ["--output-document=/tmp/x"]),
    (["--output=-x"], ["--output-document=-x"]),
    (["-o/tmp/x"], ["--output-document=/tmp/x"]),
    (["-o=x"], ["--output-document=x"]),
    (["-bo", "x"], ["--output-document=x", "--progress=bar:force"]),
    (["-o", "x", "--output", "y"], ["--output-document=y"]),
    (["-n", "m1"], ["--manager=m1"]),
    (["-n", "m1:7=1, m2:7=10,m3=2"], ["--manager=m2:7,m3,m1:7"]),
    (["--node", "m1", "--node=m2,m3"], ["--manager=m1", "--manager=m2,m3"]),
    (["-n", "[::1]:65002=3"], ["--manager=[::1]:65002"]),
    (["-s", "20M"], ["--limit-rate=20M"]),
    (["-s", "20MB"], ["--limit-rate=20M"]),
    (["--locallimit", "5g"], ["--limit-rate=5g"]),
    (["-s", "100B"], ["--limit-rate=100"]),
    (["-s", "512"], ["--limit-rate=512"]),
    (["-e", "90"], ["--deadline=90"]),
    (["--timeout=1m30s"], ["--deadline=90"]),
    (["-e", "1.5h"], ["--deadline=5400"]),
    (["-e", "250ms"], ["--deadline=0.25"]),
    (["-e", "1ns"], ["--deadline=0.001"]),
    (["-e", "0"], []),
    (["-m", "d" * 32], ["--md5=" + "d" * 32]),
    (["-m", ""], []),
    (["-i", "build 7"], ["--tag=build 7"]),
    (["-f", "key&sign"], ["--filter=key,sign"]),
    (["-f", "&"], []),
    (["-p", "p2p"], []),
    (["-p", "source"], ["--no-p2p"]),
    (["--header", "A: b,c", "--header=Host: d"], ["--header=A: b,c", "--header=Host: d"]),
    (["--notbs"], ["--no-source"]),
    (["--notbs=true"], ["--no-source"]),
    (["--notbs=false"], []),
    (["--notbs", "--notbs=0"], []),
    (["--cacerts", "a.pem,b.pem", "--cacerts=c.pem"],
     ["--ca-certificate=a.pem", "--ca-certificate=b.pem", "--ca-certificate=c.pem"]),
    (["--insecure"], ["--no-check-certificate"]),
    (["--showbar"], ["--progress=bar:force"]),
    (["--console"], ["-v"]),
    (["--console", "--verbose"], ["-v"]),
    (["--dfdaemon=false", "--callsystem", ""], []),
    (["--"], []),
])
def test_words_with_a_meaning(words: List[str], became: List[str]) -> None:
    named = [] if any(word.startswith("--output-document") for word in became) else [NAMED]
    assert translate(["-u", URL, *words]) == ([URL, *named, *became], [])


def test_without_o_the_urls_name_is_replaced_not_numbered() -> None:
    assert translate(["-u", "http://f/d/a%20b"])[0][1] == "--output-document=a b"
    assert translate(["-u", "http://f/"])[0][1] == "--output-document=index.html"
    shared = f"dfly://sha256/{'ab' * 32}/f"
    assert translate(["-u", shared])[0] == [shared, "--output-document=f"]


@pytest.mark.parametrize("flag", IGNORED, ids=lambda flag: flag.name)
def test_words_without_a_meaning_are_warned_of_once(flag: Any) -> None:
    words = [f"{flag.name}=1", f"{flag.name}=1"] if flag.metavar else [flag.name, flag.name]
    became, (warning,) = translate(["-u", URL, *words])
    assert became == [URL, NAMED]
    assert warning == f"{flag.name} has no meaning any more: {flag.meaning}"


@pytest.mark.parametrize("words, became, warning", [
    (["-p", "cdn"], [], "--pattern cdn is as p2p"),
    (["-n", "m:8002=2"], ["--manager=m:8002"], "--node m:8002: 8002 was a supernode's port"),
    (["-m", "0" * 32, "-i", "x"], ["--md5=" + "0" * 32], "--identifier has no effect beside"),
])
def test_words_with_half_a_meaning_are_warned_of(words: List[str], became: List[str],
                                                 warning: str) -> None:
    translated, (said,) = translate(["-u", URL, *words])
    assert translated == [URL, NAMED, *became] and said.startswith(warning)


@pytest.mark.parametrize("words, said", [
    ([], "no URL: name one by -u URL"),
    (["-u", ""], "no URL"),
    (["-u"], "-u, --url needs a value: URL"),
    (["-u", "ftp://f/x"], "unknown scheme"),
    ([URL], f"what is '{URL}'?: the URL goes after -u"),
    (["-u", URL, "--", "x"], "what is 'x'?"),
    (["-u", URL, "--", "-o", "x"], "what is '-o'?"),
    (["-u", URL, "-"], "what is '-'?"),
    (["-u", URL, "-x"], "no option -x"),
    (["-u", URL, "--no-check"], "no option --no-check"),
    (["-u", URL, "-bx"], "no option -x"),
    (["-u", URL, "-O", "x"], "no option -O"),
    (["-u", URL, "--notbs=perhaps"], "--notbs: neither true nor false"),
    (["-u", URL, "-b=x"], "--showbar: neither true nor false"),
    (["-u", URL, "-s", "20mb"], "--locallimit: not a rate: '20mb'"),
    (["-u", URL, "-s", "1.5M"], "--locallimit: not a rate"),
    (["-u", URL, "-e", "-5"], "--timeout: not a duration"),
    (["-u", URL, "-e", "5 s"], "--timeout: not a duration"),
    (["-u", URL, "-p", "http"], "--pattern: no such pattern: 'http'"),
    (["-u", URL, "-n", "m=x"], "--node: not a node: 'm=x'"),
    (["-u", URL, "-n", "m=0"], "--node: not a node: 'm=0'"),
    (["-u", URL, "-n", "=1"], "--node: not a node: '=1'"),
])
def test_wrong_usage(words: List[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        translate(words)
    assert str(caught.value).startswith(said)


def test_every_name_of_dfget_is_known() -> None:
    assert {name for flag in FLAGS for name in flag.names} == set(DFGET_NAMES)


def test_all_that_it_becomes_is_known_to_the_parser_and_understood() -> None:
    """With every option that has a meaning; the values arrive where they belong."""
    values = {"--url": URL, "--node": "m:1=2", "--locallimit": "2MB", "--timeout": "2m",
              "--md5": "0" * 32, "--filter": "a&b", "--pattern": "source", "--header": "A: b",
              "--cacerts": "x.pem"}
    words = [f"{flag.name}={values.get(flag.name, 'text')}" if flag.metavar else flag.name
             for flag in KEPT if flag.name != "--identifier"]
    args = parser_for("get")[1].parse(translate(words)[0])
    settings = load(GetSettings, args, {})
    assert (args.urls, args.output, args.headers, args.verbose) == ([URL], "text", ["A: b"], True)
    assert (settings.manager, settings.filter, settings.no_source) == (("m:1",), ("a", "b"), True)
    assert (settings.limit_rate_bps, settings.deadline_s) == (2 << 20, 120)
    assert settings.no_p2p and settings.no_check_certificate
    assert settings.ca_certificate[0].endswith("x.pem") and settings.progress == "bar:force"
    args = parser_for("get")[1].parse(translate(["-u", URL, "-i", "text"])[0])
    assert args.tag == "text"


# ------------------------------------------------------------------------------ by its name
@pytest.fixture
def as_dfget(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["/usr/local/bin/dfget", *words])
        return main()
    return call


@pytest.mark.parametrize("argv, name", [
    (["dfget"], "dfget"),
    (["./dfget", "-u", "x"], "dfget"),
    (["/a/dfget", "server"], "dfget"),
    (["/a/dfget", "peer", "--store", "x"], "dfly"),   # so a daemon is started from this very file
    (["/dfget/dfly", "-u"], "dfly"),
    (["dfget2"], "dfly"),
    ([""], "dfly"),
])
def test_who_is_called(monkeypatch: pytest.MonkeyPatch, argv: List[str], name: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert called_as() == name


def test_errors_bear_its_name(as_dfget: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_dfget("-u", URL, "--nope") == 2
    assert capsys.readouterr().err == "dfget: no option --nope: see dfget --help\n"
    assert as_dfget("server", "--port", "1") == 2
    said = capsys.readouterr().err
    assert said.startswith("dfget: dfget server is no more: ") and said.count("\n") == 1
    assert as_dfget() == 2


def test_help_and_version(as_dfget: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["version"]):
        assert as_dfget(*words) == 0
        assert capsys.readouterr().out == f"dfget (dfly) {__version__}\n"
    for words in (["--help"], ["-h"], ["help"], ["-u", URL, "--help"]):
        assert as_dfget(*words) == 0
        assert capsys.readouterr().out == overview()
    for flag in FLAGS:
        assert f"  {flag.spelling}" in overview()
    assert max(map(len, overview().splitlines())) <= 100


def test_warnings_come_first_then_dfly_get_runs(
        as_dfget: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: List[List[str]] = []
    monkeypatch.setattr(dfly.cli, "dispatch", lambda words: ran.append(words) or 7)
    assert as_dfget("-u", URL, "-o", "x", "--callsystem", "a", "--notbs") == 7
    assert ran == [["get", URL, "--output-document=x", "--no-source"]]
    said = capsys.readouterr().err
    assert said.startswith("dfget: warning: --callsystem has no meaning") and said.count("\n") == 1


def test_a_link_to_the_built_file_is_dfget(tmp_path: Path) -> None:
    built = tmp_path / "dfly"
    program = ("import build, sys; open(sys.argv[1], 'wb').write("
               "build.pack(build.package_files(build.HERE), build.EPOCH_DEFAULT))")
    subprocess.run([sys.executable, "-c", program, str(built)], cwd=ROOT, check=True)
    built.chmod(0o755)
    (tmp_path / "dfget").symlink_to("dfly")
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
               "XDG_CACHE_HOME": str(tmp_path)}

    def output(*words: str) -> str:
        return subprocess.run(words, cwd=tmp_path, env=environ, text=True, check=True, timeout=60,
                              capture_output=True).stdout

    assert output("./dfget", "version") == f"dfget (dfly) {__version__}\n"
    assert output("dfget", "--help") == overview()
    assert output("dfget", "help", "get") == overview()
    assert output("dfget", "status", "--help").startswith("usage: dfly status")
    assert output("./dfly", "--version") == f"dfly {__version__}\n"


def test_a_download_by_it(daemon: Any, as_dfget: Any, tmp_path: Path,
                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.content = b"new"
    daemon.events = [{"event": "done", "task": "ab" * 32, "length": 3, "path": "", "seconds": 1.0,
                      "from_peers": 3, "from_manager": 0, "from_source": 0, "from_cache": 0}]
    (tmp_path / "a.iso").write_bytes(b"old")
    assert as_dfget("-u", URL, "-f", "k&l", "-s", "1KB", "-i", "t") == 0
    assert (tmp_path / "a.iso").read_bytes() == b"new"
    asked = daemon.asked("/v1/get")
    assert (asked["url"], asked["tag"], asked["filters"]) == (URL, "t", ["k", "l"])
    assert asked["limit_bps"] == 1024.0


# ------------------------------------------------------------------------------ the manual
@pytest.mark.parametrize("name, flags", [("OPTIONS", KEPT), ("OPTIONS WITHOUT MEANING", IGNORED)])
def test_the_page_says_what_the_table_says(name: str, flags: Any) -> None:
    listed = entries(section(MAN / "dfget.1", name))
    said = {f"{flag.spelling} {flag.metavar}".rstrip():
            flag.meaning[0].upper() + flag.meaning[1:] + "." for flag in flags}
    if name == "OPTIONS":
        said["-h, --help"] = "Print the options and leave."
        said["--version"] = "Print the version and leave."
    assert listed == said
