"""Whether what the settings have the controller use is there on this host: asked before it is needed."""

from aegis_workers.controller import drivers
from aegis_workers.controller.driver import Driver
from aegis_workers.controller.drivers.docker import DockerDriver
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.engines import clients
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings


async def objections(settings: Settings) -> dict[Engine, str | None]:
    """Why the driver of each engine that has a model could not start it, in words; None where nothing is in the way.

    A container is looked for in Docker, a command on the PATH; nothing is started. An engine that others start has no objection,
    and one that cannot be reached says so when it is probed.
    """
    replicas = clients.build(settings)
    built = drivers.build(settings, replicas)
    try:
        return {engine: await _objection(driver) for engine, driver in built.items() if settings.model(engine) is not None}
    finally:
        for driver in built.values():
            await driver.aclose()
        for client in (client for group in replicas.values() for client in group):
            await client.aclose()


async def _objection(driver: Driver) -> str | None:
    match driver:
        case DockerDriver() | ProcessDriver():
            return await driver.objection()
        case _:
            return None
