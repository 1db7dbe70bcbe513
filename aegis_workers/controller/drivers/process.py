"""An engine that is a command on this host (Linux), started and ended by the controller, and outliving it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from aegis_workers.controller.aside import Aside
from aegis_workers.controller.driver import Confirm, Observation, Presence, unasked
from aegis_workers.controller.drivers import external, keeper, sight
from aegis_workers.controller.drivers.sight import Files, Sight
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine

FOLDER = "engines"
# From SIGTERM to SIGKILL. vLLM takes half a second, and as long as its own `--shutdown-timeout` where that is set.
STOP_GRACE_S = 20.0
LOG_BYTES = 10_000_000
# By then its keeper has ended it, or hangs.
_KEEPER_LATE_S = 5.0
_LAUNCH_WITHIN_S = 30.0


class ProcessDriver:
    """Satisfies `Driver`. The clients are borrowed: whoever gave them closes them.

    All that must be known of a running engine lies in a folder: who keeps it (`<engine>.json`), that it runs (a lock on
    `<engine>.lock`), and what it wrote (`<engine>.log`).
    """

    name: Final = "process"
    can_start: Final = True

    def __init__(
        self, engine: Engine, replicas: Sequence[EngineClient], *, command: str, data_dir: Path, secrets: Mapping[str, str]
    ) -> None:
        """`secrets` are variables for the command's environment, beside those of this process that are not our settings."""
        self.engine: Final = engine
        self.files: Final = Files(folder=data_dir / FOLDER, name=engine.value)
        self.grace_s = STOP_GRACE_S
        self.log_bytes = LOG_BYTES
        self._replicas = replicas
        self._command = shlex.split(command)
        self._secrets = secrets
        self._told_at: float | None = None
        self._looking, self._launching = Aside("process look"), Aside("process launch")

    async def observe(self) -> Observation:
        """See `Driver`."""
        seen = await self._looking.run(self.files.look)
        if not seen.alive:
            return self._absent(seen)
        record = seen.record
        if self._told_at is not None or (record is not None and record.stopping):
            return Observation(presence=Presence.GOING, reason=f"told to end; {_left(seen)}")
        if record is not None and record.status:
            reason = f"its command ended ({_ending(record.status)}); {_left(seen)}"
            return Observation(presence=Presence.GOING, reason=reason, ended=True, last_words=self.files.tail())
        found = external.judge(await external.probe_all(self._replicas))
        return found if found.presence is Presence.PRESENT else Observation(presence=Presence.COMING, reason=found.reason)

    async def objection(self) -> str | None:
        """Why it could not start the engine, in words; None where its command is there."""
        program = self._command[0]
        if await self._looking.run(lambda: shutil.which(program)) is not None:
            return None
        return f"there is no command {program} here: correct AEGIS_{self.engine.upper()}_COMMAND, or the PATH of the controller"

    async def start(self, confirm: Confirm = unasked) -> None:
        """See `Driver`. Nothing where the engine runs, whoever started it from this folder."""
        seen = await self._looking.run(self.files.look)
        if seen.locked or seen.kept:
            return
        if seen.alive:
            raise DriverFailed(f"what an earlier {self.engine.label} left behind must end first: {_left(seen)}")
        if external.judge(await external.probe_all(self._replicas)).presence is Presence.PRESENT:
            url = self._replicas[0].url
            raise DriverFailed(f"a {self.engine.label} that was not started from here answers at {url}: stop it there first")
        await confirm()
        self._told_at = None
        await self._launching.run(self._launch)

    async def release(self, confirm: Confirm = unasked) -> None:
        """See `Driver`. The keeper ends the engine, also where this process dies meanwhile."""
        seen = await self._looking.run(self.files.look)
        if not seen.alive:
            return
        await confirm()
        now = time.monotonic()
        self._told_at = now if self._told_at is None else self._told_at
        waited_s = now - self._told_at
        if seen.kept and seen.record is not None and waited_s < self.grace_s + _KEEPER_LATE_S:
            sight.send([seen.alive[seen.record.pid]], signal.SIGTERM)
        else:
            sight.send(seen.alive.values(), signal.SIGKILL if waited_s >= self.grace_s else signal.SIGTERM)

    async def aclose(self) -> None:
        """See `Driver`."""

    def _absent(self, seen: Sight) -> Observation:
        if seen.locked:
            return Observation(presence=Presence.COMING, reason="being started")
        self._told_at = None
        if seen.record is None or seen.record.stopping:
            return Observation(presence=Presence.ABSENT, reason="not running")
        reason = f"its command ended ({_ending(seen.record.status)})"
        return Observation(presence=Presence.ABSENT, reason=reason, ended=True, last_words=self.files.tail())

    def _launch(self) -> None:
        """The lock is taken here and passed on: there is no moment in which an engine could come that nobody can see."""
        folder = self.files.folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.files.lock() as lock:
                options = (folder, self.files.name, lock, self.grace_s, self.log_bytes)
                subprocess.run(  # noqa: S603 - the operator's own command
                    [sys.executable, "-I", "-S", keeper.__file__, *map(str, options), *self._command],
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[lock],
                    check=True,
                    timeout=_LAUNCH_WITHIN_S,
                )
        except BlockingIOError:  # another was faster
            return
        except (OSError, subprocess.SubprocessError) as error:
            said = error.strerror if isinstance(error, OSError) else "its keeper ended at once"
            cure = "see that it is a folder of yours, with room on its disk"
            raise DriverFailed(f"{self.engine.label} could not be started in {folder} ({said}): {cure}") from None

    def _environment(self) -> dict[str, str]:
        ours = ("AEGIS_", "LLM_ENGINE_MODE", "DEPLOYMENT_PROFILE")  # passwords are among them
        return {**self._secrets, **{name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}}


def _left(seen: Sight) -> str:
    count = len(seen.alive) - seen.kept
    return f"{count} process{'' if count == 1 else 'es'} left" + ("" if seen.kept else ", without a keeper")


def _ending(status: int | None) -> str:
    if status is None:
        return "killed together with its keeper"
    return f"exit {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
