"""Whether an engine silently cut a prompt. An Ollama that does not know `truncate: false` answers 200 to the part that fitted."""

from collections.abc import Iterable

from aegis_workers.completion import Message


def was_cut(messages: Iterable[Message], *, prompt_tokens: int | None, context_tokens: int) -> bool:
    """Whether an engine that says it read `prompt_tokens` cannot have read all of `messages` in a context of `context_tokens`.

    Says yes only on two facts, and each is certain. (1) The prompt fills the context: nothing was left to answer in, and
    what went before is gone. (2) The engine read fewer tokens than the messages have words, although the messages are long
    enough to overflow. No tokenizer joins two words, so a word is at least one token; no token is shorter than a byte, so
    messages with fewer bytes than the context has tokens always fit. Assistant turns are left out of the words: templates
    drop old reasoning from them.

    A prompt in a script without spaces has few words: there only (1) finds a cut. Unknown or zero tokens are no evidence.
    """
    if not prompt_tokens:
        return False
    if prompt_tokens >= context_tokens:
        return True
    messages = tuple(messages)
    size_bytes = sum(len(message.content.encode()) for message in messages)
    return size_bytes >= context_tokens and prompt_tokens < sum(_words(message) for message in messages)


def _words(message: Message) -> int:
    if message.role == "assistant":
        return 0
    return sum(any(map(str.isalnum, word)) for word in message.content.split())
