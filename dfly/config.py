"""Settings: one mechanism for every role.

A role's settings are one class whose fields are made by `setting()`. Each field is at
once a flag (`--upload-limit`), an environment variable (`DFLY_PEER_UPLOAD_LIMIT`), a key of the
role's section in an INI file and a value that a config server may hand out. What wins: built-in <
config server < file < environment < flag; every value knows which it was (`origin_of`). The
suffixes `_s` and `_bps` of a field's name are its unit and no part of the other names.

Nothing here opens a socket or starts anything. Values from a config server come from outside:
one that can't be understood is left out and told in `Settings.rejected`, never an exception.
"""
from __future__ import annotations

import os
import stat

from dfly.errors import FileError, UsageError, printable
from dfly.names import join_address
from dfly.units import parse_duration, parse_rate, parse_size

TYPE_CHECKING = False  # `dfly get` reads this at each start: typing and dataclasses cost it 10 ms
if TYPE_CHECKING:
    from typing import (
        Any,
        Callable,
        Dict,
        Iterable,
        List,
        Mapping,
        Optional,
        Protocol,
        Tuple,
        Type,
        TypeVar,
    )

    Environ = Mapping[str, str]
    S = TypeVar("S", bound="Settings")

    class Options(Protocol):
        """Whatever takes options as argparse does."""

        def add_argument(self, *names: str, **about: Any) -> Any: ...

CONFIG_PORT, MANAGER_PORT, PEER_PORT = 65000, 65002, 65003
WORKERS_MAX = 64
SOCKET_PATH_MAX = 100  # bytes; sockaddr_un holds 108, and daemons add a suffix of their own
FILE_MAX = 1 << 20     # bytes of a settings file: far beyond any honest one
VAR_TMP = "/var/tmp"   # anybody may make folders there, and they outlive a boot

BUILT_IN, SERVER, FLAG = "built-in", "config server", "flag"


# ------------------------------------------------------------------------------ where things are
def is_root() -> bool:
    return os.geteuid() == 0


def cache_dir(environ: Environ) -> str:
    """Where pieces are kept: the system's folder for root, XDG's for a user; for one without a
    home that he may write (nobody, www-data), a folder of his own under /var/tmp. That one is made
    here: whoever makes a folder in it later looks no further than at that. FileError if somebody
    else was first."""
    if is_root():
        return "/var/cache/dfly"
    base = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # XDG says: relative is as good as unset
        return os.path.join(base, "dfly")
    path = os.path.join(os.path.expanduser("~"), ".cache", "dfly")
    if os.path.isabs(path) and _can_be_made(path):   # not so: no HOME, and not in passwd
        return path
    return private_dir(f"{VAR_TMP}/dfly-{os.geteuid()}")


def _can_be_made(folder: str) -> bool:
    """True if this user may write there, or where its first missing part would be."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def run_dir(environ: Environ) -> str:
    """Where the local socket lies."""
    if is_root():
        return "/run/dfly"
    base = environ.get("XDG_RUNTIME_DIR", "")
    path = os.path.join(base, "dfly")
    if os.path.isabs(base) and _can_be_made(path):   # not so: that of whoever called su
        return path
    return f"/tmp/dfly-{os.geteuid()}"


def private_dir(path: str) -> str:
    """Make `path` if it isn't there (0700) and check that it belongs to nobody else: in /tmp
    anyone may have made a folder of this name first."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        state = os.lstat(path)
    except OSError as error:
        raise FileError(f"folder {path}: {error.strerror}", "choose another one") from None
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise FileError(f"{path} isn't a folder that only this user may write",
                        "remove it, or choose another place")
    return path


