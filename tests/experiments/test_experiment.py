"""Experiments: cells appear once and stay, mistakes come first, a failure costs one cell, and the table keeps to its rule."""

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from common.errors import InputError
from common.jsonl import write_json
from common.schema import Attribute, Schema, load_schema
from dataset.encoding import DialogueTemplate, encode_texts
from dataset.nli import LABEL_NAMES
from experiments import cvae
from experiments import evaluators as evaluators_module
from experiments.__main__ import main
from experiments.contexts import labelled, requests_of
from experiments.frontier import draw
from experiments.grid import read_grid
from experiments.measures import measured
from experiments.options import crossed
from experiments.plan import plan
from experiments.rows import RowsFile
from experiments.runner import units
from experiments.summary import Summary, best_of_models
from generation import control_weights
from model.bases import ScratchSize, scratch_encoder_config, weights_hash
from scoring.evaluators import Evaluator, new_classifier

ROOT = Path(__file__).resolve().parents[2]
SCORERS = {}  # folder -> its evaluators


@dataclass(frozen=True)
class TrainingSetting:
    """The fields of the baselines' setting that an experiment fills in, and one of its own."""

    schema: Schema
    decoder: object
    template: DialogueTemplate
    device: torch.device
    epochs: int = 1
    seed: int = 0
    limit: int | None = None


class Parrot:
    """A baseline that says the user's words again, followed by its strength; told to, it fails."""

    name = "parrot"
    has_strength = True
    trained: ClassVar[list[TrainingSetting]]
    written: ClassVar[list[float]]
    trouble: ClassVar[dict[float | str, BaseException]]

    @classmethod
    def train(cls, setting, shared):
        cls.trained.append(setting)
        if trouble := cls.trouble.get(f"epochs {setting.epochs}"):
            raise trouble
        return cls()

    def write(self, requests, how, strength, seed, *, tail: str = ""):
        self.written.append(strength)
        if strength in self.trouble:
            raise self.trouble[strength]
        return [f"{request.context[-1]} {strength:g}{tail}" for request in requests]


@pytest.fixture(autouse=True)
def parrot(monkeypatch):
    """A registry with `Parrot` alone, whatever baselines there are."""
    registry = ModuleType("baselines.registry")
    registry.METHODS, registry.TrainingSetting = {"parrot": Parrot}, TrainingSetting
    monkeypatch.setitem(sys.modules, "baselines", ModuleType("baselines"))
    monkeypatch.setitem(sys.modules, "baselines.registry", registry)
    Parrot.trained, Parrot.written, Parrot.trouble = [], [], {}
    return Parrot


@pytest.fixture(scope="session")
def evaluators(tmp_path_factory, encoder_tokenizer):
    """A run's folder with evaluators of random weights, which need no training."""
    run, schema = tmp_path_factory.mktemp("evaluators"), load_schema(ROOT / "schema.py")
    places = {f"classifier/{attribute.name}": attribute.aspects for attribute in schema.attributes} | {
        "nli": LABEL_NAMES
    }
    for seed, (place, labels) in enumerate(places.items()):
        torch.manual_seed(seed)
        config = scratch_encoder_config(ScratchSize(1, 16, 2, 200), encoder_tokenizer)
        config.update(
            {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        )
        BertForSequenceClassification(config).save_pretrained(run / place)
        encoder_tokenizer.save_pretrained(run / place)
        write_json(
            run / place / "stage.json",
            {"base": "scratch", "metrics": {"accuracy": 0.9, "hash": weights_hash(run / place)}},
        )
    return run


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, evaluators):
    """The evaluators of `evaluators` are loaded once for all tests."""
    load = evaluators_module.Scorer

    def scorer(folder, *words, **options):
        if folder not in SCORERS:
            SCORERS[folder] = load(folder, *words, **options)
        return SCORERS[folder]

    monkeypatch.setattr(evaluators_module, "Scorer", scorer)


@pytest.fixture
def grid_file(tmp_path, evaluators):
    """Writes a grid for a few rows of the bundled data, scored by `evaluators`; returns its path."""

    def write(models, **changes):
        common = {
            "preset": "scratch",
            "schema": str(ROOT / "schema.py"),
            "outs": str(tmp_path),
            "limit": 6,
            "contexts": "dev:2",
            "evaluators": str(evaluators),
        }
        path = tmp_path / "grid.yaml"
        path.write_text(
            yaml.safe_dump(
                common | {"cvae": {"num_train_epochs": 1}, "models": models} | changes, sort_keys=False
            )
        )
        return path

    return write


