"""A copy of `compose/` that runs under a project of its own, beside whatever else this Docker runs."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WITHIN_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Composition:
    """`folder` holds the clone; commands run in its `compose/` with `variables`, which win over `.env`."""

    folder: Path
    project: str
    image: str
    next_image: str

    @classmethod
    def copied(cls, folder: Path, *, image: str, next_image: str) -> "Composition":
        """A composition that has not been started."""
        shutil.copytree(ROOT / "compose", folder / "compose", ignore=shutil.ignore_patterns(".env"))
        return cls(folder=folder, project=f"aegis-test-{os.getpid()}", image=image, next_image=next_image)

    @property
    def variables(self) -> Mapping[str, str]:
        """A project, an image and ports of its own, where `.env` has an operator's."""
        ports = dict.fromkeys(("ADMIN_PORT", "FLOWER_PORT"), "0")
        patient = {"COMPOSE_HTTP_TIMEOUT": str(int(WITHIN_S))}  # compose 1 gives up on a Docker that is slower
        return {"COMPOSE_PROJECT_NAME": self.project, "AEGIS_IMAGE": self.image, **ports, **patient}

    def type(self, commands: str, *, where: str = "compose", **variables: str) -> str:
        """What `commands` print in a shell that ends with the first of them that fails."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder / where,
            env={**os.environ, **self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
        )
        assert ended.returncode == 0, f"{commands}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def compose(self, *arguments: str, **variables: str) -> str:
        """What `docker-compose` prints."""
        return self.type('docker-compose "$@"'.replace('"$@"', " ".join(arguments)), **variables)

    def containers(self, service: str | None = None) -> Sequence[Mapping[str, Any]]:
        """What Docker knows of the containers of a service, or of all."""
        labels = [f"com.docker.compose.project={self.project}"]
        labels += [] if service is None else [f"com.docker.compose.service={service}"]
        ids = docker("ps", "--all", "--quiet", *(part for label in labels for part in ("--filter", f"label={label}"))).split()
        found: list[Mapping[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return found

    def await_healthy(self, *services: str) -> None:
        """Returns when every container, or each of `services`, is healthy by its own check."""
        wanted = services or ("",)
        eventually(lambda: all(_is_healthy(one) for service in wanted for one in self.containers(service or None)))

    def python(self, service: str, script: str) -> str:
        """What `script` prints in the first container of a service."""
        return docker("exec", str(self.containers(service)[0]["Id"]), "python", "-c", script)

    def results(self, job: str) -> Sequence[Mapping[str, Any]]:
        """The lines of a job."""
        printed = self.compose("exec", "-T", "admin", "aegis-workers", "results", job)
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    def status(self, job: str) -> Mapping[str, Any]:
        """How a job stands."""
        status: Mapping[str, Any] = json.loads(self.compose("exec", "-T", "admin", "aegis-workers", "status", job, "--json"))
        return status

    def remove(self) -> None:
        """Containers, networks and volumes of the project, by their labels: also those that a command broke off leaves."""
        label = f"label=com.docker.compose.project={self.project}"
        for kind, listed, removed in (
            ("container", ("ls", "--all"), ("rm", "--force", "--volumes")),
            ("network", ("ls",), ("rm",)),
            ("volume", ("ls",), ("rm", "--force")),
        ):
            ids = docker(kind, *listed, "--quiet", "--filter", label).split()
            if ids:
                docker(kind, *removed, *ids)


def docker(*arguments: str) -> str:
    """What Docker says."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=WITHIN_S).stdout


def eventually(holds: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
    """What `holds` returns once it is true; fails the test when that takes too long."""
    deadline = time.monotonic() + within_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"did not happen within {within_s:g} s"
        time.sleep(0.2)
    return value


def lines_by_id(results: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How often each item has a line."""
    return Counter(str(line["custom_id"]) for line in results)


def _is_healthy(container: Mapping[str, Any]) -> bool:
    state = container["State"]
    assert state["Status"] in {"created", "running"}, f"{container['Name']} is {state['Status']}"
    return bool(state.get("Health", {}).get("Status") == "healthy")
