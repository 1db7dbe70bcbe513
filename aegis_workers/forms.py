"""What the value of a setting may look like, and how it is shown: types for `settings`, each with its sentence of refusal."""

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from aegis_workers import address

# Where memory is measured, beside a file: `auto` takes the first of the other two that works.
MEMORY_SOURCES = ("auto", "nvml", "meminfo")


def lowered(value: Any) -> Any:
    """Text without blanks around it, in small letters; anything else as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def _stripped(value: Any) -> Any:
    return value.strip() or None if isinstance(value, str) else value


_URL_FORM = "write http://host:port, or several with commas between them"


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    urls = tuple(part.strip() for part in value.split(",") if part.strip())
    if not urls:
        raise ValueError(_URL_FORM)
    return urls


def _is_url(value: str, schemes: set[str]) -> bool:
    with suppress(ValueError):  # urlsplit finds a bad host at once, and a bad port when asked for it
        parts = urlsplit(value)
        return parts.scheme in schemes and (parts.port is None or parts.port > 0)
    return False


def _is_base_url(value: str) -> str:
    if not _is_url(value, {"http", "https"}) or not urlsplit(value).hostname:
        raise ValueError(_URL_FORM)
    return value.rstrip("/")


def _is_redis_url(value: str) -> str:
    address.parse(value)
    return value


def _is_certificate(value: Path) -> Path:
    path = value.expanduser().absolute()
    if not path.is_file():
        raise ValueError("no such file: name the PEM file of the authority that signed the certificate of Redis")
    return path


def _is_duration(value: str) -> str:
    if not re.fullmatch(r"-?\d+(\.\d+)?[smh]", value):
        raise ValueError("write a number and a unit, such as 30m; the units are s, m and h")
    return value


def _absolute(value: Path) -> Path:
    """The same folder for a child that runs elsewhere."""
    return value.expanduser().absolute()


def _is_command(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"write a command as in a shell, such as vllm serve MODEL --port 8000 ({error})") from None
    return value


def _is_memory_source(value: str) -> str:
    if value.strip().lower() in MEMORY_SOURCES:
        return value.strip().lower()
    path = Path(value.strip()).expanduser()
    if "/" not in value or path.is_dir():
        raise ValueError("write auto, nvml, meminfo, or the path of a JSON file that holds total_gb and free_gb")
    return str(path.absolute())


_PORTS = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?")
_MOST_PORTS, _LAST_PORT = 256, 65_535


def _is_ports(value: str) -> str:
    found = _PORTS.fullmatch(value)
    if found is not None:
        first, last = int(found[1]), int(found[2] or found[1])
        if first <= last <= min(_LAST_PORT, first + _MOST_PORTS - 1) and (first > 0 or last == 0):
            return value
    raise ValueError(
        f"write a port, 0 for any that is free, or up to {_MOST_PORTS} of which the first free one is taken: 9464-9479"
    )


def ports(value: str) -> range:
    """The ports of a setting of the type `Ports`, in order."""
    first, _, last = value.partition("-")
    return range(int(first), int(last or first) + 1)


def _is_login(value: SecretStr) -> SecretStr:
    user, _, password = value.get_secret_value().partition(":")
    if not (user and password and value.get_secret_value().isascii()):
        raise ValueError("write user:password, in ASCII")
    return value


BaseUrl = Annotated[str, AfterValidator(_is_base_url)]
BaseUrls = Annotated[tuple[BaseUrl, ...], NoDecode, BeforeValidator(_split)]
RedisUrl = Annotated[str, AfterValidator(_is_redis_url)]
Duration = Annotated[str, AfterValidator(_is_duration)]
Certificate = Annotated[Path, AfterValidator(_is_certificate)]
Folder = Annotated[Path, AfterValidator(_absolute)]
Login = Annotated[SecretStr, AfterValidator(_is_login)]
Word = BeforeValidator(lowered)
Stripped = BeforeValidator(_stripped)
Command = Annotated[str, AfterValidator(_is_command)]
Ports = Annotated[str, AfterValidator(_is_ports)]
MemorySource = Annotated[str, AfterValidator(_is_memory_source)]


# To the last "@", because a password may hold any character; redis-py takes one from the query too.
_USER_PASSWORD = re.compile(r"(://[^:@/?#]*):.*@", re.DOTALL)
_NEXT_SENTINEL = re.compile(r";(?=sentinel://)")
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&#]*")
# What a command is told in confidence: an option with all its values, as `--api-key` may have several, and an assignment.
_NAME = r"[\w-]*(?:key|token|secret|password)"
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'])+"
_SECRET_OPTION = re.compile(rf"(?i)(-{_NAME})(?:\s+(?!-){_VALUE})+")
_SECRET_ASSIGNED = re.compile(rf"(?i)({_NAME}=){_VALUE}")


def without_password(url: str) -> str:
    """`url` with the password in it, if any, replaced by stars; other text comes back as it is.

    Of several Sentinels each may have one.
    """
    return ";".join(_QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", each)) for each in _NEXT_SENTINEL.split(url))


def without_secrets(command: str) -> str:
    """`command` with stars for what options and variables are given whose names end in `key`, `token`, `secret` or `password`.

    A password in an address likewise; other text comes back as it is.
    """
    return _SECRET_OPTION.sub(r"\1 ***", _SECRET_ASSIGNED.sub(r"\1***", without_password(command)))
