"""The tasks, as Celery users call them. Each is a thin door: the work is done by the services behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

from aegis_workers.celery import app
from aegis_workers.dispatch import chats, inputs
from aegis_workers.dispatch.inputs import VERSION
from aegis_workers.extraction import schema as schemas
from aegis_workers.routing import TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state import mode as modes
from aegis_workers.state.streams import Writer
from aegis_workers.worker.door import Door
from aegis_workers.worker.services import Services


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
            previous = modes.write(client, chosen)
        return {"mode": chosen.value, "previous": previous}


def _with_json_schema(arguments: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The arguments of an extraction with a pydantic model turned into its JSON Schema, all but the text checked."""
    source = schemas.to_json_schema(arguments["schema"])
    inputs.extraction_plan(source, arguments["options"], settings)
    return {**arguments, "schema": source}


extract = app.register_task(Extract())
extract_batch = app.register_task(ExtractBatch())
chat = app.register_task(Chat())
generate = app.register_task(Generate())
get_engine_mode = app.register_task(GetEngineMode())
set_engine_mode = app.register_task(SetEngineMode())
