"""The tasks, as Celery users call them. Each is a thin door: the work is done by the services behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from aegis_workers.celery import app
from aegis_workers.dispatch import batches, chats, inputs
from aegis_workers.dispatch.inputs import VERSION
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import schema as schemas
from aegis_workers.routing import TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state import mode as modes
from aegis_workers.state.streams import Writer
from aegis_workers.state.switches import Source
from aegis_workers.worker.door import Door
from aegis_workers.worker.services import Services

log = structlog.get_logger(__name__)


class Extract(Door):
    """Entities and relations of one text, or data by a JSON Schema of the caller's.

    `extract.delay(text, schema=None, options=None)`. The result is a dict with `status`, `data`, `error`, `engine`, `mode`,
    `attempts`, `usage` and `calls`; `CallFailed` is raised where no engine gave any answer.
    """

    name = "aegis.extract"

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        checked = _with_json_schema(arguments, self.settings)
        inputs.text(checked["text"], self.settings)
        return checked

    def run(
        self, text: str, schema: Any = None, options: Mapping[str, Any] | None = None, version: int = VERSION
    ) -> dict[str, Any]:
        inputs.check_version(version)
        plan = inputs.extraction_plan(schema, options, self.settings)
        content = inputs.text(text, self.settings)
        deadline_s, delivery = inputs.remaining_s(plan.deadline_s, self.enqueued_at), self.delivery
        return self.carry_out(lambda services: services.documents.extract(content, plan, deadline_s, delivery))


class ExtractBatch(Door):
    """The micro-batch: up to 32 texts `{"custom_id", "text", "metadata"?}` in one message, each with an outcome of its own.

    The result is `{"results": [...]}`, one line an item in the order of the items, each with its `custom_id` and `status`.
    """

    name = "aegis.extract_batch"

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        inputs.batch(arguments["items"])
        return _with_json_schema(arguments, self.settings)

    def run(
        self,
        items: Sequence[Mapping[str, Any]],
        schema: Any = None,
        options: Mapping[str, Any] | None = None,
        version: int = VERSION,
    ) -> dict[str, Any]:
        inputs.check_version(version)
        plan = inputs.extraction_plan(schema, options, self.settings)
        batch = inputs.batch(items)
        deadline_s, delivery = inputs.remaining_s(plan.deadline_s, self.enqueued_at), self.delivery
        return self.carry_out(lambda services: services.documents.extract_batch(batch, plan, deadline_s, delivery))


class ReadChunks(Door):
    """Up to 32 chunks of a bulk job. Internal: the controller enqueues it, and what comes of it is recorded for the job."""

    name = "aegis.read_chunks"
    internal = True
    ignore_result = True

    def run(  # noqa: PLR0913, PLR0917 - the fields of the message
        self,
        job: str,
        kind: str,
        chunks: Sequence[Mapping[str, Any]],
        expires_at: float,
        schema: Any = None,
        options: Mapping[str, Any] | None = None,
        engine: str | None = None,
        version: int = VERSION,
    ) -> dict[str, Any]:
        try:
            inputs.check_version(version)
            message = {"job": job, "kind": kind, "chunks": chunks, "expires_at": expires_at, "engine": engine}
            batch = batches.read({**message, "schema": schema, "options": options}, self.settings)
        except InvalidInput as error:
            log.error("batch.refused", batch=self.request.id, reason=str(error))  # noqa: TRY400 - its trace says no more
            raise
        delivery = self.delivery
        return self.carry_out(lambda services: services.chunks.read(batch, delivery))


class Chat(Door):
    """The answer to a conversation: `chat.delay([{"role": "user", "content": "…"}], options=None)`.

    The result is a dict with `status`, `text`, `finish`, `engine`, `mode`, `reason`, `attempts` and `usage`. With `stream`
    the text is also written to the task's stream as it is generated; `aegis_workers.chat_stream` reads it.
    """

    name = "aegis.chat"

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        inputs.conversation(arguments["messages"], arguments["options"], self.settings)
        return arguments

    def run(
        self,
        messages: Sequence[Mapping[str, str]],
        options: Mapping[str, Any] | None = None,
        stream: bool = False,  # noqa: FBT001, FBT002 - a field of the message
        version: int = VERSION,
    ) -> dict[str, Any]:
        inputs.check_version(version)
        conversation = inputs.conversation(messages, options, self.settings, enqueued_at=self.enqueued_at)
        delivery = self.delivery

        async def work(services: Services) -> dict[str, Any]:
            if not stream:
                return await chats.answer(services.calls, TaskType.CHAT, conversation, delivery)
            return await chats.stream(services.calls, conversation, delivery, Writer(services.redis, delivery.task_id))

        return self.carry_out(work)


class Generate(Door):
    """The continuation of one prompt: `generate.delay(prompt, options=None)`. The result is that of `chat`."""

    name = "aegis.generate"

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        inputs.generation(arguments["prompt"], arguments["options"], self.settings)
        return arguments

    def run(self, prompt: str, options: Mapping[str, Any] | None = None, version: int = VERSION) -> dict[str, Any]:
        inputs.check_version(version)
        conversation = inputs.generation(prompt, options, self.settings, enqueued_at=self.enqueued_at)
        delivery = self.delivery
        return self.carry_out(lambda services: chats.answer(services.calls, TaskType.GENERATION, conversation, delivery))


class GetEngineMode(Door):
    """The engine mode in force: `{"mode", "problem"}`; `problem` is None or says why it is not what the key holds."""

    name = "aegis.get_engine_mode"

    def run(self, version: int = VERSION) -> dict[str, Any]:
        inputs.check_version(version)
        with connection.explained(self.settings), connection.open_sync(self.settings) as client:
            self.unless_revoked(client)
            reading = modes.read(client, self.settings.llm_engine_mode)
        return {"mode": reading.mode.value, "problem": reading.problem}


class SetEngineMode(Door):
    """Switch the engine mode: `set_engine_mode.delay("vllm")`. The result is `{"mode", "previous"}`."""

    name = "aegis.set_engine_mode"

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "mode": modes.parse(arguments["mode"]).value}

    def run(self, mode: str, version: int = VERSION) -> dict[str, Any]:
        inputs.check_version(version)
        chosen = modes.parse(mode)
        with connection.explained(self.settings), connection.open_sync(self.settings) as client:
            self.unless_revoked(client)
            previous = modes.write(client, chosen, Source.TASK)
        return {"mode": chosen.value, "previous": previous}


def _with_json_schema(arguments: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The arguments of an extraction with a pydantic model turned into its JSON Schema, all but the text checked."""
    source = schemas.to_json_schema(arguments["schema"])
    inputs.extraction_plan(source, arguments["options"], settings)
    return {**arguments, "schema": source}


extract = app.register_task(Extract())
extract_batch = app.register_task(ExtractBatch())
read_chunks = app.register_task(ReadChunks())
chat = app.register_task(Chat())
generate = app.register_task(Generate())
get_engine_mode = app.register_task(GetEngineMode())
set_engine_mode = app.register_task(SetEngineMode())
