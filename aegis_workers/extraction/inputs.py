"""Which texts can be extracted from."""

from typing import Any

from aegis_workers.errors import InvalidInput

# C0 controls that no text has: all but tab, line feed, vertical tab, form feed, carriage return and escape (terminal colours).
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1b"))
_REPLACEMENT = "\ufffd".encode()
# A text with more than this share of controls and undecodable bytes was no text.
_MAX_BINARY_SHARE = 0.1
_BYTE_ORDER_MARK = "\ufeff"


def check_text(text: Any, *, max_bytes: int) -> str:
    """`text`, where it can be extracted from; its UTF-8 form has at most `max_bytes`.

    Raises `InvalidInput`, which names the cause and the cure and holds nothing of the text.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"text must be a string, not {type(text).__name__}: decode bytes first")
    if len(text) > max_bytes:
        raise _too_large(f"{len(text):,} characters", max_bytes)
    data = _encoded(text)
    if len(data) > max_bytes:
        raise _too_large(f"{len(data):,} bytes", max_bytes)
    if not text.strip().strip(_BYTE_ORDER_MARK):
        raise InvalidInput("text is empty or blank: there is nothing to extract from")
    _check_is_text(text, data)
    return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"text holds a lone surrogate at offset {error.start}: decode the bytes as UTF-8, with errors='replace' if need be"
        ) from None


def _check_is_text(text: str, data: bytes) -> None:
    null = text.find("\0")
    if null >= 0:
        raise InvalidInput(f"text holds a NUL character at offset {null} and looks binary: extract its text first")
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls + data.count(_REPLACEMENT) > _MAX_BINARY_SHARE * len(text):
        raise InvalidInput("text is mostly control characters and looks binary: extract its text, or decode it rightly, first")


def _too_large(size: str, max_bytes: int) -> InvalidInput:
    return InvalidInput(
        f"text has {size}, more than the {max_bytes:,} bytes of AEGIS_MAX_TEXT_BYTES: split it, or raise the limit"
    )