def check_socket_path(path: str) -> str:
    """`path` if a unix socket can have that name."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX:
        raise UsageError(f"socket path of {size} bytes: {path}",
                         f"the kernel takes {SOCKET_PATH_MAX}: name a shorter one by --socket")
    return path


# ------------------------------------------------------------------------- how values are written
def parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "yes", "true", "on"):
        return True
    if lowered in ("0", "no", "false", "off", ""):
        return False
    raise UsageError(f"neither yes nor no: {text!r}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.strip().isdecimal() and len(text) < 20


def parse_count(text: str) -> int:
    """A whole number, 0 or more."""
    if not _is_number(text):
        raise UsageError(f"not a whole number: {text!r}")
    return int(text)


def parse_workers(text: str) -> int:
    count = parse_count(text)
    if count > WORKERS_MAX:
        raise UsageError(f"{count} upload workers", f"{WORKERS_MAX} at most: one a core is enough")
    return count


def parse_at_least_one(text: str) -> int:
    count = parse_count(text)
    if count == 0:
        raise UsageError("must be at least 1")
    return count


def parse_tries(text: str) -> int:
    """0 or 'inf': for ever."""
    return 0 if text.strip() == "inf" else parse_count(text)


def parse_statuses(text: str) -> Tuple[int, ...]:
    """HTTP statuses, a comma list."""
    statuses = tuple(parse_count(part) for part in text.replace("\n", ",").split(",")
                     if part.strip())
    for status in statuses:
        if not 400 <= status <= 599:
            raise UsageError(f"no error status: {status}", "they are 400 to 599")
    return statuses


def parse_port(text: str) -> int:
    if not _is_number(text) or int(text) > 65535:
        raise UsageError(f"not a port: {text!r}", "ports are 0 (any free one) to 65535")
    return int(text)


def split_address(text: str, default_port: int) -> Tuple[str, int]:
    """(host, port) from 'host', 'host:port', '[v6]:port' or 'http://host:port/'."""
    bare = text.strip()
    if bare.startswith("http://"):
        bare = bare[len("http://"):].rstrip("/")
    if bare.startswith("["):
        host, _, rest = bare[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
    elif bare.count(":") > 1:
        host, port = bare, ""
    else:
        host, _, port = bare.partition(":")
    if not host or any(c <= " " or c in "/@?#\\" for c in host):
        raise UsageError(f"not an address: {text!r}", "write it like 10.0.0.1:65002")
    number = parse_port(port) if port else default_port
    if number == 0:
        raise UsageError(f"not an address: {text!r}", "it needs a port other than 0")
    return host, number


def _address(default_port: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        return join_address(*split_address(text, default_port)) if text.strip() else ""
    return parse


def parse_path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def parse_socket(text: str) -> str:
    return check_socket_path(parse_path(text))


def parse_rule(text: str) -> str:
    """'CIDR=label/label': hosts of that network lie there."""
    import ipaddress
    network, equals, location = text.strip().partition("=")
    try:
        ipaddress.ip_network(network, strict=False)
    except ValueError:
        equals = ""
    if not equals or not location:
        raise UsageError(f"not a location rule: {text!r}", "write it like 10.1.0.0/16=eu/dc1/rack7")
    return f"{network}={location}"


def each(parse: Callable[[str], str]) -> Callable[[str], Tuple[str, ...]]:
    """Parser of a list written with commas or on lines of their own; order kept, no doubles."""
    def parse_list(text: str) -> Tuple[str, ...]:
        parts = [parse(part) for part in text.replace("\n", ",").split(",") if part.strip()]
        return tuple(dict.fromkeys(parts))
    return parse_list


# ------------------------------------------------------------------------------ the mechanism
class Setting:
    """What one field is to people. `derive` computes a default that depends on the host."""

    name = ""

    def __init__(self, default: Any, help: str, parse: Callable[[str], Any], metavar: str,
                 **extra: Any) -> None:
        self.default = default
        self.help = help
        self.parse = parse
        self.metavar = metavar
        self.repeat = isinstance(default, tuple)
        self.env: str = extra.get("env", "")
        self.derive: Optional[Callable[[Environ], Any]] = extra.get("derive")
        self.shown: str = extra.get("shown", "")

    def __set_name__(self, owner: Type[Settings], name: str) -> None:
        self.name = name


def setting(default: Any, help: str, parse: Callable[[str], Any] = str, metavar: str = "",
            **extra: Any) -> Any:
    """A field of a settings class. `extra`: `env` = a short variable name beside the regular one,
    `derive` = function of the environment that gives the default in `default`'s stead, `shown` =
    how `--help` words the default."""
    return Setting(default, help, parse, metavar, **extra)


class Settings:
    """Base of all roles' settings; `role` names the section and the variables. Frozen."""

    role = ""
    origins: Dict[str, str]
    rejected: Tuple[str, ...]

    def __init__(self, *, origins: Optional[Dict[str, str]] = None,
                 rejected: Tuple[str, ...] = (), **values: Any) -> None:
        own = {about.name: values.pop(about.name, about.default)
               for about in settings_of(type(self))}
        assert not values, f"{type(self).__name__} knows no {', '.join(values)}"
        self.__dict__.update(own, origins=origins or {}, rejected=rejected)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} can't be changed")

    def changed(self: S, **changes: Any) -> S:
        """A copy with other values for some fields."""
        return type(self)(**{**vars(self), **changes})


