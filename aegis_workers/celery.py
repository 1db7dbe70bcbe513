"""The Celery application: queues, delivery and serialisation. `celery -A aegis_workers worker -Q extraction` runs a worker."""

from typing import Any

import click
from celery import bootsteps, signals
from celery.concurrency import solo, thread
from kombu.entity import Exchange, Queue

from aegis_workers import settings as settings_module
from aegis_workers.errors import ConfigurationError
from aegis_workers.state import cancels
from aegis_workers.worker import brokerage, ending, flower, garbage, greeting, health, holdings, rebirth, runtime
from aegis_workers.worker.events import EventTimer
from aegis_workers.worker.pulse import Pulse
from aegis_workers.worker.queues import only_queue
from aegis_workers.worker.request import QuietApp, QuietTask
from aegis_workers.worker.revoking import RevokeCommands

EXTRACTION, CHAT, CONTROL = "extraction", "chat", "control"
QUEUES = (EXTRACTION, CHAT, CONTROL)

# A call lives on the event loop of its process: a forked child would not have it, and green threads would block it.
POOLS = (thread.TaskPool, solo.TaskPool)

# Kombu's way to find abandoned messages is not used: it does not tell a task that still runs from one whose worker died. It also
# looks from connections that take no tasks; so it finds nothing there, and keeps off the keys of other applications.
_NEVER_S = 100 * 365 * 86_400
_UNUSED = "aegis:unused_by_kombu"


_TRANSPORT = {
    "visibility_timeout": _NEVER_S,
    "unacked_key": _UNUSED,
    "unacked_index_key": f"{_UNUSED}:index",
    "unacked_mutex_key": f"{_UNUSED}:mutex",
    "priority_steps": [0],  # a worker takes from one list
    "health_check_interval": 10,
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "socket_keepalive": True,
}


class BadSettings(ConfigurationError, click.ClickException):
    """A bad value, shown by Celery's command line as one sentence."""

    def __init__(self, error: ConfigurationError) -> None:
        click.ClickException.__init__(self, str(error))


def configuration() -> dict[str, Any]:
    """Celery's configuration, made from the settings when it is first needed."""
    try:
        settings = settings_module.load()
    except ConfigurationError as error:
        raise BadSettings(error) from None
    return {
        **brokerage.addresses(settings),
        "result_expires": cancels.TTL_S,
        "redis_socket_connect_timeout": 5,
        "redis_retry_on_timeout": False,
        "broker_transport_options": {**_TRANSPORT, **brokerage.options(settings)},
        "result_backend_transport_options": brokerage.options(settings),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        "task_default_queue": EXTRACTION,
        "task_create_missing_queues": False,
        "task_routes": {
            "aegis.extract": EXTRACTION,
            "aegis.extract_batch": EXTRACTION,
            "aegis.read_chunks": EXTRACTION,
            "aegis.chat": CHAT,
            "aegis.generate": CHAT,
            "aegis.get_engine_mode": CONTROL,
            "aegis.set_engine_mode": CONTROL,
        },
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_consumer": "aegis_workers.worker.consumer:Consumer",
        "worker_deduplicate_successful_tasks": True,
        "worker_enable_prefetch_count_reduction": False,  # what earlier connections brought counts as it is
        "worker_pool": "aegis_workers.worker.threads:Threads",
        "worker_concurrency": settings.threads(),
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": 200,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_enable_remote_control": True,
        "control_queue_ttl": 300.0,
    }


class PoolCheck(bootsteps.Step):
    """Refuses a pool in which calls could not run. A step, because Celery swallows what the handler of a signal raises."""

    def __init__(self, parent: Any, **options: Any) -> None:
        if not issubclass(parent.pool_cls, POOLS):
            pool = parent.pool_cls.__module__.rpartition(".")[2]
            raise BadSettings(ConfigurationError(f"pool {pool} cannot be used: leave out --pool, the default is threads"))
        super().__init__(parent, **options)


class ColdEnd(bootsteps.StartStopStep):
    """Ends the event loop after a cold shutdown, for which Celery sends no signal."""

    def terminate(self, parent: Any) -> None:
        """Whatever still waits for a call in the pool is told so first."""
        if parent.pool is not None:
            parent.pool.terminate()
        _close_runtime(parent)


class PlaceCheck(bootsteps.Step):
    """Refuses a Redis that would lose messages, and a health folder that is none.

    A Redis that is away is waited for, and looked at when it answers.
    """

    def __init__(self, parent: Any, **options: Any) -> None:
        settings = settings_module.load()
        reason = health.refused(settings.health_dir) or greeting.refused(settings)
        if reason is not None:
            raise BadSettings(ConfigurationError(reason))
        super().__init__(parent, **options)


class QueueCheck(bootsteps.Step):
    """Refuses several queues; from here on this process holds messages."""

    def __init__(self, parent: Any, **options: Any) -> None:
        try:
            queue = only_queue(parent.app.amqp.queues.consume_from)
        except ConfigurationError as error:
            raise BadSettings(error) from None
        holdings.begin(settings_module.load(), queue)
        super().__init__(parent, **options)


app = QuietApp("aegis_workers", include=["aegis_workers.tasks"], task_cls=QuietTask)
app.add_defaults(configuration)
app.user_options["preload"].add(flower.option())
app.steps["worker"].update({PoolCheck, PlaceCheck, QueueCheck, ColdEnd})
app.steps["consumer"].update({EventTimer, Pulse, RevokeCommands})


@signals.celeryd_after_setup.connect(weak=False)
def _start_runtime(instance: Any, **_: Any) -> None:
    if instance.app is not app:  # another application's worker, whose tasks enqueue ours
        return
    rebirth.prepare()
    runtime.start(settings_module.load(), queue=only_queue(instance.app.amqp.queues.consume_from))


@signals.worker_ready.connect(weak=False)
def _settle(**_: Any) -> None:
    if runtime.started() is not None:
        garbage.settle()


@signals.worker_shutting_down.connect(weak=False)
def _begin_stop(how: str, **_: Any) -> None:
    running = runtime.started()
    if running is not None:
        running.begin_stop(at_once=how == "Cold")


@signals.worker_shutdown.connect(weak=False)
def _close_runtime(sender: Any, **_: Any) -> None:
    running = runtime.started()
    if running is None:
        return
    running.close()
    held = holdings.current()
    if held is not None:
        held.give_up()
    sender.exitcode = ending.status(sender.exitcode)
