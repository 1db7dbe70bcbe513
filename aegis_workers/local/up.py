"""`aegis-workers up`: the whole system in the foreground, until it is told to stop or a part of it dies."""

import time

from rich.console import Console

from aegis_workers.errors import AegisError, ConfigurationError
from aegis_workers.local import system, terminal
from aegis_workers.local.system import System
from aegis_workers.local.terminal import Told
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.worker import flower

CHECK_INTERVAL_S = 0.25


def up(settings: Settings, *, simulate: bool) -> int:
    """Run the system; returns the exit status: 0 when it was told to stop, 1 when a part of it died or did not start."""
    out, err = terminal.console(), terminal.console(stderr=True)
    try:
        with terminal.interruptible() as told:
            _supervise(settings, out, told, simulate=simulate)
    except KeyboardInterrupt:
        pass
    except AegisError as error:
        terminal.say(err, str(error))
        return 1
    terminal.say(out, "Stopped.")
    return 0


def _supervise(settings: Settings, out: Console, told: Told, *, simulate: bool) -> None:
    """Returns when it was told to stop, or ends with `KeyboardInterrupt`, or with what a child died of."""
    if not simulate and not any(settings.model(engine) for engine in Engine):
        raise ConfigurationError(
            "No engine is configured: set AEGIS_VLLM_MODEL or AEGIS_OLLAMA_MODEL, or use --simulate for engines that are doubles"
        )
    simulated = tuple(Engine) if simulate else ()
    if simulate:  # a simulator must not answer the jobs of others
        settings = settings.model_copy(update={"data_dir": settings.data_dir / "simulated"})
    with system.running(settings, simulated=simulated, in_full=True) as running:
        terminal.announce(running, out)
        _invite(running, out)
        while not told.to_stop:
            running.check()
            time.sleep(CHECK_INTERVAL_S)


def _invite(running: System, out: Console) -> None:
    if running.flower is not None:
        terminal.say(out, f"Flower: {running.flower.url} ({_login(running)})")
    if running.admin_url is not None:
        asked = "the token of AEGIS_ADMIN_TOKEN" if running.settings.admin_token else "no token, this host only"
        terminal.say(out, f"Admin API: {running.admin_url} ({asked})")
    terminal.say(out, f"Logs: {running.logs}")
    if running.redis.process is not None:
        used = running.settings
        terminal.say(out, f"In other terminals: export AEGIS_REDIS_URL={used.redis_url} AEGIS_DATA_DIR={used.data_dir}")
    if led := [engine.label for engine in Engine if running.settings.driver(engine) != "external"]:
        terminal.say(out, f"Engines: {' and '.join(led)} outlive this; the next controller goes on with what it finds.")
    terminal.say(out, "Ready. Ctrl-C stops everything.")


def _login(running: System) -> str:
    """Who may look at Flower; a password only where it was made for this run."""
    if running.settings.flower_auth is not None:
        return "login as in AEGIS_FLOWER_AUTH"
    if running.settings.admin_token is not None:
        return f"login {flower.USER} and the token of AEGIS_ADMIN_TOKEN"
    return f"login {running.flower.auth}" if running.flower else ""
