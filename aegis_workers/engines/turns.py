"""The conversation as every engine receives it: the same turns, checked before they are sent."""

import json

from aegis_workers.completion import CompletionRequest
from aegis_workers.errors import RequestRefused


def encode(request: CompletionRequest) -> list[dict[str, str]]:
    """The turns of `request` for a JSON body, the same whatever the engine.

    Raises `RequestRefused` for what no engine could be sent: no turn at all (Ollama would take it for a warm-up and answer with
    success), text that is not Unicode, a schema that is not JSON.
    """
    if not request.messages:
        raise RequestRefused("the request has no messages; send at least one")
    turns = [{"role": str(message.role), "content": message.content} for message in request.messages]
    try:
        for turn in turns:
            turn["content"].encode()
    except UnicodeEncodeError:
        raise RequestRefused("the messages hold a lone surrogate, which is not Unicode text; replace it") from None
    try:
        json.dumps(request.schema, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise RequestRefused("the schema is not JSON; a JSON Schema holds objects, lists, strings and finite numbers") from None
    return turns
