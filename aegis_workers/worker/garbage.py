"""Python's garbage collector, as a worker has it."""

import gc

# New objects after which it looks at the youngest. Calls in flight hold thousands: at its usual 700 it looks at the same ones
# again and again, which takes a sixth of a call's CPU.
_YOUNG = 20_000
# Looks at the young ones after which it looks at the older ones too, and so on: Python's defaults are 10 and 10.
_OLDER, _OLDEST = 20, 50


def settle() -> None:
    """What is loaded by now stays: a collector that looks through it again stops all calls for 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDEST)