def rows_of(path):
    with open(path.parent / "experiments" / path.stem / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


PARROT = {"kind": "parrot", "generation": {"strength": [1, 2, 3]}}


# --- the whole way -------------------------------------------------------------------------------------------------


def test_rows_appear_and_a_second_start_does_nothing(grid_file, parrot, tmp_path, monkeypatch, capsys):
    encodings = []
    encode = cvae.ReplyGenerator.priors
    monkeypatch.setattr(
        cvae.ReplyGenerator, "priors", lambda self, *args: encodings.append(1) or encode(self, *args)
    )
    monkeypatch.setattr(control_weights, "STRONGEST", 1e39)
    ours = {
        "kind": "cvae",
        "generation": {
            "weights": [1, 3e38],
            "start": "mean",
            "max_new_tokens": 8,
            "solver": "rk4",
            "steps": 4,
            "max_halvings": 0,
        },
    }
    free = {"kind": "cvae", "generation": {"algorithm": "none", "max_new_tokens": 8}}
    path = grid_file(
        {"people": {"kind": "human"}, "ours": ours, "free": free, "parrot": PARROT}, keep_models=False
    )
    assert main([str(path), "--dry-run"]) == 0 and not (tmp_path / "experiments").exists()
    assert "7 cells, 7 missing, 2 models to load or train" in capsys.readouterr().out

    assert main([str(path)]) == 1  # at a weight of 3e38 the sampler's latents are not finite
    rows = rows_of(path)
    folder = tmp_path / "experiments" / "grid"
    assert [row["model"] for row in rows] == ["people", "ours", "free", "parrot", "parrot", "parrot"]
    with open(folder / "failures.csv", newline="") as file:
        failures = list(csv.DictReader(file))
    assert [(row["model"], json.loads(row["options"])) for row in failures] == [("ours", {"weights": 3e38})]
    assert failures[0]["reason"].endswith("latents are not finite: the weights are too large")

    people, trained, free, *others = rows
    assert (
        people["accuracy_joint"] == "" and float(people["accuracy_mean"]) <= 1 and people["replies_n"] == "18"
    )
    assert (
        (trained["weights"], trained["strength"]) == ("1", "")
        and trained["replies_n"] == "16"
        and trained["contexts_n"] == "2"
    )
    assert (
        json.loads(trained["training"])["num_train_epochs"] == 1
        and json.loads(trained["generation"])["start"] == "mean"
    )
    assert all(
        float(trained[name]) >= 0
        for name in (
            "seconds_training",
            "seconds_latents",
            "seconds_decoding",
            "seconds_scoring",
            "dev_reconstruction",
            "dev_kl_unclamped",
        )
    )
    assert (
        trained["weights_hash"] == free["weights_hash"] and len(encodings) == 1
    )  # one model, loaded once, contexts encoded once
    assert set(json.loads(trained["evaluators"])) == {"languagestyle", "attitude", "mindchar", "nli"}
    assert (
        float(trained["accuracy_joint_low"])
        <= float(trained["accuracy_joint"])
        <= float(trained["accuracy_joint_high"])
    )
    assert (
        [row["strength"] for row in others] == ["1", "2", "3"]
        and len(parrot.trained) == 1
        and parrot.trained[0].limit == 6
    )
    assert not any((folder / "models").iterdir())  # keep_models: false
    replies = [
        json.loads(line)
        for line in (folder / "generations" / f"{others[1]['key']}.jsonl").read_text().splitlines()
    ]
    assert all(reply["response"] == f"{reply['context'][-1]} 2" for reply in replies)
    assert (
        "| parrot" in (folder / "table.md").read_text() and (folder / "frontier.png").stat().st_size > 10_000
    )

    content = yaml.safe_load(path.read_text())
    content["models"]["ours"]["generation"]["weights"] = [1]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    before, table = (folder / "results.csv").read_text(), (folder / "table.md").read_text()
    assert main([str(path)]) == 0
    assert (
        (folder / "results.csv").read_text() == before
        and len(parrot.trained) == 1
        and len(parrot.written) == 3
    )
    assert (
        not (folder / "failures.csv").exists() and (folder / "table.md").read_text() != table
    )  # the failed cell is not missed any more


def test_a_killed_experiment_goes_on(grid_file, parrot):
    path = grid_file({"parrot": PARROT})
    parrot.trouble = {2.0: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        main([str(path)])
    (first,) = rows_of(path)
    results = path.parent / "experiments" / "grid" / "results.csv"
    with open(results, "a") as file:
        file.write('cut off in the middle,"of a')
    parrot.trouble = {}
    assert main([str(path)]) == 0
    assert [row["strength"] for row in rows_of(path)] == ["1", "2", "3"] and rows_of(path)[0] == first
    assert parrot.written == [1.0, 2.0, 2.0, 3.0]
    path.write_text(path.read_text().replace("kind: parrot", "kind: parrot\n    epochs: [1, 2]"))
    assert (
        main([str(path)]) == 0
    )  # another option is crossed: a new column, and only the new cells are written
    rows = rows_of(path)
    assert [row["training.epochs"] for row in rows] == ["", "", "", "2", "2", "2"] and parrot.trained[
        -1
    ].epochs == 2


def test_a_failure_costs_its_cell_alone(grid_file, parrot):
    path = grid_file(
        {"parrot": PARROT, "again": {"kind": "parrot", "epochs": 2, "generation": {"strength": [1, 2]}}}
    )
    parrot.trouble = {3.0: torch.OutOfMemoryError("no room"), "epochs 2": InputError("cannot be trained")}
    assert main([str(path)]) == 1
    assert [row["strength"] for row in rows_of(path)] == ["1", "2"]
    with open(path.parent / "experiments" / "grid" / "failures.csv", newline="") as file:
        failed = list(csv.DictReader(file))
    assert [row["reason"] for row in failed] == [
        "OutOfMemoryError: no room",
        *["InputError: cannot be trained"] * 2,
    ]
    assert all(row["at"].startswith("test_experiment.py:") for row in failed)
    parrot.trouble = {}
    assert main([str(path)]) == 0 and [row["strength"] for row in rows_of(path)] == ["1", "2", "3", "1", "2"]


def test_seeds_train_apart_and_are_reported_together(grid_file, parrot):
    path = grid_file({"people": {"kind": "human"}, "parrot": {"kind": "parrot"}}, seeds=[0, 5])
    assert main([str(path)]) == 0
    assert [setting.seed for setting in parrot.trained] == [0, 5]
    assert [(row["model"], row["seed"]) for row in rows_of(path)] == [
        ("people", "0"),
        ("parrot", "0"),
        ("parrot", "5"),
    ]
    table = (path.parent / "experiments" / "grid" / "table.md").read_text()
    assert "seeds 0, 5" in table and table.count("| parrot") == 2  # once as the best, once among all


def test_best_of_n_takes_each_reply_s_latent_of_least_energy():
    class Generator:
        def latents(self, requests, control, batch_size):
            number = control.seed // cvae.STRIDE
            energy = torch.tensor([[3.0, 1.0], [2.0, 5.0], [4.0, 0.5]])[number]
            cost = torch.full((2,), 7)
            converged = torch.tensor([number != 1, number != 0])
            return cvae.Sample(
                torch.full((2, 3), float(number)), energy + 1, energy, cost, converged=converged
            )

    system = cvae.Cvae.__new__(cvae.Cvae)
    system.generator = Generator()
    best = system.best([], cvae.ControlArguments(seed=4), 8, 3)
    assert (
        best.z.tolist() == [[1.0] * 3, [2.0] * 3]
        and best.energy.tolist() == [2.0, 0.5]
        and best.energy_start.tolist() == [3.0, 1.5]
    )
    assert (
        best.nfe.tolist() == [21, 21]
        and best.latent_change is None
        and best.converged.tolist() == [False, True]
    )
    assert system.best([], cvae.ControlArguments(seed=4), 8, 1).z.tolist() == [[0.0] * 3] * 2


# --- unseen combinations -----------------------------------------------------------------------------------------------


def test_held_out_combinations_are_measured_apart(grid_file, parrot):
    """A method that sees single aspects alone is trained once and writes once; its replies are divided eight times."""
    path = grid_file(
        {"parrot": {"kind": "parrot", "held_out": "hold-out", "generation": {"strength": [1, 2]}}}
    )
    assert main([str(path)]) == 0
    rows = rows_of(path)
    assert len(rows) == 16 and len(parrot.trained) == 1 and parrot.written == [1.0, 2.0]
    one = [row for row in rows if row["strength"] == "1"]
    assert (
        len({row["training.held_out"] for row in one}) == 8
        and len({row["accuracy_joint"] for row in one}) == 1
    )
    for row in one:
        seen, unseen, both = (float(row[name]) for name in ("seen_joint", "unseen_joint", "accuracy_joint"))
        assert both == pytest.approx((7 * seen + unseen) / 8)
        assert float(row["unseen_drop"]) == pytest.approx(seen - unseen)
        assert float(row["unseen_drop_low"]) <= seen - unseen <= float(row["unseen_drop_high"])
    # over all splits every combination is unseen once and seen seven times, so that nothing is lost
    table = (path.parent / "experiments" / "grid" / "table.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| parrot | strength=1 ")]
    assert line.split("|")[3].strip() == "8" and "+0.000 [+0.000, +0.000]" in line
    assert not (path.parent / "experiments" / "grid" / "frontier.png").exists()
    before = path.with_suffix(".csv")
    assert main([str(path)]) == 0 and not before.exists() and len(parrot.trained) == 1


def test_held_out_combinations_are_kept_from_what_learns_from_them(grid_file, parrot, monkeypatch):
    monkeypatch.setattr(parrot, "sees_combinations", True, raising=False)

    @dataclass(frozen=True)
    class Seeing(TrainingSetting):
        held_out: str = ""

    monkeypatch.setattr(sys.modules["baselines.registry"], "TrainingSetting", Seeing)
    asked = ["plain+optimistic+critical", "lyrical+optimistic+critical,plain+pessimistic+emotional"]
    path = grid_file({"parrot": {"kind": "parrot", "held_out": asked}, "all": {"kind": "parrot"}})
    assert main([str(path)]) == 0
    canonical = ["plain+optimistic+critical", "plain+pessimistic+emotional,lyrical+optimistic+critical"]
    assert [setting.held_out for setting in parrot.trained] == [*canonical, ""]
    assert [row["unseen_joint"] != "" for row in rows_of(path)] == [True, True, False]
    table = (path.parent / "experiments" / "grid" / "table.md").read_text()
    assert "## Unseen combinations" in table and "## The best setting of each model" in table


# --- frontiers -----------------------------------------------------------------------------------------------------------


def test_the_table_begins_with_where_ours_is_ahead(grid_file, parrot):
    pytest.importorskip("pymoo")
    models = {
        "parrot": PARROT,
        "other": {"kind": "parrot", "generation": {"strength": [4, 5], "tail": " and on"}},
    }
    path = grid_file(models, seeds=[0, 1], ours="other")
    assert main([str(path)]) == 0
    folder = path.parent / "experiments" / "grid"
    lines = (folder / "table.md").read_text().splitlines()
    assert (
        lines[2].startswith("- other is ")
        and "every coherence that both reach" in lines[2]
        or "any coherence" in lines[2]
    )
    assert "s per 1,000" in "".join(lines) and "memory MB" in "".join(lines)
    with open(folder / "frontiers.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["model"], second["model"], second["ours"]) == ("other", "parrot", "other")
    assert (second["settings"], second["seeds"]) == ("3", "2")
    assert (
        float(second["hypervolume_low"]) <= float(second["hypervolume"]) <= float(second["hypervolume_high"])
    )
    assert float(second["behind_ours"]) == pytest.approx(
        float(first["hypervolume"]) - float(second["hypervolume"])
    )
    for row in rows_of(path):
        writing = sum(float(row[f"seconds_{part}"] or 0) for part in ("latents", "decoding", "choosing"))
        assert float(row["seconds_per_1000"]) == pytest.approx(1000 * writing / 16, abs=0.01)
        assert float(row["memory_generation"]) >= 0 and float(row["memory_training"]) >= 0


# --- mistakes ------------------------------------------------------------------------------------------------------

OURS = {"kind": "cvae"}


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ({"m": OURS}, {"modles": {}}, "modles: unknown key; known are name"),
        ({"m": OURS}, {"ours": "n"}, "ours: expected one of the models parrot, m, found 'n'"),
        ({"m": OURS}, {"mauve": True}, "mauve: stands on the model of perplexity, and there is none"),
        (
            {"m": OURS | {"held_out": "half"}},
            {},
            "models.m.held_out: unknown aspect 'half'",
        ),
        (
            {"m": {"kind": "human", "held_out": "acd"}},
            {},
            "models.m.held_out: its replies name one attribute each, so there is no combination",
        ),
        ({"m": OURS}, {"seeds": 3}, "seeds: expected a list of different whole numbers, found 3"),
        (
            {"m": OURS},
            {"contexts": "train:5"},
            "contexts: expected dev:N, test or test-dialogues:N, found 'train:5'",
        ),
        (
            {"m": OURS},
            {"evaluators": "nowhere"},
            "evaluators: expected a run's folder with trained evaluators, found no classifier/languagestyle in nowhere",
        ),
        ({"m": {}}, {}, "models.m: expected options with a 'kind', found {}"),
        (
            {"m": {"kind": "miracle"}},
            {},
            "models.m.kind: expected one of cvae, self_trained, guided_cvae, human, parrot, found 'miracle'",
        ),
        ({"m": OURS | {"latentsize": 8}}, {}, "models.m.latentsize: no such option of cvae"),
        ({"m": OURS | {"latent_size": "big"}}, {}, "models.m.latent_size: invalid int value: 'big'"),
        ({"m": OURS | {"prior": "none"}}, {}, "models.m.prior: invalid choice: 'none'"),
        ({"m": OURS | {"seed": 3, "warmup_steps": 0}}, {}, "models.m.seed: no such option of cvae"),
        ({"m": OURS | {"latent_size": []}}, {}, "models.m.latent_size: an empty list has no value to try"),
        (
            {"m": OURS},
            {"nli": {"pair_round": 2}, "evaluators": None},
            "nli.pair_round: no such option of nli",
        ),
        (
            {"m": OURS},
            {"nli": {"pair_rounds": 2}},
            "nli: nothing of the kind is trained here, because of 'evaluators'",
        ),
        (
            {"m": OURS},
            {"second_classifier": {"seed": 2}},
            "second_classifier: nothing of the kind is trained here, without 'second_encoder'",
        ),
        (
            {"m": OURS | {"generation": {"best_of": 4, "start": "mean"}}},
            {},
            "models.m.generation.best_of: 4 latents that start from the prior's mean are the same; start: sample",
        ),
        ({"m": OURS}, {"generation": {"name": "x"}}, "generation.name: no such option"),
        (
            {"m": OURS | {"generation": {"geometry": ["standard", "round"]}}},
            {},
            "models.m.generation.geometry: expected one of standard, whitened, normal, found 'round'",
        ),
        (
            {"m": OURS | {"generation": {"weights": "strong"}}},
            {},
            "models.m.generation.weights: must be a number or attribute=number,..., found 'strong'",
        ),
        (
            {"m": OURS | {"generation": {"weights": {"style": 1}}}},
            {},
            "models.m.generation.weights: weights of ['style']; the schema has",
        ),
        (
            {"m": OURS | {"generation": {"steps": 1.5}}},
            {},
            "models.m.generation.steps: expected int, found 1.5",
        ),
        ({"m": OURS | {"generation": {"steps": 0}}}, {}, "models.m.generation: steps must be at least 1"),
        (
            {"m": OURS | {"generation": {"tolerance": 1.5}}},
            {},
            "models.m.generation: tolerance must lie between 0 and 1, got 1.5",
        ),
        (
            {"m": {"kind": "parrot", "generation": {"weights": 1}}},
            {},
            "models.m.generation.weights: no such option of parrot; there are batch_size",
        ),
        (
            {"m": OURS | {"token_dropout": 2}},
            {},
            "models.m.token_dropout: expected a number of 0 or more and less than 1, found 2.0",
        ),
        (
            {"m": {"kind": "parrot", "generation": {"tail": 1}}},
            {},
            "models.m.generation.tail: expected str, found 1",
        ),
        ({"m": {"kind": "parrot", "epochs": "many"}}, {}, "models.m.epochs: expected int, found 'many'"),
        ({"m": {"kind": "human", "epochs": 1}}, {}, "models.m.epochs: human replies have no options"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(models, changes, message, grid_file, tmp_path):
    path = grid_file({"parrot": PARROT} | models, **changes)
    with pytest.raises(InputError) as error:
        main([str(path)])
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)
    assert not (tmp_path / "experiments").exists() and not Parrot.trained


def test_a_base_that_is_not_there_is_found_first(grid_file, tmp_path):
    from model.bases import BaseNotFound

    with pytest.raises(BaseNotFound, match="'nobody/nothing' not found"):
        main([str(grid_file({"parrot": PARROT}, second_encoder="nobody/nothing"))])
    assert not (tmp_path / "experiments").exists()


def test_lists_are_crossed():
    found = crossed({"a": [1, 2], "b": 3, "c": ["x", "y"]})
    assert [one for _, one in found] == [
        {"a": 1, "c": "x"},
        {"a": 1, "c": "y"},
        {"a": 2, "c": "x"},
        {"a": 2, "c": "y"},
    ]
    assert all(options["b"] == 3 for options, _ in found)


# --- contexts ------------------------------------------------------------------------------------------------------


def test_dev_contexts_come_from_dev_alone(tmp_path, write_rows):
    """Five contexts of two attributes: three of the first, two of the second, none twice; the test files need not exist."""

    def dialogues(name, first, tags):
        return write_rows(
            *({"input": [f"question {first + i}?"], "output": ["yes"], "tag": tags[i % 2]} for i in range(8)),
            name=name,
        )

    attributes = (
        Attribute(
            "style",
            ("plain", "lyrical"),
            dev_dialogues=dialogues("a.jsonl", 0, ("plain", "lyrical")),
            test_dialogues=tmp_path / "no.jsonl",
        ),
        Attribute(
            "mood",
            ("calm", "angry"),
            dev_dialogues=dialogues("b.jsonl", 4, ("calm", "angry")),
            test_dialogues=tmp_path / "no.jsonl",
        ),
    )
    schema = Schema(attributes, test=tmp_path / "no.jsonl", path=Path("s.py"))
    file = write_rows("models: {m: {kind: cvae}}", name="g.yaml")
    requests = requests_of(read_grid(file, contexts="dev:5"), schema)
    contexts = list(dict.fromkeys((r.id, r.context[0]) for r in requests))
    assert contexts == [
        ("style-0", "question 0?"),
        ("style-2", "question 2?"),
        ("style-5", "question 5?"),
        ("mood-0", "question 4?"),
        ("mood-4", "question 8?"),
    ]
    assert len(requests) == 5 * 4 and len({tuple(r.target.items()) for r in requests}) == 4
    people = labelled(read_grid(file, contexts="dev:5"), schema)
    assert len(people) == 16 and people[8].target == {"mood": "calm"} and people[8].id == "mood-0"
    for contexts in ("test", "test-dialogues:4"):
        with pytest.raises(InputError, match="no.jsonl"):
            requests_of(read_grid(file, contexts=contexts), schema)


def test_the_bundled_dev_contexts_are_none_of_the_test_contexts(write_rows):
    schema = load_schema(ROOT / "schema.py")
    file = write_rows("models: {m: {kind: cvae}}", name="g.yaml")
    dev, test, more = (
        {r.context for r in requests_of(read_grid(file, contexts=c), schema)}
        for c in ("dev:30", "test", "test-dialogues:9")
    )
    assert len(dev) == 30 and len(test) == 16 and len(more) == 9 and not dev & (test | more)


# --- numbers -------------------------------------------------------------------------------------------------------

TWO = Schema((Attribute("style", ("plain", "lyrical")), Attribute("mood", ("calm", "angry"))))


def scored(context, response, target, predicted, second=None):
    """A scored row; `predicted` are the aspects by the evaluators, `second` by the second set."""
    chances = {a.name: dict.fromkeys(a.aspects, 0.5) for a in TWO.attributes}
    row = {
        "context": [context],
        "response": response,
        "target": target,
        "reference": None,
        "nats": None,
        "tokens": None,
        "nli": 0.5,
    }
    row |= {"predicted": dict(zip(TWO.names, predicted)), "probabilities": chances}
    return row if second is None else row | {"second_predicted": dict(zip(TWO.names, second))}


def test_measures_of_hand_made_replies():
    target = {"style": "plain", "mood": "calm"}
    rows = [
        scored(
            "a", "we go up and we go up and on", target, ("plain", "calm"), ("plain", "calm")
        ),  # "we go up and" stands twice
        scored(
            "b", "one two three one two three", target, ("plain", "calm"), ("plain", "angry")
        ),  # no 4-gram twice
        scored("c", "go home", target, ("plain", "angry"), ("plain", "calm")),
        scored("d", "", target, ("lyrical", "angry"), ("lyrical", "calm")),
    ]
    found = measured(rows, TWO, contexts=4)
    assert found["repetition"] == 0.25 and found["empty"] == 0.25 and found["length"] == (9 + 6 + 2) / 4
    assert (
        found["accuracy_mean"],
        found["accuracy_joint"],
        found["style.accuracy"],
        found["mood.accuracy"],
    ) == (0.625, 0.5, 0.75, 0.5)
    assert (found["second_accuracy_mean"], found["second_accuracy_joint"], found["both_joint"]) == (
        0.75,
        0.5,
        0.25,
    )
    assert 0 <= found["both_joint_low"] <= 0.25 <= found["both_joint_high"] <= 1
    assert found["distinct2"] == (5 + 3 + 1) / (8 + 5 + 1)


def test_distinct_2_is_a_mean_over_targets_of_equally_many_replies():
    rows = [scored(str(i), "a b", {"style": "plain"}, ("plain", "calm")) for i in range(6)]
    rows += [scored(str(i), f"{i} {i}", {"mood": "calm"}, ("plain", "calm")) for i in range(2)]
    found = measured(rows, TWO, contexts=2)
    assert found["distinct2"] == (0.5 + 1.0) / 2
    assert (
        found["accuracy_joint"] is None
        and found["accuracy_joint_low"] is None
        and found["accuracy_mean"] == 1.0
    )


def summary(model, joint, coherence, kind="cvae", **options):
    values = {"accuracy_joint": joint, "accuracy_mean": joint, "nli": coherence}
    dial = options.get("weights")
    return Summary(
        model,
        kind,
        {name: str(value) for name, value in options.items()},
        options,
        dial,
        1,
        values,
        {},
        False,
    )


def test_the_table_s_rule():
    """Coherence may fall by 0.05 from the best uncontrolled setting, here 0.60, and no further."""
    free = [summary("free", 0.1, 0.60, algorithm="none"), summary("plain", 0.2, 0.40, kind="uncontrolled")]
    ours = [
        summary("ours", 0.3, 0.58, weights=1.0),
        summary("ours", 0.5, 0.551, weights=10.0),
        summary("ours", 0.9, 0.54, weights=100.0),
    ]
    other = [summary("other", 0.4, 0.1, kind="parrot"), summary("other", 0.6, 0.0, kind="parrot")]
    best = best_of_models([*free, *ours, *other])
    assert (
        best["ours"] == (ours[1], True)
        and best["other"] == (other[1], False)
        and best["free"] == (free[0], True)
    )
    assert best["plain"] == (free[1], False)
    assert best_of_models(ours)["ours"] == (
        ours[2],
        False,
    )  # nothing is uncontrolled, so joint accuracy decides


def test_the_picture_has_a_line_per_model_over_its_strength():
    from matplotlib.figure import Figure

    known = [summary("ours", 0.2 + 0.2 * i, 0.6 - 0.1 * i, weights=10.0**i) for i in (2, 0, 1)] + [
        summary("ours", 0.1, 0.2, weights=1.0, start="mean")
    ]
    known += [summary("free", 0.1, 0.6, algorithm="none"), summary("people", None, 0.9, kind="human")]
    axes = Figure().subplots()
    draw(axes, known, 0.125, "title")
    pale, first = axes.lines[:2]
    assert list(pale.get_xdata()) == [0.2] and pale.get_alpha() < 1
    assert np.allclose(first.get_xdata(), [0.6, 0.5, 0.4]) and np.allclose(first.get_ydata(), [0.2, 0.4, 0.6])
    texts = {text.get_text() for text in axes.texts}
    assert {"ours 100", "1", "10", "free", "human replies: 0.90 \u2192", "chance"} <= texts
    left, right = axes.get_xlim()
    assert left < 0.2 and 0.6 < right < 0.9 and axes.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("key;nli\nk;0.5\n", "r.csv: expected a column 'key', found 'key;nli'"),
        ("key,nli\nk,0.5\nl,0.5,7\n", "r.csv:3: expected 2 values, found 3"),
        ("key,nli\nk\nl,0.5\n", "r.csv:2: expected 2 values, found 1"),
    ],
)
def test_a_table_that_was_saved_by_another_program_is_left_as_it_is(content, said, tmp_path):
    """What no longer has its columns was filled up with empty ones, and all was measured again."""
    path = tmp_path / "r.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        RowsFile(path, ["key", "nli"])
    assert path.read_text() == content


