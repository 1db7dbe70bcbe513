"""The threads in which tasks wait for their calls."""

from typing import Any

from celery.concurrency.thread import TaskPool
from celery.worker import state


class Threads(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's threads, of which nothing waits in the handler of a signal.

    Celery's cold shutdown stops its pool there. The handler may have interrupted the very thread that hands a task over, and
    that holds locks then for which it would wait for ever.
    """

    def on_stop(self) -> None:
        """Waits for the tasks that run. After a cold shutdown, that is left to `on_terminate`."""
        if state.should_terminate is None:
            super().on_stop()

    def on_terminate(self) -> None:
        """Waits for the tasks that run, whose calls have been closed. May be called again."""
        super().on_stop()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "implementation": f"{TaskPool.__module__}:{TaskPool.__name__}"}
