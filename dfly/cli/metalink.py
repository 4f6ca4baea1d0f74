"""Metalink files: names, sizes, hashes and mirrors of files, written down by who publishes them.

Version 4 (RFC 5854) and its forerunner 3. Both are XML from anywhere: no DOCTYPE (hence no
entities), bounded size, depth and counts, and a file's name is a base name whatever it says. What
can't be used (other protocols, unknown hashes) is left out; a file that contradicts itself, or
that nothing here can fetch, is a fault in its place and doesn't stop the others.
"""
from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from dfly.cli.inputs import read_input, shown
from dfly.cli.target import Rules
from dfly.digest import BEST_FIRST, SIZES, Digest
from dfly.errors import UsageError, printable
from dfly.names import split_url
from dfly.task import MIRRORS_MAX, VOUCHED_MAX, Vouched
from dfly.units import MIB

BYTES_MAX = 10 * MIB
ELEMENTS_MAX = 200_000   # a few files with as many piece hashes as can be used
DEPTH_MAX = 32           # real ones have 5 levels
FILES_MAX = 1_000
LAST = 1_000_000         # priority of a URL that tells none: after all that do (RFC: to 999999)
NAMESPACES = {"urn:ietf:params:xml:ns:metalink": 4, "http://www.metalinker.org/": 3}


@dataclass(frozen=True)
class MetalinkFile:
    """One file: `name` is safe to give to a file; `hashes` maps dfly's names of algorithms to hex
    digits; `urls`, best first, is never empty."""

    name: str
    size: Optional[int]
    hashes: Dict[str, str]
    pieces: Optional[Vouched]
    urls: Tuple[str, ...]

    @property
    def digests(self) -> Tuple[str, ...]:
        """As Digest.parse takes them, strongest first."""
        return tuple(f"{name}:{self.hashes[name]}" for name in BEST_FIRST if name in self.hashes)


class Fault(NamedTuple):
    """A file that can't be had. `name` as it was told, whatever that is."""

    name: str
    error: UsageError


@dataclass(frozen=True)
class Metalink:
    entries: Tuple[Union[MetalinkFile, Fault], ...]   # never empty, in their order
    notes: Tuple[str, ...]   # what was left out, for people


def read_metalink(path: str) -> Metalink:
    """From a file, '-' = standard input. FileError, UsageError."""
    return parse_metalink(read_input(path, BYTES_MAX), shown(path))


def parse_metalink(data: bytes, where: str) -> Metalink:
    """`where` is what messages call it. UsageError for what is no Metalink, or lists nothing."""
    try:
        root = _tree(data)
        version = NAMESPACES.get(_space(root))
        if version is None or _local(root) != "metalink":
            raise UsageError("it's XML of another kind")
        return _Reader(version, where).read(root)
    except UsageError as error:
        raise UsageError(f"{where} is no Metalink that can be used: {error.what}",
                         error.hint) from None


