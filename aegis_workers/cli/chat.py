"""`chat TEXT`."""

import click

from aegis_workers.errors import AegisError


@click.command()
@click.argument("text")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
def chat(text: str, max_tokens: int | None) -> None:
    """Ask TEXT of the engine that the mode gives chat to, and stream the answer. Ctrl-C ends the call at the engine."""
    from aegis_workers.client import chat_stream

    pieces = chat_stream([{"role": "user", "content": text}], {"max_tokens": max_tokens} if max_tokens else None)
    begun = False
    try:
        for piece in pieces:
            begun = True
            click.echo(_printable(piece), nl=False)
    except AegisError:
        click.echo("" if begun else None, nl=begun)
        raise
    finally:
        pieces.close()
    click.echo()


def _printable(piece: str) -> str:
    """The text without control characters: an answer must not be able to steer the terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else " " for character in piece)
