"""A double of the admin API behind the real page: it shows what a test wants seen, and keeps what the page asked for."""

import asyncio
import copy
import hmac
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from aegis_workers.admin import page_routes

BASE = "/api/v1/admin"
Overview = dict[str, Any]


def engine(label: str, word: str, **more: Any) -> dict[str, Any]:
    """An engine of an overview."""
    health = {"Active": "ok", "Inactive": "ok", "Disabled": "disabled", "Starting…": "starting", "Draining…": "draining"}
    phase = {"Active": "ready", "Inactive": "stopped", "Starting…": "starting", "Draining…": "draining", "Failed": "failed"}
    known: dict[str, Any] = {
        "label": label,
        "health": health.get(word, "unavailable"),
        "word": word,
        "reason": None,
        "since": time.time() - 3_700,
        "in_flight": 0,
        "limit": 4,
        "tokens_per_s": None,
        "serves": [],
        "phase": phase.get(word),
        "phase_since": time.time() - 3_700,
        "phase_reason": "",
        "driver": "process",
        "memory_gb": 24.0,
        "replicas": [],
    }
    return known | more


def job(number: int, name: str, state: str, **more: Any) -> dict[str, Any]:
    """A job of an overview."""
    known: dict[str, Any] = {
        "id": f"job_{number:04d}",
        "name": name,
        "state": state,
        "items": 2_000,
        "done": 1_240,
        "failed": 0,
        "items_per_s": None,
        "left_s": None,
        "waits": None,
        "created_at": time.time() - 900,
    }
    return known | more


def overview() -> Overview:
    """A busy host on which nothing is wrong."""
    now = time.time()
    disabled = "not used in mode vllm; no room beside vLLM (100.0 GB in all, 60.0 GB + 50.0 GB are needed)"
    switch = {"at": now - 3_760, "mode": "vllm", "previous": "ollama", "source": "cli"}
    phases = [
        {"engine": "ollama", "phase": "draining", "seconds": 3.4},
        {"engine": "ollama", "phase": "stopping", "seconds": 1.1},
        {"engine": "vllm", "phase": "starting", "seconds": 52.8},
        {"engine": "vllm", "phase": "warming", "seconds": 2.2},
    ]
    return {
        "now": now,
        "mode": "vllm",
        "mode_problem": None,
        "profile": {"value": "enterprise_ingestion", "origin": "DEPLOYMENT_PROFILE"},
        "default_mode": {"value": "vllm", "origin": "PROFILE=enterprise_ingestion"},
        "fallback": {"value": "degrade", "origin": "default"},
        "engines": {
            "vllm": engine("vLLM", "Active", in_flight=187, limit=256, tokens_per_s=4_812.4, serves=["extraction", "chat"]),
            "ollama": engine("Ollama", "Disabled", reason=disabled, phase="stopped", driver="ollama"),
        },
        "auto": {"available": False, "reason": "no room for vLLM beside Ollama: in this mode only Ollama would run"},
        "controller": "gpu-box",
        "memory": {"free_gb": 38.2, "total_gb": 100.0, "source": "nvml", "room_for_both": False, "why": "60 + 50 > 100 GB"},
        "queues": [
            {"name": "extraction", "length": 412, "oldest_s": 8.2, "waiting": {"a slot on vLLM": 64}},
            {"name": "chat", "length": 0, "oldest_s": None, "waiting": {}},
            {"name": "control", "length": 0, "oldest_s": None, "waiting": {}},
        ],
        "jobs": [
            job(4, "contracts 2026-11", "in_progress", items_per_s=38.4, left_s=1_140, failed=3),
            job(3, "lab reports", "stopped", done=300, failed=210, waits="stopped: 210 of the last 300 items failed"),
            job(2, "archive, part 7", "completed", done=2_000, failed=12),
            job(1, "archive, part 6", "completed", done=2_000),
        ],
        "workers": [
            {
                "id": f"w{number}",
                "queue": queue,
                "host": "gpu-box",
                "pid": 4_100 + number,
                "in_flight": {"vllm": used},
                "waiting": {"a slot on vLLM": 64} if queue == "extraction" else {},
                "seen_at": now,
            }
            for number, (queue, used) in enumerate({"extraction": 183, "chat": 4, "control": 0}.items())
        ],
        "switches": [
            {**switch, "phases": phases},
            {"at": now - 36_000, "mode": "ollama", "previous": "auto", "source": "raw", "phases": []},
        ],
        "errors": [],
    }


