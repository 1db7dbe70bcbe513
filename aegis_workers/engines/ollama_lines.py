"""Keeps the lines of Ollama's streams whole on their way into its official client."""

import codecs
from collections.abc import AsyncIterator

import aiohttp
import httpx

# The client splits a stream by httpx's rule, which ends a line at these as well. Ollama sends U+0085 as it is within JSON
# strings; written as an escape it means the same there, and it can stand nowhere else.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class WholeLines(httpx.AsyncByteStream):
    """A stream of JSON lines with every unusual line end within its strings escaped; one that ends within a line is broken."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        last = b"\n"
        async for piece in self._stream:
            last = piece[-1:] or last
            yield decoder.decode(piece).translate(_LINE_ENDS).encode()
        if last != b"\n":
            raise aiohttp.ClientPayloadError("the stream ended within a line")

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()


async def keep_whole(response: httpx.Response) -> None:
    """A response hook for an httpx client: `WholeLines` for a stream of JSON lines, every other answer as it is."""
    is_lines = response.headers.get("Content-Type", "").startswith("application/x-ndjson")
    is_plain = "Content-Encoding" not in response.headers
    if is_lines and is_plain and isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = WholeLines(response.stream)
