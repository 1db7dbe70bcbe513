"""Why a Redis that is there does not let its user in, and what to do about it: passwords, rights, certificates, Sentinels."""

from collections.abc import Iterator, Mapping

from redis.sentinel import MasterNotFoundError

from aegis_workers.address import Kind
from aegis_workers.settings import Settings

_WRONG = "refuses the password, or its user: correct it in AEGIS_REDIS_URL, as in redis://user:password@host:port/0"
_WANTED = "wants a password: write it into AEGIS_REDIS_URL, as in redis://user:password@host:port/0"
_OTHER_NAME = "has a certificate of another name: write a name that is in it into AEGIS_REDIS_URL"

_OF_CLIENTS = "?ssl_certfile=…&ssl_keyfile=…"

_SENTINELS_REFUSE = (
    "cannot be found: a Sentinel refuses its password, or wants one: set AEGIS_REDIS_SENTINEL_PASSWORD; "
    "that of Redis itself stands in AEGIS_REDIS_URL"
)

# What Redis, redis-py and OpenSSL say, the more particular first. Only a person can change it: to wait does not help.
_LASTING: Mapping[str, str] = {
    "WRONGPASS": _WRONG,
    "invalid username-password": _WRONG,
    "invalid password": _WRONG,
    "NOAUTH": _WANTED,
    "Authentication required": _WANTED,
    "HELLO must be called with the client already authenticated": _WANTED,
    "IP address mismatch": _OTHER_NAME,
    "Hostname mismatch": _OTHER_NAME,
    "certificate has expired": "has a certificate that has expired: renew it",
    "CERTIFICATE_VERIFY_FAILED": (
        "has a certificate that is not trusted: set AEGIS_REDIS_CA to the PEM file of the authority that signed it"
    ),
    "CERTIFICATE_REQUIRED": f"wants a certificate of its clients: add {_OF_CLIENTS} to AEGIS_REDIS_URL",
    "WRONG_VERSION_NUMBER": "speaks no TLS at this port: write redis:// in AEGIS_REDIS_URL, or the port that speaks it",
    "No such file or directory": "cannot be reached: a file that AEGIS_REDIS_URL or AEGIS_REDIS_CA names is not there",
}
_NO_RIGHT = ("NOPERM", "NoPermissionError", "no permissions")
_RIGHTS = "~* &* +@all -@dangerous +info"
# What a server that speaks TLS does when it is not spoken to in TLS; one that ends does so too.
_HUNG_UP = ("Connection reset by peer", "Connection closed by server")
# Who has no certificate, where one is wanted, is told so; a command that goes out before that is read fails in its place.
_CUT_OFF = (*_HUNG_UP, "EOF occurred in violation of protocol", "Broken pipe")
# A plain Redis waits for the rest of what it takes for a command.
_NO_HANDSHAKE = ("handshake", "Timeout connecting to server")


def lasting(settings: Settings, error: BaseException) -> str | None:
    """What Redis objects to, in the words that follow its address, with the cure; None where it may be otherwise in a while."""
    said = " ".join(_chain(error))
    if any(words in said for words in _NO_RIGHT):
        return f"does not let its user do what is needed ({error}): allow it, as ACL SETUSER name {_RIGHTS} does"
    if MasterNotFoundError.__name__ in said:  # it names the kinds of what the Sentinels said, and says no more of them
        return _SENTINELS_REFUSE if "auth:" in said else None
    found = next((meaning for words, meaning in _LASTING.items() if words in said), None)
    return found if settings.redis_address.kind is not Kind.SOCKET or found in {_WRONG, _WANTED} else None


def reason(settings: Settings, error: BaseException) -> str | None:
    """Likewise, and what is likely where it cannot be told; None where Redis is away, or refuses a command."""
    found = lasting(settings, error)
    if found is not None:
        return found
    said, kind = " ".join(_chain(error)), settings.redis_address.kind
    if MasterNotFoundError.__name__ in said:
        knows = "no Sentinel answers that knows" if "network:" in said or "Timeout" in said else "no Sentinel knows"
        return (
            f"cannot be found: {knows} a master {settings.redis_master} that lives: start them and it, wait until they have "
            "chosen another, or set AEGIS_REDIS_MASTER to the name that they have for it"
        )
    if kind is Kind.TCP and any(words in said for words in _HUNG_UP):
        return (
            f"does not answer ({error}): start it, or set AEGIS_REDIS_URL: if it speaks TLS at this port, write rediss:// there"
        )
    if kind is Kind.TLS and any(words in said for words in _NO_HANDSHAKE):
        return f"does not answer in TLS ({error}): start it, or write redis:// in AEGIS_REDIS_URL if it speaks none at this port"
    if kind is Kind.TLS and any(words in said for words in _CUT_OFF):
        return (
            f"does not answer ({error}): start it, or set AEGIS_REDIS_URL: if it wants a certificate of its clients, "
            f"add {_OF_CLIENTS} there"
        )
    return None


def _chain(error: BaseException | None) -> Iterator[str]:
    """What an error says, and the ones behind it: kombu and redis-py raise their own in the place of others."""
    while error is not None:
        yield f"{type(error).__name__} {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