def settings_of(role: Type[Settings]) -> Iterable[Setting]:
    """What each field is to people, in the order of the class."""
    return [value for value in vars(role).values() if isinstance(value, Setting)]


def key_of(name: str) -> str:
    """A field's name without its unit: the key in files."""
    for suffix in ("_s", "_bps"):
        if name.endswith(suffix):
            return name[:-len(suffix)]
    return name


def flag_of(name: str) -> str:
    return "--" + key_of(name).replace("_", "-")


def variable_of(role: Type[Settings], name: str) -> str:
    return f"DFLY_{role.role}_{key_of(name)}".upper()


def origin_of(settings: Settings, name: str) -> str:
    """'built-in', 'config server', 'file PATH', 'environment NAME' or 'flag --NAME'."""
    return settings.origins.get(name, BUILT_IN)


def add_flags(parser: Options, role: Type[Settings],
              aliases: Optional[Mapping[str, Tuple[str, ...]]] = None) -> None:
    """Every setting of `role` as a flag, plus --settings. Values stay text until `load`, so that
    one place reads them whatever they came from."""
    parser.add_argument("--settings", dest="settings_file", metavar="FILE",
                        help="read settings from FILE only, not from /etc/dfly/dfly.conf and "
                             "~/.config/dfly/dfly.conf")
    for about in settings_of(role):
        names = [flag_of(about.name), *(aliases or {}).get(about.name, ())]
        shown = f" (default {about.shown})" if about.shown else ""
        help_text = about.help.replace("%", "%%") + shown.replace("%", "%%")
        if about.parse is parse_bool:
            parser.add_argument(*names, dest=about.name, action="store_const", const="yes",
                                help=help_text)
        elif about.repeat:
            parser.add_argument(*names, dest=about.name, action="append",
                                metavar=about.metavar or "VALUE", help=help_text)
        else:
            parser.add_argument(*names, dest=about.name, metavar=about.metavar or "VALUE",
                                help=help_text)


def load(role: Type[S], args: object, environ: Optional[Environ] = None,
         server_values: Optional[Mapping[str, str]] = None) -> S:
    """The settings of `role` for parsed arguments `args` (attributes named as the fields)."""
    environ = os.environ if environ is None else environ
    values: Dict[str, Any] = {}
    origins: Dict[str, str] = {}
    for name, text, origin in _written(role, args, environ):
        values[name] = _parsed(role, name, text, origin)
        origins[name] = origin
    for about in settings_of(role):
        if about.derive is not None and about.name not in values:
            values[about.name] = about.derive(environ)
    settings = role(origins=origins, **values)
    return with_server_values(settings, server_values) if server_values else settings


def with_server_values(settings: S, values: Mapping[str, str]) -> S:
    """`settings` with a config server's values wherever nothing on this host said otherwise. Keys
    that this version doesn't know are left alone: the server may be newer."""
    chosen: Dict[str, Any] = {}
    rejected: List[str] = []
    for about in settings_of(type(settings)):
        text = values.get(key_of(about.name))
        if text is None or origin_of(settings, about.name) not in (BUILT_IN, SERVER):
            continue
        try:
            chosen[about.name] = about.parse(text)
        except UsageError as error:
            rejected.append(printable(f"{key_of(about.name)} from the config server: {error}"))
    origins = {**settings.origins, **dict.fromkeys(chosen, SERVER)}
    return settings.changed(origins=origins, rejected=tuple(rejected), **chosen)


def _parsed(role: Type[Settings], name: str, text: str, origin: str) -> Any:
    about = next(about for about in settings_of(role) if about.name == name)
    try:
        return about.parse(text)
    except UsageError as error:
        raise UsageError(f"{origin}: {error.what}", error.hint) from None


