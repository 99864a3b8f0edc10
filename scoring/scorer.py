"""Score replies with a run's evaluators."""

from pathlib import Path

import torch

from common.jsonl import read_json
from common.schema import Schema
from dataset.nli import LABEL_NAMES
from scoring.audit import audit_warnings
from scoring.evaluators import Evaluator, majority_warning
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

    def score(self, rows: list[dict]) -> None:
        """Write ``predicted``, ``probabilities`` (for every attribute of the schema) and ``nli`` into generations."""
        replies = [row["response"] for row in rows]
        for row in rows:
            row["predicted"], row["probabilities"], row["evaluators"] = {}, {}, self.hash
        encoded: dict[tuple, list[dict]] = {}  # evaluators from one base read the same
        for attribute in self.schema.attributes:
            evaluator = self.evaluators[attribute.name]
            if evaluator.reads not in encoded:
                encoded[evaluator.reads] = evaluator.encode(replies)
            for row, chances in zip(rows, evaluator.probabilities(encoded[evaluator.reads])):
                row["probabilities"][attribute.name] = {
                    a: round(float(p), 6) for a, p in zip(attribute.aspects, chances)
                }
                row["predicted"][attribute.name] = attribute.aspects[int(chances.argmax())]
        if "nli" not in self.evaluators:
            return
        for row, chance in zip(
            rows, self.evaluators["nli"].score_pairs([tuple(row["context"]) for row in rows], replies)
        ):
            row["nli"] = round(float(chance), 6)

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
