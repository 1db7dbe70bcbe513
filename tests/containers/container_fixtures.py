"""What the container tests share: registered by `scripts/test-containers`, so that nothing else collects them."""

import os
from collections.abc import Iterator

import pytest
from composition import Composition

# The image that scripts/test-containers has built, and the same one under the tag of a next version.
IMAGE = os.environ.get("AEGIS_TEST_IMAGE", "aegis-workers:local")
NEXT_IMAGE = os.environ.get("AEGIS_TEST_NEXT_IMAGE", IMAGE)


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    """The compose file of a clone, under a project of its own; what it started is gone afterwards."""
    composition = Composition.copied(tmp_path_factory.mktemp("clone"), image=IMAGE, next_image=NEXT_IMAGE)
    try:
        yield composition
    finally:
        composition.remove()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