def prospect(mode: str) -> dict[str, Any]:
    """What a switch to `mode` would do on that host."""
    starts = {"configured": True, "act": "start", "reason": f"mode {mode}", "driver": "ollama", "in_flight": 0, "needs_gb": 24.0}
    stops = {**starts, "act": "stop", "in_flight": 187, "driver": "process", "needs_gb": 60.0}
    drain = {"drain_s": 120.0, "drain_then": "close"}
    engines = {"vllm": stops | drain, "ollama": starts | drain}
    return {
        "mode": mode,
        "previous": "vllm",
        "dry_run": True,
        "engines": engines,
        "memory": overview()["memory"],
        "controller": "gpu-box",
    }


@dataclass
class Double:
    """`seen` is what the page is told; `problem` the reason why Redis cannot be used; `asked` what the page asked for."""

    seen: Overview = field(default_factory=overview)
    token: str | None = None
    problem: str | None = None
    refusal: str | None = None
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    url: str = ""
    is_over: bool = False
    _version: int = 0

    def change(self, how: Callable[[Overview], object]) -> None:
        """Have the page told of something new."""
        seen = copy.deepcopy(self.seen)
        how(seen)
        self.seen = seen | {"now": time.time()}
        self._version += 1

    def lose_redis(self, why: str) -> None:
        self.problem, self._version = why, self._version + 1

    def find_redis(self) -> None:
        self.problem, self._version = None, self._version + 1

    async def events(self) -> AsyncIterator[str]:
        """The stream."""
        told = -1
        while not self.is_over:
            if told != self._version:
                told = self._version
                yield self._event()
            await asyncio.sleep(0.02)

    def _event(self) -> str:
        if self.problem:
            return f"event: problem\ndata: {json.dumps({'message': self.problem})}\n\n"
        return f": beat\n\nevent: overview\ndata: {json.dumps(self.seen | {'now': time.time()})}\n\n"


def build(double: Double) -> FastAPI:
    """The page, and what it asks."""
    app = FastAPI()
    app.include_router(page_routes.router)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Any]) -> Response:
        sent = request.headers.get("authorization", "").encode("latin-1")
        if double.token and not page_routes.is_open(request.url.path):
            expected = f"Bearer {double.token}".encode()
            if not hmac.compare_digest(sent, expected):
                return JSONResponse({"error": {"message": "the bearer token is missing or wrong"}}, 401)
        answer: Response = await call_next(request)
        return answer

    @app.get(f"{BASE}/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(double.events(), media_type="text/event-stream")

    @app.get(f"{BASE}/llm/engine/prospect")
    async def foresee(mode: str) -> dict[str, Any]:
        return prospect(mode)

    @app.put(f"{BASE}/llm/engine")
    async def switch(request: Request) -> Any:
        body = await request.json()
        double.asked.append(("PUT", "/llm/engine", body))
        if double.refusal:
            return JSONResponse({"error": {"message": double.refusal}}, 503)
        previous = double.seen["mode"]
        double.change(lambda seen: seen.update(mode=body["mode"]))
        return {"mode": body["mode"], "previous": previous}

    @app.post(f"{BASE}/jobs/{{job_id}}/{{verb}}")
    async def steer(job_id: str, verb: str) -> dict[str, Any]:
        double.asked.append(("POST", f"/jobs/{job_id}/{verb}", None))
        return {"id": job_id}

    return app


@contextmanager
def showing(double: Double) -> Iterator[Double]:
    """The double on a socket; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(build(double), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        double.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield double
        finally:
            double.is_over = server.should_exit = True
            thread.join()