def test_rows_keep_commas_quotes_and_order(tmp_path):
    path = tmp_path / "r.csv"
    RowsFile(path, ["a", "b"]).append({"a": 'x, "y"', "b": None})
    again = RowsFile(path, ["b", "c"])
    again.append({"c": 0.1 + 0.2})
    assert RowsFile(path, []).rows == [
        {"a": 'x, "y"', "b": "", "c": ""},
        {"a": "", "b": "", "c": "0.30000000000000004"},
    ]


# --- a decoder as an evaluator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_a_gpt2_base_classifies_at_its_last_token(pad, decoder_tokenizer, tmp_path):
    """Its score does not depend on padding, and every word counts; with the end-of-sequence token as padding too."""
    tokenizer = type(decoder_tokenizer)(
        tokenizer_object=decoder_tokenizer.backend_tokenizer,
        eos_token="<eos>",
        bos_token="<eos>",
        pad_token=pad,
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model, tokenizer = new_classifier(
        str(tmp_path / "base"), ScratchSize(1, 8, 1, 10), list, ["plain", "lyrical"]
    )
    model.save_pretrained(tmp_path / "evaluator")
    tokenizer.save_pretrained(tmp_path / "evaluator")
    evaluator = Evaluator.load(tmp_path / "evaluator", "style", torch.device("cpu"), {}, ["plain", "lyrical"])
    texts = ["Keep the dough warm and wait another hour.", "It burns.", "", "It burned."]
    rows = encode_texts(evaluator.tokenizer, texts, 10)
    assert (
        [row["input_ids"][-1] for row in rows] == [0] * 4
        and len(rows[0]["input_ids"]) == 10
        and "token_type_ids" not in rows[0]
    )
    together = evaluator.score_texts(texts)
    alone = np.concatenate([evaluator.score_texts([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-6) and len({round(p, 6) for p in together[:, 0]}) == 4


def test_a_second_set_of_evaluators(grid_file, tmp_path, decoder_tokenizer):
    """A GPT-2 base gives a second set of attribute classifiers, whose columns stand beside the first's."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(decoder_tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=160,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "second")
    decoder_tokenizer.save_pretrained(tmp_path / "second")
    path = grid_file(
        {"parrot": {"kind": "parrot"}},
        second_encoder=str(tmp_path / "second"),
        second_classifier={"num_train_epochs": 1, "seed": 3, "warmup_steps": 0},
    )
    assert main([str(path)]) == 0
    (row,) = rows_of(path)
    assert (
        0
        <= float(row["both_joint"])
        <= min(float(row["accuracy_joint"]), float(row["second_accuracy_joint"]))
        <= 1
    )
    hashes = json.loads(row["evaluators"])
    assert len(set(hashes.values())) == 7 and "second attitude" in hashes
    assert "joint, both sets" in (tmp_path / "experiments" / "grid" / "table.md").read_text()
    shutil.rmtree(tmp_path / "experiments" / "grid" / "second_evaluators")
    assert main([str(path)]) == 0  # nothing is missing, so nothing needs to be scored


@pytest.mark.slow
def test_classifiers_of_several_attributes_are_trained_apart(grid_file, capsys):
    """By the processes of an experiment, which took them one behind the other; together they are what one training makes."""
    path = grid_file(
        {"people": {"kind": "human"}},
        evaluators=None,
        classifier={"num_train_epochs": 1, "min_steps": 0},
    )
    work = plan(read_grid(path), load_schema())
    classifiers, nli = evaluators_module.trainings(work.grid, work.common)
    assert nli.parts(work.schema.names) == [nli]
    apart = classifiers.parts(work.schema.names)
    assert len(apart) == 3
    apart[1].run()
    folder = work.grid.folder / "evaluators" / "classifier"
    assert [place.name for place in folder.iterdir() if place.is_dir()] == ["attitude"]
    apart[0].run(), apart[2].run()
    capsys.readouterr()
    classifiers.run()
    assert capsys.readouterr().out.count("already trained") == 3


def test_evaluators_that_version_0_1_trained_are_taken(grid_file, tmp_path):
    """It called their folders ``judges`` and ``second_judges``."""
    grid = read_grid(grid_file({"people": {"kind": "human"}}))
    assert evaluators_module.folder_name(grid, "second_evaluators") == "second_evaluators"
    (grid.folder / "judges").mkdir(parents=True)
    assert evaluators_module.folder_name(grid, "evaluators") == "judges"
    (grid.folder / "second_judges").mkdir()
    assert evaluators_module.folder_name(grid, "second_evaluators") == "second_judges"


# --- several processes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_measure_what_one_does(grid_file, tmp_path, monkeypatch):
    """Processes of their own, so with the baselines that there really are."""
    for name in ("baselines", "baselines.registry"):
        monkeypatch.delitem(sys.modules, name)
    short = {"max_new_tokens": 4, "weights": [1, 2]}
    models = {
        "people": {"kind": "human"},
        "ours": {"kind": "cvae", "generation": short},
        "z alone": {"kind": "cvae", "use_context": False, "generation": short},
    }
    models["uncontrolled"] = {"kind": "uncontrolled", "generation": {"max_new_tokens": 4}}
    path = grid_file(models, generation={"start": "mean", "candidates": 1}, baseline={"epochs": 1})
    with pytest.raises(InputError, match="--workers: expected a number of processes, found 0"):
        main([str(path), "--workers", "0"])
    assert main([str(path), "--workers", "2"]) == 0
    several = rows_of(path)
    folder = path.parent / "experiments" / "grid"
    assert len(several) == 6 and {log.name for log in (folder / "workers").iterdir()} == {"0.log", "1.log"}
    assert "steps" in "".join(log.read_text() for log in (folder / "workers").iterdir())
    assert main([str(path), "--run", "again"]) == 0
    with open(tmp_path / "experiments" / "again" / "results.csv", newline="") as file:
        one = {row["key"]: row for row in csv.DictReader(file)}
    for row in several:
        assert {name: row[name] for name in ("model", "seed", "training", "generation", "replies_n")} == {
            name: one[row["key"]][name] for name in ("model", "seed", "training", "generation", "replies_n")
        }


def test_units_keep_together_what_shares_its_training(grid_file):
    path = grid_file(
        {
            "parrot": PARROT,
            "ours": {"kind": "cvae", "latent_size": [8, 16]},
            "again": PARROT,
            "people": {"kind": "human"},
        },
        seeds=[0, 1],
    )
    content = yaml.safe_load(path.read_text())
    work = plan(read_grid(path), load_schema(Path(content["schema"])))
    found = [{(cell.model.label, cell.model.seed) for cell in unit} for unit in units(work.cells)]
    assert found.count({("parrot", 0), ("again", 0)}) == 1 and found.count({("parrot", 1), ("again", 1)}) == 1
    assert [len(unit) for unit in found if ("ours", 0) in unit] == [1, 1] and {("people", 0)} in found
    assert sum(map(len, units(work.cells))) == len(work.cells)


def test_one_aspect_at_a_time(write_rows):
    schema = load_schema(ROOT / "schema.py")
    file = write_rows("models: {m: {kind: cvae}}", name="g.yaml")
    requests = requests_of(read_grid(file, contexts="dev:6", targets="single"), schema)
    assert len(requests) == 12 and all(len(request.target) == 1 for request in requests)
    assert all(
        request.id.startswith(next(iter(request.target))) for request in requests
    )  # asked for what its dialogue is labelled for
    everything = requests_of(read_grid(file, contexts="test", targets="single"), schema)
    assert len(everything) == 16 * 6
    with pytest.raises(InputError, match="targets: expected all or single, found 'some'"):
        read_grid(file, targets="some")
