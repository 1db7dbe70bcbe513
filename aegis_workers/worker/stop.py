"""A worker's stop, in a thread of its own."""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue


class Stop:
    """Ends what a worker does, once it is told to: what waits at once, what is in flight when its grace is over.

    `close_admission` ends the calls that wait, `close_calls` those in flight; both return at once. When they are through, the
    process is left to end itself: `await_end` watches over that.
    """

    def __init__(
        self,
        *,
        grace_s: float,
        close_admission: Callable[[], None],
        close_calls: Callable[[], None],
        await_end: Callable[[], None],
    ) -> None:
        self._grace_s = grace_s
        self._close_admission = close_admission
        self._close_calls = close_calls
        self._await_end = await_end
        self._orders: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._obey, name="stop", daemon=True).start()

    def begin(self, *, at_once: bool) -> None:
        """Returns at once. With `at_once`, and when told a second time, calls in flight have no grace.

        Takes no lock and writes no log: in the handler of a signal, either may be in the hands of what was interrupted.
        """
        self._orders.put(at_once)

    def _obey(self) -> None:
        at_once = self._orders.get()
        self._close_admission()
        if not at_once:
            with suppress(Empty):
                self._orders.get(timeout=self._grace_s)
        self._close_calls()
        self._await_end()