def _written(role: Type[Settings], args: object,
             environ: Environ) -> Iterable[Tuple[str, str, str]]:
    """(field, text, origin) of all that was written down on this host, the weakest first."""
    known = {key_of(about.name): about.name for about in settings_of(role)}
    named = getattr(args, "settings_file", None)
    for path in [str(named)] if named else _usual_files(environ):
        for key, text in read_file(path, named=bool(named)).get(role.role, {}).items():
            if key.replace("-", "_") not in known:
                raise UsageError(f"{path}: [{role.role}] knows no setting {key!r}",
                                 "it knows " + " ".join(sorted(known)))
            yield known[key.replace("-", "_")], text, f"file {path}"
    for about in settings_of(role):
        for variable in filter(None, (about.env, variable_of(role, about.name))):
            text = environ.get(variable, "")
            # Kubernetes sets DFLY_PEER_PORT=tcp://... for a service that is called dfly-peer.
            if text and not text.startswith("tcp://"):
                yield about.name, text, f"environment {variable}"
    for about in settings_of(role):
        given = getattr(args, about.name, None)
        if given is not None:
            text = ",".join(given) if isinstance(given, list) else str(given)
            yield about.name, text, f"flag {flag_of(about.name)}"


# ------------------------------------------------------------------------------ files
def _usual_files(environ: Environ) -> List[str]:
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".config")
    usual = ["/etc/dfly/dfly.conf", os.path.join(base, "dfly", "dfly.conf")]
    # Without HOME, and for a user id that passwd doesn't know, "~" would be in the current folder.
    return [path for path in usual if os.path.isabs(path) and os.path.exists(path)]


def read_file(path: str, *, named: bool = True) -> Dict[str, Dict[str, str]]:
    """{section: {key: text}} of an INI file. One that the user named may be a pipe or /dev/null;
    one that just lies there must be a file: a FIFO would keep every command waiting."""
    import configparser
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        with open(path, encoding="utf-8", opener=None if named else _open_file) as file:
            text = file.read(FILE_MAX + 1)
        if len(text) > FILE_MAX:
            raise UsageError(f"{path} is over {FILE_MAX} characters", "that is no settings file")
        parser.read_string(text, source=path)
    except OSError as error:
        raise FileError(f"settings file {path}: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"settings file: {printable(line)}") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _open_file(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NONBLOCK)
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode) and not os.path.samestat(state, os.stat(os.devnull)):
        os.close(fd)
        raise FileError(f"settings file {path}: it is no file",
                        "remove it, or name another by --settings")
    return fd


# ------------------------------------------------------------------------------ the roles
def _host_name(environ: Environ) -> str:
    return os.uname().nodename


def _store(role: str) -> Callable[[Environ], str]:
    return lambda environ: os.path.join(cache_dir(environ), role)


def _socket(environ: Environ) -> str:
    return os.path.join(run_dir(environ), "peer.sock")


_LISTEN = "address to listen on"
_MANAGERS = "managers, the best first; may be repeated, or a comma list"


class ServeSettings(Settings):
    """A cluster manager."""

    role = "serve"
    listen: str = setting("0.0.0.0", _LISTEN, metavar="ADDRESS", shown="0.0.0.0")
    port: int = setting(MANAGER_PORT, "port to listen on; 0 = any free one", parse_port, "PORT",
                        shown=str(MANAGER_PORT))
    store: str = setting("", "folder for pieces", parse_path, "DIR", derive=_store("serve"),
                         shown="/var/cache/dfly/serve, for users ~/.cache/dfly/serve")
    config: str = setting("", "config server to register with; without one, this manager embeds "
                          "one on its own port", _address(CONFIG_PORT), "HOST:PORT")
    name: str = setting("", "name of this manager", metavar="NAME", derive=_host_name,
                        shown="the host's name")
    address: str = setting("", "how other hosts reach this manager", _address(MANAGER_PORT),
                           "HOST:PORT", shown="the address that the config server sees")
    location: str = setting("", "where this host is, region first: eu/dc1/rack7",
                            metavar="LABELS")
    location_rules: Tuple[str, ...] = setting(
        (), "where hosts of a network are, for those that don't say; may be repeated",
        each(parse_rule), "CIDR=LABELS")
    source_connections: int = setting(4, "connections to the source for one file",
                                      parse_at_least_one, "N", shown="4")
    source_limit_bps: float = setting(0.0, "most that is asked of sources, all files together; "
                                      "0 = no limit", parse_rate, "RATE", shown="0")
    upload_limit_bps: float = setting(0.0, "most that this manager sends to peers; 0 = no limit",
                                      parse_rate, "RATE", shown="0")
    upload_slots: int = setting(16, "pieces sent at once", parse_at_least_one, "N", shown="16")
    workers: int = setting(0, "processes that send pieces, beside this one; 0 = it sends itself",
                           parse_workers, "N", shown="0")
    quota: int = setting(0, "most bytes that the store may hold; 0 = what the disk has",
                         parse_size, "SIZE", shown="0")
    revalidate_s: float = setting(5.0, "ask a source at most this often whether a file changed",
                                  parse_duration, "TIME", shown="5s")
    heartbeat_s: float = setting(10.0, "a peer says at least this often that it lives",
                                 parse_duration, "TIME", shown="10s")
    batch_s: float = setting(0.005, "peers gather reports this long when the manager is idle",
                             parse_duration, "TIME", shown="5ms")
    links_max: int = setting(20_000, "most peers at a time; more are told to come back later",
                             parse_at_least_one, "N", shown="20000")


