"""What the README says in tables and lists, against the code."""

import inspect
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import pytest
import readme

import aegis_workers
from aegis_workers import errors, profiles, routing, tasks
from aegis_workers.celery import QUEUES, configuration
from aegis_workers.cli import main
from aegis_workers.dispatch.attempts import MAX_ATTEMPTS, MAX_REASKS
from aegis_workers.dispatch.inputs import MAX_BATCH_ITEMS, MAX_DEADLINE_S, ExtractionOptions
from aegis_workers.errors import AegisError, CallRevoked, DriverFailed, EngineError, ErrorClass, PutBack
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, EngineView, Mode, Policy, Refuse, Run, TaskType, Wait
from aegis_workers.settings import Settings
from aegis_workers.state import liveness
from aegis_workers.state import mode as modes
from aegis_workers.worker.door import Door

COLUMNS = {TaskType.EXTRACTION: 1, TaskType.CHAT: 2, TaskType.GENERATION: 2}
# What profiles choose, in the order of the table's columns.
CHOICES = (
    "LLM_ENGINE_MODE",
    "AEGIS_FALLBACK",
    "AEGIS_DRAIN_THEN",
    "AEGIS_VLLM_DRIVER",
    "AEGIS_OLLAMA_DRIVER",
    "AEGIS_VLLM_ON_DEMAND",
)
# An engine is not configured, configured and down, or up.
CONDITIONS = (EngineView(configured=False), EngineView(configured=True), EngineView(configured=True, up=True))


def said_engines(cell: str) -> list[Engine]:
    """The engines of a cell such as "vLLM if up, else Ollama", the first choice first; what is disabled stands in brackets."""
    by_label = {engine.label: engine for engine in Engine}
    return [by_label[label] for label in re.findall("|".join(by_label), cell.partition("(")[0])]


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("task_type", TaskType)
def test_the_mode_table_is_what_routing_decides(task_type: TaskType, policy: Policy) -> None:
    rows = {readme.words(row[0])[0]: row for row in readme.table("mode", "extraction", "chat, generation")}
    assert set(rows) == set(Mode)
    for mode, vllm, ollama in product(Mode, CONDITIONS, CONDITIONS):
        views = {Engine.VLLM: vllm, Engine.OLLAMA: ollama}
        choices = said_engines(rows[mode][COLUMNS[task_type]])[: 1 if policy is Policy.HOLD else 2]
        usable = [engine for engine in choices if views[engine].configured]
        up = [engine for engine in usable if views[engine].up]
        match routing.decide(task_type, mode, views, policy):
            case Run(engine=engine):
                assert engine is up[0]
            case Wait(engines=engines):
                assert (up, list(engines)) == ([], usable)
            case Refuse():
                assert usable == []


def shown_default(value: Any) -> str:
    match value:
        case None:
            return "not set"
        case tuple():
            return f"`{','.join(value)}`"
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def test_the_table_of_settings_has_every_setting_with_its_default_and_in_its_order() -> None:
    said = [(readme.words(name)[0], default) for name, default, what in readme.table("variable", "default", "what") if what]
    assert said == [(str(field.alias), shown_default(field.default)) for field in Settings.model_fields.values()]


def test_the_table_of_profiles_is_the_one_in_force() -> None:
    columns = ("mode", "fallback", "after the drain", "vLLM driver", "Ollama driver", "vLLM on demand")
    rows = readme.table("profile", *columns, "meant for")
    said = {readme.words(name)[0]: [word for cell in cells for word in readme.words(cell)] for name, *cells, _ in rows}
    in_force = {
        profile.value: {name: str(value).lower() for name, value in chosen.items()} for profile, chosen in profiles.CHOSEN.items()
    }
    assert {profile: dict(zip(CHOICES, values, strict=True)) for profile, values in said.items()} == in_force


def test_the_example_of_a_file_of_settings_names_settings_and_can_be_read(tmp_path: Path) -> None:
    (block,) = (block for block in readme.blocks() if block.language == "ini")
    names = [line.partition("=")[0] for line in block.text.splitlines()]
    assert set(names) <= {str(field.alias) for field in Settings.model_fields.values()}
    (tmp_path / "settings").write_text(block.text)
    Settings(_env_file=tmp_path / "settings")


