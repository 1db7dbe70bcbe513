"""The routes below `/_sim`, which no engine has: faults, counts and what was asked."""

from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from aegis_workers.simulator.behaviour import Behaviour
from aegis_workers.simulator.machine import Machine

PREFIX = "/_sim"


def routes(machine: Machine) -> list[web.RouteDef]:
    """Every route, for one engine."""
    control = Control(machine)
    return [
        web.get(f"{PREFIX}/behaviour", control.show),
        web.post(f"{PREFIX}/behaviour", control.behave),
        web.get(f"{PREFIX}/stats", control.stats),
        web.get(f"{PREFIX}/requests", control.requests),
        web.post(f"{PREFIX}/reset", control.reset),
    ]


class Control:
    """The simulator's own controls."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def show(self, _: web.Request) -> web.StreamResponse:
        return self._shown()

    async def behave(self, request: web.Request) -> web.StreamResponse:
        try:
            behaviour = Behaviour.model_validate_json(await request.read())
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            return web.json_response({"error": problems}, status=HTTPStatus.UNPROCESSABLE_ENTITY)
        self._machine.behave(behaviour)
        if behaviour.die == "now":
            self._machine.die()
        return self._shown()

    async def stats(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._machine.stats.snapshot())

    async def requests(self, _: web.Request) -> web.StreamResponse:
        if not self._machine.requests.kept:
            return web.json_response({"error": "started without record=True: no request is kept"}, status=HTTPStatus.NOT_FOUND)
        return web.json_response(self._machine.requests.all())

    async def reset(self, _: web.Request) -> web.StreamResponse:
        self._machine.stats.reset()
        self._machine.requests.clear()
        return web.json_response(self._machine.stats.snapshot())

    def _shown(self) -> web.StreamResponse:
        return web.Response(
            text=self._machine.faults.behaviour.model_dump_json(exclude_defaults=True), content_type="application/json"
        )
