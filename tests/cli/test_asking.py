"""Which proxies a download names, from the environment, -e and options."""
from __future__ import annotations

from typing import Any, Dict, List

import pytest

from dfly.cli import main

URL = "http://files.example/f"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
P, Q = "http://p:1", "http://q:2"


def of(http: str, https: str, no_proxy: str = "") -> Dict[str, Any]:
    chosen = [["http", http], ["https", https]]
    return {"by_scheme": [pair for pair in chosen if pair[1]], "no_proxy": no_proxy}


@pytest.mark.parametrize("environment, words, proxies", [
    ({}, [], None),
    ({"http_proxy": P}, [], of(P, "")),
    ({"HTTP_PROXY": P}, [], None),
    ({"HTTPS_PROXY": P, "NO_PROXY": "a,b"}, [], of("", P, "a,b")),
    ({"all_proxy": P, "https_proxy": Q}, [], of(P, Q)),
    ({"http_proxy": "", "all_proxy": P}, [], of("", P)),
    ({"https_proxy": "", "HTTPS_PROXY": P}, [], None),
    ({"http_proxy": P}, ["-e", f"http_proxy={Q}"], of(Q, "")),
    ({"http_proxy": P}, ["-e", "use_proxy=off"], {}),
    ({"http_proxy": P}, ["--no-proxy"], {}),
    # The daemon's environment may name proxies that this one doesn't.
    ({"no_proxy": "*"}, [], {}),
    ({"NO_PROXY": "a, *"}, [], {}),
    ({}, ["-e", "no_proxy=*"], {}),
    ({"no_proxy": "a"}, [], None),
])
def test_proxies_are_whose_word_comes_first(
        daemon: Any, monkeypatch: pytest.MonkeyPatch, environment: Dict[str, str],
        words: List[str], proxies: Any) -> None:
    daemon.events = [{"event": "failed", "exit_code": 8, "what": "asked", "hint": ""}]
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["get", URL, *words]) == 8
    assert daemon.asked("/v1/get")["access"].get("proxies") == proxies