def test_the_table_of_tasks_has_every_task_with_its_queue_and_arguments() -> None:
    said = {
        name: (readme.words(queue)[0], arguments)
        for names, queue, arguments in readme.table("task", "queue", "arguments")
        for name in readme.words(names)
    }
    doors = {task.name: task for task in vars(tasks).values() if isinstance(task, Door) and not task.internal}
    routes = configuration()["task_routes"]
    assert {name: queue for name, (queue, _) in said.items()} == {name: routes[name] for name in doors}
    assert {queue for queue, _ in said.values()} == set(QUEUES)
    for name, task in doors.items():
        for argument in set(inspect.signature(task.run).parameters) - {"version", "stream"}:
            assert f"`{argument}`" in said[name][1], (name, argument)


def test_every_status_and_every_error_class_is_in_its_table() -> None:
    statuses = [word for cell, _ in readme.table("status", "means") for word in readme.words(cell)]
    assert statuses == [status for status in Status if status is not Status.CANCELLED]  # only jobs can be cancelled
    classes = [readme.words(cell)[0] for cell, _, _ in readme.table("class", "for example", "what happens")]
    assert set(classes) == set(ErrorClass)


def test_every_exception_that_a_caller_can_meet_is_in_its_table() -> None:
    said = [readme.words(cell)[0] for cell, _, _ in readme.table("exception", "from", "what to do")]
    defined = {kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, AegisError)}
    inside = {kind for kind in defined if issubclass(kind, EngineError | PutBack)} | {AegisError, CallRevoked, DriverFailed}
    assert sorted(said) == sorted(kind.__name__ for kind in defined - inside)


def commands(group: click.Group, name: str) -> Iterator[str]:
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}"


@pytest.mark.parametrize("command", list(commands(main, "aegis-workers")))
def test_every_command_is_in_the_readme(command: str) -> None:
    shorter = command.removeprefix("aegis-workers ")
    assert f"{command}" in readme.TEXT or f"`{shorter}`" in readme.TEXT or f"scripts/{shorter}" in readme.TEXT


@pytest.mark.parametrize("name", [*aegis_workers.__all__, *ExtractionOptions.model_fields])
def test_every_public_name_and_every_option_is_in_the_readme(name: str) -> None:
    assert re.search(rf"\b{name}\b", readme.TEXT)


def test_the_numbers_in_the_text_are_those_in_force() -> None:
    for said in (
        f"up to {MAX_BATCH_ITEMS} in one message",
        f"up to {MAX_ATTEMPTS} attempts",
        f"asked again {['never', 'once', 'twice'][MAX_REASKS]}",
        f"never older than {modes.MAX_AGE_S:g} s",
        f"silent for {liveness.TTL_S:g} s",
        f"at most a {'week' if MAX_DEADLINE_S == 7 * 86_400 else 'different time'}",
    ):
        assert said in " ".join(readme.TEXT.split()), said


def test_every_script_that_the_readme_names_is_there_and_ci_runs_the_checks_and_the_tests() -> None:
    for name in re.findall(r"(?<![\w/])(?:scripts|\.ci)/[\w.-]*", readme.TEXT):
        assert (readme.ROOT / name).exists(), name
    assert {"scripts/check", "scripts/test"} <= set((readme.ROOT / ".ci/run").read_text().splitlines())


def test_the_layout_names_what_is_there() -> None:
    (layout,) = (block.text for block in readme.blocks() if block.text.startswith("aegis_workers/"))
    package = readme.ROOT / "aegis_workers"
    names = {name.strip("/") for line in re.findall(r"[├└]── (.+?)(?:  |$)", layout, re.MULTILINE) for name in line.split(", ")}
    there = {path.stem for path in package.glob("[!_]*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert names == there


def anchors() -> dict[str, int]:
    """What GitHub makes of the headings, each with its level."""
    headings = re.findall(r"^(#+) (.+)$", re.sub(r"^```.*?^```$", "", readme.TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): len(marks) for marks, heading in headings}


def test_every_link_within_the_readme_has_its_heading() -> None:
    assert set(re.findall(r"\]\(#([^)]*)\)", readme.TEXT)) <= set(anchors())


def test_the_contents_name_every_section() -> None:
    listed = {link for _, links in readme.table("you", "read") for link in re.findall(r"\]\(#([^)]*)\)", links)}
    assert {anchor for anchor, level in anchors().items() if level > 1} - listed == {"contents", "watch-it", "scale"}
