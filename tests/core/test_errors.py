"""Errors travel: from a worker to whoever waits for its result, as JSON, and between processes, pickled."""

import ast
import json
import pickle
from pathlib import Path

import pytest
from celery import Celery

import aegis_workers
from aegis_workers import errors
from aegis_workers.errors import AegisError, EngineError, ErrorClass

FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AegisError)]
MESSAGE = "the cause: the cure, with 'quotes', % and é"
PACKAGE = Path(aegis_workers.__file__).parent


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_of_a_task_reaches_the_caller_with_its_class_and_message(kind: type[AegisError]) -> None:
    backend = Celery(set_as_current=False, backend="cache+memory://").backend
    wire = json.dumps(backend.prepare_exception(kind(MESSAGE), "json"))
    received = backend.exception_to_python(json.loads(wire))
    assert type(received) is kind
    assert str(received) == MESSAGE


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_survives_pickling(kind: type[AegisError]) -> None:
    received = pickle.loads(pickle.dumps(kind(MESSAGE)))  # noqa: S301 - our own bytes
    assert type(received) is kind
    assert str(received) == MESSAGE


def test_what_the_engine_said_is_no_part_of_the_message_but_survives_pickling() -> None:
    error = errors.EngineBusy(MESSAGE, words="the prompt, echoed", retry_after_s=2.0)
    assert "echoed" not in str(error) + repr(error)
    received = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (received.words, received.retry_after_s) == ("the prompt, echoed", 2.0)


@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        (errors.RequestRefused, ErrorClass.ITEM_FATAL),
        (errors.EngineBusy, ErrorClass.TRANSIENT),
        (errors.EngineLost, ErrorClass.ENGINE_FATAL),
        (errors.EngineUnreachable, ErrorClass.ENGINE_FATAL),
    ],
)
def test_every_engine_error_says_what_its_caller_should_do(kind: type[EngineError], error_class: ErrorClass) -> None:
    assert kind(MESSAGE).error_class is error_class


def _raised(path: Path) -> list[ast.Call]:
    """The calls that make an error of ours, anywhere in a module."""
    names = {kind.__name__ for kind in FAMILY}
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in names]


def test_no_error_is_made_without_a_message() -> None:
    made = [(path, call) for path in PACKAGE.rglob("*.py") for call in _raised(path)]
    assert len(made) > 40
    assert [f"{path.name}:{call.lineno}" for path, call in made if not call.args] == []
