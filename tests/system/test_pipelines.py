"""Another Celery application whose tasks enqueue ours: its worker is none of ours."""

import sys
from pathlib import Path

from celery import Celery
from installation import eventually, installed

from aegis_workers.local import environment, process
from aegis_workers.state import keys

PIPELINE = """
import os
from celery import Celery
from aegis_workers import extract

url = os.environ["AEGIS_REDIS_URL"]
app = Celery("pipeline", broker=url, backend=url)

@app.task(name="pipeline.step")
def step(text):
    return extract.delay(text).id
"""


def test_the_worker_of_a_pipeline_that_enqueues_here_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    with installed(tmp_path) as place:
        env = environment.of(place.settings) | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "celery", "-A", "pipeline", "worker", "--pool", "solo", "-Q", "steps", "-l", "info"]
        worker = process.start("pipeline", [*command, "-n", "pipeline@%h"], log=tmp_path / "pipeline.log", env=env)
        place.workers.append(worker)
        with Celery("starter", broker=place.settings.redis_url, backend=place.settings.redis_url) as starter:
            starter.send_task("pipeline.step", args=["A text."], queue="steps").get(timeout=30)
        eventually(lambda: place.redis.llen("extraction") == 1)
        assert "INFO/MainProcess" in worker.log.read_text()
        assert list(place.redis.scan_iter(f"{keys.WORKER_PREFIX}*")) == []
        assert not place.redis.exists(keys.PROBER, keys.ALIVE)
