"""An answer in time: whole or piece by piece, at the engine's pace, and cut where the engine ends in the middle."""

from collections.abc import Awaitable, Callable

from aegis_workers.simulator.answer import Answer, Piece
from aegis_workers.simulator.clock import Interrupted
from aegis_workers.simulator.pace import Pace

ABORT = "abort"


async def whole(pace: Pace, answer: Answer) -> Answer:
    """The answer once it is generated; what there was of it, with the finish `abort`, where the engine ended before."""
    with pace.generate(answer.tokens) as share:
        try:
            await share.reach(answer.tokens)
        except Interrupted:
            return answer.cut(share.reached(), ABORT)
    return answer


async def stream(pace: Pace, answer: Answer, send: Callable[[Piece], Awaitable[None]]) -> Answer:
    """Hand each piece to `send` when it is generated. Returns the answer, cut like that of `whole`."""
    with pace.generate(answer.tokens) as share:
        for tokens, piece in enumerate(answer.pieces(), start=1):
            try:
                await share.reach(tokens)
            except Interrupted:
                return answer.cut(tokens - 1, ABORT)
            await send(piece)
    return answer
