"""Run one trial of a run: every condition, every item, every score, in one resumable job.

What decides the numbers (directions, set, weights, settings, code, precision) is the key of a journal beside the
output; an interrupted job continues from it and ends in the same table.
"""

import logging
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from affectome.corpus.tables import read_corpus
from affectome.errors import UserError
from affectome.files import read_json, write_json, write_table
from affectome.identity import file_sha256, fingerprint
from affectome.journal import Journal
from affectome.layers import headline_layer
from affectome.models.load import load_model
from affectome.steering import behaviour, cost, expression, preference
from affectome.steering.bench import Bench
from affectome.steering.conditions import SCORE, conditions
from affectome.steering.directions import read_directions
from affectome.steering.judges import Judge, judge_for
from affectome.steering.sets import Behaviour, Cost, Expression, TrialSet, read_set

log = logging.getLogger(__name__)


def run_trial(
    directions: str | Path,
    manifest: str | Path,
    trial_set: str | Path,
    judge_prompt: str | Path,
    stories: str | Path,
    output: str | Path,
    notes: str | Path,
    spec: dict[str, Any],
    code: str,
    threads: int,
) -> None:
    """Run a trial with the model of `manifest`; its table goes to `output`, how it went to `notes`.

    `spec` is the trial in config with `layer`, the run's headline layer or the sweep that chose it, and the model's
    `dtype`, `quantization`, `token_budget` and `trust_remote_code`. Raises UserError, before any pass, for directions
    made from another model, a judge that cannot be reached and a prompt that does not fit.
    """
    torch.set_num_threads(threads)
    output = Path(output)
    spec = {**spec, "layer": headline_layer(spec["layer"])}
    content = read_set(trial_set)
    found = read_directions(directions)
    weights = read_json(manifest)
    if found.model != weights["model"]:
        raise UserError(
            f"{directions}: its vectors were made from {found.model} and cannot steer {weights['model']}; "
            f"rebuild it with `snakemake {directions}`"
        )
    judge = _judge(content, spec, judge_prompt)
    if judge is not None:
        judge.check()
    model, tokenizer = load_model(Path(manifest).parent, spec["dtype"], spec["quantization"], spec["trust_remote_code"])
    if _wants_judge(content, spec) and judge is None:
        judge = judge_for(spec["judge"], judge_prompt, model, tokenizer, spec["seed"])
        judge.check()
    plan = conditions(found.emotions, found.controls, spec["strengths"], asking=not isinstance(content, Cost))
    key = fingerprint(
        {
            "directions": found.fingerprint,
            "spec": spec,
            "set": [file_sha256(file) for file in (trial_set, *content.files, stories)],
            "model": weights["sha256"],
            "code": code,
            "computed": [str(model.dtype), model.device.type, torch.__version__, transformers.__version__],
        }
    )
    started = time.monotonic()
    with Journal(output.with_name(f".{output.stem}.journal.jsonl"), key) as journal:
        bench = Bench(model, tokenizer, found, plan, spec, journal)
        table, said = _run(bench, content, judge, stories, spec["layer"])
        write_table(output, table)
        write_json(
            notes,
            {
                "model": weights["model"],
                "fingerprint": key,
                "conditions": len(plan),
                "items": len(table),
                "tokens_written": int(table["tokens"].sum()),
                "seconds": time.monotonic() - started,
                "dtype": str(model.dtype).removeprefix("torch."),
                "device": model.device.type,
                **said,
            },
        )
        journal.remove()
    scored = sum(int(table[name].notna().sum()) for name in table.columns if name.startswith(SCORE))
    log.info("%d conditions, %d items, %d scores", len(plan), len(table), scored)


def _wants_judge(content: TrialSet, spec: dict[str, Any]) -> bool:
    return isinstance(content, Behaviour | Expression) and spec["judge"] not in (None, "keywords")


def _judge(content: TrialSet, spec: dict[str, Any], prompt: str | Path) -> Judge | None:
    """The judge that needs no model of ours, so that one out of reach is found out before any is loaded."""
    if not _wants_judge(content, spec) or spec["judge"].get("local") is True:
        return None
    return judge_for(spec["judge"], prompt, seed=spec["seed"])


def _run(
    bench: Bench, content: TrialSet, judge: Judge | None, stories: str | Path, layer: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    if isinstance(content, Expression):
        return expression.run(bench, content, read_corpus(stories), layer, judge)
    if isinstance(content, Cost):
        return cost.run(bench, content), {}
    if isinstance(content, Behaviour):
        return behaviour.run(bench, content, judge)
    return preference.run(bench, content)
