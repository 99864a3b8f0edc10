"""Score replies with a run's evaluators."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from common.jsonl import read_json
from common.schema import Schema
from dataset.nli import LABEL_NAMES
from scoring.asked_logits import AskedLogits, Reading
from scoring.audit import audit_warnings
from scoring.evaluators import Evaluator, majority_warning
from scoring.recorded_forward import RecordedForward
from scoring.stale import evaluators_hash
from scoring.systems import evaluator_folders

MINIMUM_ACCURACY = {
    "attribute": 0.80,
    "nli": 0.70,
}  # under these the results say that an evaluator is not to be trusted


class Scorer:
    """All evaluators of a run: one per attribute, and coherence unless told otherwise."""

    def __init__(self, run_folder: Path, schema: Schema, device: torch.device, coherence: bool = True):
        """Raises `common.errors.InputError` naming the evaluator that is missing and how to train it."""
        self.schema = schema
        labels_of = schema.aspects | {"nli": LABEL_NAMES}
        self.records, self.evaluators, self.audit = {}, {}, None
        for name, place in evaluator_folders(schema.names).items():
            if name == "nli" and not coherence:
                continue
            folder, labels = run_folder / place, labels_of[name]
            stage = read_json(folder / "stage.json") or {}
            metrics = stage.get("metrics", {})
            self.records[name] = {
                "accuracy": metrics.get("accuracy"),
                "base": stage.get("base"),
                "hash": metrics.get("hash"),
            }
            self.records[name] |= {
                key: metrics[key]
                for key in ("n_dev", "confusion", "calibration", "audit", "doubt")
                if key in metrics
            }
            self.evaluators[name] = Evaluator.load(folder, name, device, self.records[name], labels)
            self.audit = metrics.get("audit") if name == "nli" else self.audit
        self.hash = evaluators_hash(self.records)

    @cached_property
    def _readers(self) -> list[tuple[list[str], RecordedForward]]:
        """Attributes whose evaluators read the same rows, and the pass of all of these."""
        groups: dict[tuple, list[str]] = {}
        for name in self.schema.names:
            groups.setdefault(self.evaluators[name].reads, []).append(name)
        return [
            (names, RecordedForward([self.evaluators[name].model for name in names], reads[1]))
            for reads, names in groups.items()
        ]

    def score(self, rows: list[dict]) -> None:
        """Write ``predicted``, ``probabilities`` (for every attribute of the schema) and ``nli`` into generations."""
        self.ask(rows).write()

    def ask(self, rows: list[dict]) -> "AskedScores":
        """Have generations read; `AskedScores.write` then writes what `score` writes."""
        replies = [row["response"] for row in rows]
        readings = [
            Reading(first.encode(replies), forward, first.tokenizer.pad_token_id)
            for names, forward in self._readers
            for first in [self.evaluators[names[0]]]
        ]
        if "nli" in self.evaluators:
            nli = self.evaluators["nli"]
            readings.append(nli.reading(nli.encode_pairs([tuple(row["context"]) for row in rows], replies)))
        return AskedScores(self, rows, AskedLogits(readings))

    def warnings(self) -> list[str]:
        """What speaks against trusting these evaluators."""
        found = []
        for name, record in self.records.items():
            minimum = MINIMUM_ACCURACY["nli" if name == "nli" else "attribute"]
            if record.get("doubt"):
                found.append(f"evaluator {name}: {record['doubt']}; numbers that rest on it mean nothing")
                continue
            accuracy = "unknown" if record["accuracy"] is None else f"{record['accuracy']:.3f}"
            if record["accuracy"] is None or record["accuracy"] < minimum:
                found.append(
                    f"evaluator {name}: dev accuracy {accuracy} is under {minimum}; numbers that rest on it are not usable"
                )
            elif line := majority_warning(name, record):
                found.append(line)
        return found + (audit_warnings(self.audit) if self.audit else [])

    def coherence_warnings(self) -> list[str]:
        """Those of `warnings` that are about coherence."""
        return [
            warning for warning in self.warnings() if warning.startswith(("coherence:", "evaluator nli:"))
        ]


class AskedScores:
    """Scores of generations that the evaluators are reading."""

    def __init__(self, scorer: Scorer, rows: list[dict], logits: AskedLogits):
        self._scorer, self._rows, self._logits = scorer, rows, logits

    def write(self) -> None:
        """Write them into the rows; on a GPU this waits until they are there."""
        scorer, rows = self._scorer, self._rows
        if not rows:
            return
        for row in rows:
            row["predicted"], row["probabilities"], row["evaluators"] = {}, {}, scorer.hash
        found, aspects_of = self._logits.fetch(), scorer.schema.aspects
        chances = {}
        for (names, _), logits in zip(scorer._readers, found):
            ends = np.cumsum([len(aspects_of[name]) for name in names])[:-1]
            chances |= zip(names, np.split(logits, ends, axis=1))
        for name, aspects in aspects_of.items():
            of_all = softmax(chances[name], axis=-1)
            for row, own, largest in zip(rows, of_all.tolist(), of_all.argmax(1).tolist()):
                row["probabilities"][name] = {a: round(p, 6) for a, p in zip(aspects, own)}
                row["predicted"][name] = aspects[largest]
        if "nli" in scorer.evaluators:
            for row, chance in zip(rows, softmax(found[-1], axis=-1)[:, 1].tolist()):
                row["nli"] = round(chance, 6)
