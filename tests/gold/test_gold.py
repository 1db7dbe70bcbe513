"""Gold documents through extraction: the short form of `scripts/gold`."""

import ast
import json
import re
from pathlib import Path

import gold_documents
import gold_report
import gold_runs
import gold_trials
import pytest
from click.testing import CliRunner
from gold_corruption import Corruption
from gold_runs import Cut
from gold_trials import EXACT, NOTHING_CUT_AWAY, Trial
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_workers.extraction import prompt

GOLDS = list(gold_documents.documents(2, 15))
TRIALS = list(gold_trials.all_of(GOLDS))
# What says what is right may know nothing of what is tried.
INDEPENDENT = ("gold_cast", "gold_corruption", "gold_documents", "gold_engine", "gold_scoring")
NO_EXTRACTION = ("aegis_workers.completion", "aegis_workers.outcome")


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"{trial.name} {trial.cut.chunk_tokens}/{trial.cut.overlap_tokens}")
def test_what_comes_out_is_what_the_bounds_of_each_trial_say(trial: Trial) -> None:
    assert trial.broken(trial.run(GOLDS)) == []


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 40), st.integers(0, 2000))
def test_right_answers_come_out_exactly_for_every_chunk_size_and_every_order(
    seed: int, parts: int, more_overlap: int, more: int
) -> None:
    golds = [gold_documents.generate(seed, parts)]
    overlap = gold_runs.statements_tokens(golds) + more_overlap
    cut = Cut(chunk_tokens=2 * overlap + more, overlap_tokens=overlap)
    trial = Trial(name="right", cut=cut, bounds=EXACT + NOTHING_CUT_AWAY)
    assert trial.broken(trial.run(golds)) == []


def test_a_statement_longer_than_the_overlap_may_stand_in_no_chunk() -> None:
    trial = next(trial for trial in TRIALS if trial.name == "right, overlap for names")
    assert trial.run(GOLDS).score.cut_away > 0


@pytest.mark.parametrize("corruption", [Corruption.VERBS_INVENTED, Corruption.TYPES_INVENTED])
def test_invented_verbs_and_types_carry_no_mark_and_are_counted(corruption: Corruption) -> None:
    score = next(trial for trial in TRIALS if trial.name == corruption).run(GOLDS).score
    assert score.unsaid > 0
    assert (score.let_through, score.grounding_rate) == (0, 1)
    assert next(trial for trial in TRIALS if trial.name == "right, default cut").run(GOLDS).score.unsaid == 0


@pytest.mark.parametrize("module", INDEPENDENT)
def test_the_gold_knows_nothing_of_what_it_measures(module: str) -> None:
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name.startswith(("aegis_workers", "gold", "."))}
    assert ours <= {*INDEPENDENT, *NO_EXTRACTION}
    assert not {"importlib", "sys"} & imported


def test_the_report_is_one_table_and_its_exit_says_that_all_bounds_hold() -> None:
    ended = CliRunner().invoke(gold_report.main, ["--documents", "3", "--seed", "5"])
    assert ended.exit_code == 0, ended.output
    assert ended.output.startswith("3 documents of seed 5")
    assert "all bounds hold" in ended.output
    assert len(re.findall(r"^right, default cut .* 1500/100 .*1\.000 1\.000 1\.000", ended.output, re.MULTILINE)) == 1


def test_the_report_names_each_bound_that_is_missed_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "_MARKS", re.compile("(?!)"))
    ended = CliRunner().invoke(gold_report.main, ["--documents", "8", "--json"])
    assert ended.exit_code == 1
    trials = json.loads(ended.output)["trials"]
    missed = next(one for one in trials if one["trial"] == "right, default cut")
    assert missed["entities"]["recall"] < 1
    assert any(re.match(r"recall of entities 0\.\d+, not 1", one) for one in missed["broken"])
