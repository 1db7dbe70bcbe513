"""An engine in a container that the operator created, started and stopped by its name through the Docker SDK (an extra)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from aegis_workers.controller.aside import Aside
from aegis_workers.controller.driver import Confirm, Observation, Presence, unasked
from aegis_workers.controller.drivers import external
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine

T = TypeVar("T")

STOP_GRACE_S = 20
# For one request. The SDK adds the grace to it for a stop.
_ANSWER_WITHIN_S = 4
_TAIL_LINES = 15
# What Docker says of a container whose processes live.
_RUNNING = {"running", "restarting", "paused", "removing"}


class _NothingRuns(DriverFailed):
    """There is no such container, or nothing here that could have started one."""


class DockerDriver:
    """Satisfies `Driver`. The clients are borrowed: whoever gave them closes them.

    A container is never created and never removed. One with a restart policy is started again by Docker when its command ends.
    """

    name: Final = "docker"
    can_start: Final = True

    def __init__(self, engine: Engine, replicas: Sequence[EngineClient], *, container: str) -> None:
        self.engine: Final = engine
        self._replicas = replicas
        self._container = container
        self._sdk: Any = None
        self._stopping: asyncio.Task[None] | None = None
        self._released = False
        self._asking, self._waiting = Aside("docker"), Aside("docker-stop")
        self._last = Presence.COMING

    async def observe(self) -> Observation:
        """See `Driver`."""
        seen = await self._observe()
        self._last = seen.presence
        return seen

    async def _observe(self) -> Observation:
        try:
            state, words = await self._ask(self._look)
        except _NothingRuns as error:
            return Observation(presence=Presence.ABSENT, reason=str(error))
        except DriverFailed as error:
            return await self._judge_unseen(str(error))
        if state["Status"] not in _RUNNING:
            return self._ended(state, words)
        if self._is_stopping():
            return Observation(presence=Presence.GOING, reason="told to stop")
        found = external.judge(await external.probe_all(self._replicas))
        if found.presence is Presence.PRESENT:
            return found
        return Observation(
            presence=Presence.COMING, reason=f"the container {self._container} is {state['Status']}; {found.reason}"
        )

    async def _judge_unseen(self, why: str) -> Observation:
        """Docker says nothing, and containers outlive it: an engine that answers is there, else it is as it was seen last."""
        found = external.judge(await external.probe_all(self._replicas))
        if found.presence is Presence.PRESENT:
            return found
        return Observation(presence=self._last, reason=why)

    async def objection(self) -> str | None:
        """Why it could not start the engine, in words; None where the container is there."""
        try:
            await self._ask(self._look)
        except DriverFailed as error:
            return str(error)
        return None

    async def start(self, confirm: Confirm = unasked) -> None:
        """See `Driver`."""
        await confirm()
        self._released = False
        self._last = Presence.COMING  # also where Docker does not say whether it did so
        await self._ask(lambda: self._do(lambda container: container.start()))

    async def release(self, confirm: Confirm = unasked) -> None:
        """See `Driver`. Docker sends SIGTERM, and SIGKILL after its time."""
        if self._is_stopping():
            return
        stopping, self._stopping = self._stopping, None
        if stopping is not None:
            stopping.result()
        if not await self._runs():
            return
        await confirm()
        self._released = True
        stop = self._waiting.run(lambda: self._do(lambda container: container.stop(timeout=STOP_GRACE_S)))
        self._stopping = asyncio.create_task(stop)

    async def aclose(self) -> None:
        """See `Driver`. A stop that was set in motion goes on in Docker."""
        if self._stopping is not None:
            self._stopping.cancel()
            await asyncio.gather(self._stopping, return_exceptions=True)
        if self._sdk is not None and not self._asking.is_busy and not self._waiting.is_busy:
            await self._asking.run(self._sdk.close)

    async def _runs(self) -> bool:
        try:
            state, _ = await self._ask(self._look)
        except _NothingRuns:
            return False
        return state["Status"] in _RUNNING

    async def _ask(self, call: Callable[[], T]) -> T:
        """Raises `DriverFailed`, at once where Docker has not answered what it was asked before."""
        try:
            return await self._asking.run(call)
        except TimeoutError:
            raise DriverFailed("Docker does not answer: see that it runs and is not stuck") from None

    def _is_stopping(self) -> bool:
        return self._stopping is not None and not self._stopping.done()

    def _ended(self, state: Any, words: str) -> Observation:
        ran = not str(state.get("StartedAt", "0001")).startswith("0001")  # Docker's word for never
        if not ran or self._released:
            return Observation(presence=Presence.ABSENT, reason=f"the container {self._container} does not run")
        why = "it ran out of memory" if state.get("OOMKilled") else state.get("Error") or f"exit {state.get('ExitCode')}"
        reason = f"the container {self._container} ended ({why})"
        return Observation(presence=Presence.ABSENT, reason=reason, ended=True, last_words=words)

    def _look(self) -> tuple[Any, str]:
        """Docker's own record of the container's state, and its last lines where it does not run."""
        return self._do(_seen)

    def _do(self, ask: Callable[[Any], T]) -> T:
        """What Docker answers about the container; blocks. Raises `DriverFailed`."""
        try:
            import docker  # noqa: PLC0415 - an extra
        except ImportError:
            raise _NothingRuns("the Docker SDK is not installed: pip install 'aegis-workers[docker]'") from None
        try:
            if self._sdk is None:
                self._sdk = docker.from_env(timeout=_ANSWER_WITHIN_S)
            return ask(self._sdk.containers.get(self._container))
        except docker.errors.NotFound:
            raise _NothingRuns(f"there is no container {self._container}: create it with docker create --name") from None
        except docker.errors.APIError as error:
            raise DriverFailed(f"Docker refused it for the container {self._container}: {error.explanation or error}") from None
        except (docker.errors.DockerException, OSError) as error:
            raise DriverFailed(f"Docker does not answer ({error}): start it, or correct DOCKER_HOST") from None


def _seen(container: Any) -> tuple[Any, str]:
    state = container.attrs["State"]
    words = "" if state["Status"] in _RUNNING else container.logs(tail=_TAIL_LINES).decode(errors="replace").strip()
    return state, words
