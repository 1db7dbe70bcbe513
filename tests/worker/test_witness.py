"""When a worker may say that another one is dead."""

from collections.abc import Sequence

import pytest

from aegis_workers.worker.witness import Witness

# Moments at which looks were answered, and whether a look at the last number may judge.
SEEN: dict[str, tuple[Sequence[float], float, bool]] = {
    "nothing": ((), 0.0, False),
    "one look": ((0.0,), 1.0, False),
    "two seconds": ((0.0, 1.0, 2.0), 3.0, False),
    "three seconds": ((0.0, 1.0, 2.0, 3.0), 4.0, True),
    "a short gap": ((0.0, 1.9, 3.8), 5.0, True),
    "a gap in the middle": ((0.0, 1.0, 3.1, 4.1), 5.1, False),
    "a gap long ago": ((0.0, 1.0, 3.5, 4.5, 5.5, 6.5), 7.5, True),
    "a gap just now": ((0.0, 1.0, 2.0, 3.0), 5.1, False),
}


@pytest.mark.parametrize("what", SEEN)
def test_it_judges_after_three_seconds_in_which_every_look_was_answered(what: str) -> None:
    answered, now, judges = SEEN[what]
    witness = Witness()
    for moment in answered:
        witness.saw(moment, round(moment * 1000))
    assert witness.judges_since(now) == (round(answered[-1] * 1000) if judges else None)


def test_whoever_doubts_begins_anew() -> None:
    witness = Witness()
    for moment in range(5):
        witness.saw(float(moment), moment)
    witness.doubts()
    assert witness.judges_since(5.0) is None
    for moment in range(5, 9):
        witness.saw(float(moment), moment)
    assert witness.judges_since(9.0) == 8