class PeerSettings(Settings):
    """The daemon of one host."""

    role = "peer"
    manager: Tuple[str, ...] = setting((), _MANAGERS, each(_address(MANAGER_PORT)), "HOST:PORT",
                                       env="DFLY_MANAGER")
    config: str = setting("", "config server that knows the managers", _address(CONFIG_PORT),
                          "HOST:PORT", env="DFLY_CONFIG")
    listen: str = setting("0.0.0.0", _LISTEN, metavar="ADDRESS", shown="0.0.0.0")
    port: int = setting(PEER_PORT, "port to listen on; 0 = any free one", parse_port, "PORT",
                        shown=f"{PEER_PORT}, or any free one if it is taken")
    store: str = setting("", "folder for pieces", parse_path, "DIR", derive=_store("peer"),
                         shown="/var/cache/dfly/peer, for users ~/.cache/dfly/peer")
    socket: str = setting("", "unix socket for dfly get and the like", parse_socket, "PATH",
                          env="DFLY_SOCKET", derive=_socket,
                          shown="/run/dfly/peer.sock, for users $XDG_RUNTIME_DIR/dfly/peer.sock")
    name: str = setting("", "name of this host", metavar="NAME", derive=_host_name,
                        shown="the host's name")
    address: str = setting("", "how other peers reach this host, without port", metavar="ADDRESS",
                           shown="the address that the manager sees")
    location: str = setting("", "where this host is, region first: eu/dc1/rack7",
                            metavar="LABELS")
    upload_limit_bps: float = setting(0.0, "most that this host sends; 0 = no limit", parse_rate,
                                      "RATE", shown="0")
    download_limit_bps: float = setting(0.0, "most that this host receives; 0 = no limit",
                                        parse_rate, "RATE", shown="0")
    upload_slots: int = setting(16, "pieces sent at once", parse_at_least_one, "N", shown="16")
    quota: int = setting(0, "most bytes that the store may hold; 0 = what the disk has",
                         parse_size, "SIZE", shown="0")
    no_source: bool = setting(False, "never go to a source from this host", parse_bool)
    idle_exit_s: float = setting(0.0, "leave after this long without work; 0 = never",
                                 parse_duration, "TIME", shown="0")


class ConfigSettings(Settings):
    """A config server."""

    role = "config"
    listen: str = setting("0.0.0.0", _LISTEN, metavar="ADDRESS", shown="0.0.0.0")
    port: int = setting(CONFIG_PORT, "port to listen on; 0 = any free one", parse_port, "PORT",
                        shown=str(CONFIG_PORT))
    expire_s: float = setting(30.0, "forget a manager that was silent for this long",
                              parse_duration, "TIME", shown="30s")
    cluster_settings: str = setting("", "INI file whose sections [peer], [serve] and [get] are "
                                    "handed out to hosts that don't say otherwise", parse_path,
                                    "FILE")


