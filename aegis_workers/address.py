"""Where Redis is: what an address says of it, and how the libraries that connect there want to be told.

redis-py writes a socket `unix:///path?db=1`, kombu `redis+socket:///path?virtual_host=1`; of several Sentinels redis-py takes
hosts and ports, kombu their addresses, each with the password and the database of the server behind them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

SENTINEL_PORT = 26379
_SEPARATOR = ";"
_FORM = (
    "write redis://host:port/db, rediss://…, unix://… or sentinel://host:port;sentinel://host:port/db, special characters of a "
    "password percent-encoded; Redis Cluster is not supported"
)
# How strictly a certificate is looked at, in the words of redis-py; Celery writes CERT_REQUIRED and so on.
_STRICTNESS = ("required", "optional", "none")
_CA = "ssl_ca_certs"
_REQUIRED = "ssl_cert_reqs"
_CHECK_HOST = "ssl_check_hostname"


class Kind(StrEnum):
    """How Redis is reached: by TCP, with TLS, at a socket of this host, or where Sentinels say that it is."""

    TCP = "redis"
    TLS = "rediss"
    SOCKET = "unix"
    SENTINEL = "sentinel"


_SCHEMES: Mapping[str, Kind] = {**{kind.value: kind for kind in Kind}, "redis+socket": Kind.SOCKET, "socket": Kind.SOCKET}


@dataclass(frozen=True, kw_only=True)
class Address:
    """`hosts`: as they are written, of the server or of each Sentinel. `path`: of the socket. `db`: the number of the database.

    `tls`: what redis-py is told of certificates, by its names; None without TLS. `options`: whatever else the address says.
    """

    kind: Kind
    hosts: Sequence[str] = ()
    path: str = ""
    db: str = ""
    user: str = ""
    password: str = ""
    tls: Mapping[str, str] | None = None
    options: Mapping[str, str]

    @property
    def sentinels(self) -> Sequence[tuple[str, int]]:
        """Host and port of each Sentinel."""
        found = [urlsplit(f"//{host}") for host in self.hosts]
        return [(parts.hostname or "localhost", parts.port or SENTINEL_PORT) for parts in found]

    @property
    def tls_arguments(self) -> Mapping[str, str | bool]:
        """`tls` as arguments of a connection of redis-py."""
        said = self.tls or {}
        return {name: value.lower() != "false" if name == _CHECK_HOST else value for name, value in said.items()}

    @property
    def for_redis_py(self) -> str:
        """One address as redis-py reads it; not for Sentinels, of which it takes hosts and ports."""
        if self.kind is Kind.SOCKET:
            return self._written(self.kind, "", self.path, {"db": self.db, **self.options})
        return self._written(self.kind, self.hosts[0], f"/{self.db}", {**self.options, **(self.tls or {})})

    @property
    def for_kombu(self) -> str:
        """The same for kombu and Celery, which this package's settings read as well."""
        if self.kind is Kind.SOCKET:
            return self._written("redis+socket", "", self.path, {"virtual_host": self.db, **self.options})
        asked = {**self.options, **(self.tls or {})}
        return _SEPARATOR.join(self._written(self.kind, host, f"/{self.db}", asked) for host in self.hosts)

    @property
    def for_results(self) -> str:
        """The same for Celery's Redis backend, which has another name for a socket."""
        return self.for_kombu.removeprefix("redis+") if self.kind is Kind.SOCKET else self.for_kombu

    def _written(self, scheme: str, host: str, path: str, query: Mapping[str, str]) -> str:
        user = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        asked = urlencode({name: value for name, value in query.items() if value})
        return f"{scheme}://{user}{'@' if user else ''}{host}{path if path != '/' else ''}{'?' if asked else ''}{asked}"


def parse(url: str, ca: str | None = None) -> Address:
    """What `url` says; `ca` is the file of the authority that signed the certificates, where the address does not name one.

    With `ca`, Sentinels and the server behind them are reached with TLS. Raises `ValueError` with the allowed forms.
    """
    is_sentinel = url.startswith(f"{Kind.SENTINEL}://")
    parts = [_split(each) for each in (url.split(_SEPARATOR) if is_sentinel else [url])]
    kind = _SCHEMES[parts[0].scheme]
    if any(_SCHEMES[part.scheme] is not kind for part in parts):
        raise ValueError(_FORM)
    query = {name: value for part in reversed(parts) for name, value in parse_qsl(part.query)}
    users = [_user(part) for part in parts]
    is_socket = kind is Kind.SOCKET
    db = query.pop("virtual_host", "") or query.pop("db", "")
    query.pop("db", None)
    paths = [] if is_socket else [part.path.strip("/") for part in parts]
    return Address(
        kind=kind,
        hosts=[] if is_socket else [part.netloc.rpartition("@")[2] for part in parts],
        path=parts[0].path if is_socket else "",
        db=_number(next(filter(None, (db, *paths)), "")),
        user=query.pop("username", "") or next((user for user, _ in users if user), ""),
        password=query.pop("password", "") or next((password for _, password in users if password), ""),
        tls=_tls(kind, query, ca),
        options={name: value for name, value in query.items() if not name.startswith("ssl_")},
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)  # finds a bad host at once, and a bad port when asked for it
        known = parts.scheme in _SCHEMES and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError(_FORM)
    return parts


def _user(parts: SplitResult) -> tuple[str, str]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def _number(db: str) -> str:
    if db and not (db.isascii() and db.isdigit()):
        raise ValueError("the database at the end of the address is not a number: write redis://host:port/0")
    return db


def _tls(kind: Kind, query: Mapping[str, str], ca: str | None) -> Mapping[str, str] | None:
    """Certificates are looked at unless the address says otherwise."""
    said = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if kind in {Kind.TCP, Kind.SOCKET}:
        if said:
            raise ValueError("what begins with ssl_ is for TLS: write rediss:// in the place of redis://")
        return None
    if kind is Kind.SENTINEL and not said and ca is None:
        return None
    strictness = said.pop(_REQUIRED, "required").lower().removeprefix("cert_")
    if strictness not in _STRICTNESS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_STRICTNESS)}")
    return {_REQUIRED: strictness, **({} if ca is None else {_CA: ca}), **said}