# ----------------------------------------------------------------------------- XML
class _Builder(ET.TreeBuilder):
    """A tree of bounded size, without what a document type could declare."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._depth = 0

    def doctype(self, *_: object) -> None:
        raise UsageError("it has a document type, which no Metalink needs")

    def start(self, tag: Any, attrs: Any, /) -> Any:
        self._count += 1
        self._depth += 1
        if self._count > ELEMENTS_MAX or self._depth > DEPTH_MAX:
            raise UsageError(f"more than {ELEMENTS_MAX} elements, or {DEPTH_MAX} one in another")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Any:
        self._depth -= 1
        return super().end(tag)


def _tree(data: bytes) -> ET.Element:
    parser = ET.XMLParser(target=_Builder())
    try:
        parser.feed(data)
        root = parser.close()
    except ET.ParseError as error:
        raise UsageError(f"it isn't XML ({error})") from None
    except (ValueError, LookupError):   # an encoding that is none
        raise UsageError("it isn't XML in an encoding that can be read") from None
    assert isinstance(root, ET.Element)
    return root


def _space(element: ET.Element) -> str:
    return element.tag[1:].partition("}")[0] if element.tag.startswith("{") else ""


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: Optional[ET.Element], name: str) -> Iterator[ET.Element]:
    """Those of this name, in the same namespace."""
    if element is not None:
        tag = element.tag.rpartition("}")[0] + "}" + name
        yield from (child for child in element if child.tag == tag)


def _child(element: Optional[ET.Element], name: str) -> Optional[ET.Element]:
    return next(_children(element, name), None)


def _text(element: Optional[ET.Element]) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def _number(text: Optional[str]) -> Optional[int]:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


# ----------------------------------------------------------------------------- what it says
class _Reader:
    """One Metalink, whose versions differ in where things stand and how URLs are ranked."""

    def __init__(self, version: int, where: str) -> None:
        self._version = version
        self._where = where
        self._notes: List[str] = []

    def read(self, root: ET.Element) -> Metalink:
        elements = list(_children(root if self._version == 4 else _child(root, "files"), "file"))
        if not elements:
            raise UsageError("it lists no file")
        if len(elements) > FILES_MAX:
            raise UsageError(f"it lists {len(elements)} files", f"the most are {FILES_MAX}")
        return Metalink(tuple(map(self._entry, elements)), tuple(self._notes))

    def _entry(self, element: ET.Element) -> Union[MetalinkFile, Fault]:
        try:
            return self._file(element)
        except UsageError as error:
            return Fault(element.get("name", ""),
                         UsageError(f"{self._where}: {error.what}", error.hint))

    def _file(self, element: ET.Element) -> MetalinkFile:
        name = _safe_name(element.get("name", ""))
        told = _text(_child(element, "size"))
        size = _number(told)
        if told and size is None:
            raise UsageError(f"{name} has an impossible size")
        place = element if self._version == 4 else _child(element, "verification")
        hashes: Dict[str, str] = {}
        for entry in _children(place, "hash"):
            digest = _digest(entry.get("type", ""), _text(entry), name)
            if digest is not None and digest.value.hex() != hashes.setdefault(
                    digest.algorithm, digest.value.hex()):
                raise UsageError(f"two {digest.algorithm} hashes of {name} contradict each other")
        urls = self._urls(element, name)
        if not urls:
            raise UsageError(f"no HTTP or HTTPS address of {name}",
                             "BitTorrent and FTP aren't spoken here")
        return MetalinkFile(name, size, hashes, self._pieces(place, size, name), urls)

    def _pieces(self, place: Optional[ET.Element], size: Optional[int],
                name: str) -> Optional[Vouched]:
        """The list of piece hashes by the best algorithm."""
        lists = {algorithm: entry for entry in _children(place, "pieces")
                 if (algorithm := _algorithm(entry.get("type", "")))}
        algorithm = next((kind for kind in BEST_FIRST if kind in lists), "")
        if not algorithm:
            return None
        length = _number(lists[algorithm].get("length"))
        entries = self._in_order(list(_children(lists[algorithm], "hash")), name)
        if size is None or not length:
            self._notes.append(f"{name}: hashes of pieces without a size are left out")
            return None
        if len(entries) != -(-size // length):
            raise UsageError(f"{name} has {len(entries)} piece hashes, and "
                             f"{-(-size // length)} pieces by its size")
        if len(entries) > VOUCHED_MAX:
            self._notes.append(f"{name}: {len(entries)} hashes of pieces are left out, "
                               f"the most are {VOUCHED_MAX}")
            return None
        digests = [_digest(algorithm, _text(entry), name) for entry in entries]
        return Vouched(algorithm, length, b"".join(digest.value for digest in digests if digest))

    def _in_order(self, entries: List[ET.Element], name: str) -> List[ET.Element]:
        """Version 3 numbers them."""
        if self._version == 4:
            return entries
        numbered = {_number(entry.get("piece")): entry for entry in entries}
        try:
            return [numbered[index] for index in range(len(entries))]
        except KeyError:
            raise UsageError(f"the pieces of {name} aren't numbered from 0") from None

    def _urls(self, element: ET.Element, name: str) -> Tuple[str, ...]:
        place = element if self._version == 4 else _child(element, "resources")
        ranked: Dict[str, int] = {}
        others = len(list(_children(place, "metaurl")))
        for entry in _children(place, "url"):
            url = _text(entry)
            if _can_be_fetched(url):
                ranked[url] = min(self._rank(entry), ranked.get(url, LAST))
            else:
                others += 1
        urls = sorted(ranked, key=lambda url: ranked[url])
        if others:
            self._notes.append(f"{name}: {others} addresses are left out, "
                               "they aren't HTTP or HTTPS")
        if len(urls) > MIRRORS_MAX + 1:
            self._notes.append(f"{name}: only the best {MIRRORS_MAX + 1} of {len(urls)} mirrors "
                               "are used")
        return tuple(urls[:MIRRORS_MAX + 1])

    def _rank(self, entry: ET.Element) -> int:
        """1 = best."""
        if self._version == 4:
            return min(_number(entry.get("priority")) or LAST, LAST)
        preference = _number(entry.get("preference"))
        return LAST if preference is None else max(0, 101 - preference)


def _safe_name(told: str) -> str:
    """The base name of a relative path (RFC 5854 4.1.2.1)."""
    parts = told.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or parts[0].endswith(":"):
        raise UsageError(f"a file can't be called {printable(told[:200])!r}",
                         "names are relative, without '..'")
    name = Rules().safe(parts[-1].lstrip(". "))
    if not name:
        raise UsageError(f"a file can't be called {printable(told[:200])!r}")
    return name


def _can_be_fetched(url: str) -> bool:
    try:
        split_url(url)
    except UsageError:
        return False
    return True


def _algorithm(told: str) -> str:
    """dfly's name of it; "" for one that dfly doesn't know."""
    name = told.strip().lower().replace("-", "")
    return name if name in SIZES else ""


def _digest(told: str, hexadecimal: str, name: str) -> Optional[Digest]:
    """None for an algorithm that dfly doesn't know."""
    algorithm = _algorithm(told)
    if not algorithm:
        return None
    try:
        return Digest.parse(f"{algorithm}:{hexadecimal}")
    except UsageError:
        raise UsageError(f"a hash of {name} is no {algorithm}") from None