class GetSettings(Settings):
    """What `dfly get` takes from files and the environment beside its flags."""

    role = "get"
    limit_rate_bps: float = setting(0.0, "most bytes a second for this download: 500k, 2.5m, "
                                    "100mbit; 0 = no limit", parse_rate, "RATE", shown="0")
    timeout_s: float = setting(30.0, "give a silent connection up after this long; 0 = never",
                               parse_duration, "TIME", shown="30s")
    connect_timeout_s: Optional[float] = setting(None, "the same, while connecting",
                                                 parse_duration, "TIME", shown="--timeout's")
    read_timeout_s: Optional[float] = setting(None, "the same, once connected",
                                              parse_duration, "TIME", shown="--timeout's")
    deadline_s: float = setting(0.0, "give up if not all is here after this long; 0 = never",
                                parse_duration, "TIME", shown="0")
    tries: int = setting(20, "try a source this often; 0 or inf = for ever", parse_tries, "N",
                         shown="20")
    waitretry_s: float = setting(10.0, "pause between two tries at most this long",
                                 parse_duration, "TIME", shown="10s")
    retry_on_http_error: Tuple[int, ...] = setting((), "try again, too, when the source answers "
                                                   "by this status; may be repeated, or a comma "
                                                   "list", parse_statuses, "STATUS")
    retry_connrefused: bool = setting(False, "try again, too, when the connection is refused or "
                                      "the name isn't found", parse_bool)
    wait_s: float = setting(0.0, "pause between two files", parse_duration, "TIME", shown="0")
    max_redirect: int = setting(20, "follow so many redirects", parse_count, "N", shown="20")
    jobs: int = setting(0, "fetch so many files at once; 0 = small ones together, large ones one "
                        "after the other", parse_count, "N", shown="0")
    progress: str = setting("", "bar, dot, none or json; bar:force draws without a terminal, "
                            "dot:mega and the like set the size of a dot", metavar="TYPE",
                            shown="bar on a terminal, dots in a log, else none")
    content_disposition: bool = setting(False, "name the file as the source does", parse_bool)
    trust_server_names: bool = setting(False, "name the file after where redirects lead",
                                       parse_bool)
    user_agent: str = setting("", "name of this client", metavar="TEXT", shown="dfly/VERSION")
    no_netrc: bool = setting(False, "take no users and passwords from ~/.netrc", parse_bool)
    no_proxy: bool = setting(False, "use no proxy, whatever http_proxy and the like say",
                             parse_bool)
    ca_certificate: Tuple[str, ...] = setting((), "PEM file of authorities to trust beside the "
                                              "system's; may be repeated, or a comma list",
                                              each(parse_path), "FILE")
    ca_directory: str = setting("", "folder of PEM files of authorities to trust instead of the "
                                "system's", parse_path, "DIR")
    crl_file: str = setting("", "PEM file of certificates that are revoked", parse_path, "FILE")
    no_check_certificate: bool = setting(False, "believe any server", parse_bool)
    secure_protocol: str = setting("auto", "auto, TLSv1_2 or TLSv1_3: the oldest that is spoken",
                                   metavar="NAME", shown="auto")
    ciphers: str = setting("", "cipher list, as OpenSSL writes it", metavar="LIST")
    no_p2p: bool = setting(False, "straight from the source, without a swarm", parse_bool)
    no_source: bool = setting(False, "fail rather than go to the source without a swarm",
                              parse_bool)
    filter: Tuple[str, ...] = setting((), "query parameters that don't matter: URLs that differ "
                                      "only in these are one file; may be repeated, or a comma "
                                      "list", each(str.strip), "NAME")
    socket: str = setting("", "unix socket of the peer daemon", parse_socket, "PATH",
                          env="DFLY_SOCKET", derive=_socket,
                          shown="/run/dfly/peer.sock, for users $XDG_RUNTIME_DIR/dfly/peer.sock")
    store: str = setting("", "folder for pieces of a daemon that is started now", parse_path,
                         "DIR", shown="the daemon's")
    manager: Tuple[str, ...] = setting((), _MANAGERS + "; for a daemon that is started now",
                                       each(_address(MANAGER_PORT)), "HOST:PORT",
                                       env="DFLY_MANAGER")
    no_start: bool = setting(False, "fail rather than start a daemon if none runs", parse_bool)


ROLES: Tuple[Type[Settings], ...] = (ServeSettings, PeerSettings, ConfigSettings, GetSettings)
