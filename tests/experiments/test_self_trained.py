"""The kind ``self_trained``, and the grids of control: they plan, and a tiny one is measured."""

import json
from pathlib import Path

import pytest
from test_experiment import evaluators, grid_file, rows_of  # noqa: F401  (fixtures)

from baselines.registry import METHODS
from common.errors import InputError
from common.schema import load_schema
from experiments.__main__ import main
from experiments.grid import read_grid
from experiments.plan import plan
from experiments.runner import units
from experiments.self_trained import divided, teacher_of
from experiments.summary import summaries

ROOT = Path(__file__).resolve().parents[2]
GRIDS = ROOT / "experiments"


TOGETHER = {
    "share of real": 2,
    "threshold": 2,
    "best share": 2,
    "a quarter of more contexts": 3,
}  # things changed


def planned(name):
    """A grid of the repository with the bundled bases, whose evaluators are the released ones'."""
    changes: dict = {"base": "bundled"}
    text = (GRIDS / f"{name}.yaml").read_text()
    if "\nevaluators:" in text:
        changes["evaluators"] = str(ROOT / "release" / "chat")
    if "\nsecond_encoder:" in text:
        changes["second_encoder"] = str(ROOT / "dataset" / "base" / "decoder")
    return plan(read_grid(GRIDS / f"{name}.yaml", **changes), load_schema())


@pytest.mark.parametrize("name", ["control", "control_three_sources"])
def test_the_grids_of_control_have_every_method_with_three_seeds(name):
    work = planned(name)
    used = {cell.model.kind for cell in work.cells}
    assert used == {"human", "cvae", "self_trained", *METHODS}
    assert all({c.model.seed for c in work.cells if c.model.kind == kind} == {0, 1, 2} for kind in used - {"human"})  # fmt: skip
    labels = {cell.model.label: cell.options for cell in work.cells}
    assert labels["self-trained, one candidate"]["candidates"] == labels["miracle, one candidate"]["candidates"] == 1  # fmt: skip
    assert labels["self-trained"]["candidates"] == labels["miracle"]["candidates"] == 16
    assert {c.options["examples"] for c in work.cells if c.model.kind == "prompted"} == {0, 2}
    of_ours = {c.model.label: c.model.name for c in work.cells if c.model.seed == 0}
    assert of_ours["miracle"] == of_ours["miracle, one candidate"] == of_ours["no control"]  # one training
    assert of_ours["self-trained"] == of_ours["self-trained, one candidate"] != of_ours["miracle"]
    rates = {c.model.options["learning_rate"] for c in work.cells if c.model.kind in METHODS}
    assert rates == {1e-4}  # of all weights, not the preset's for adapters


def test_the_grid_of_dev_changes_one_thing_at_a_time_and_reads_no_test_file():
    work = planned("control_dev")
    assert work.grid.contexts.startswith("dev:") and work.grid.seeds == (0,)
    ours = [cell.model for cell in work.cells if cell.model.kind == "self_trained"]
    trained = {model.name: model for model in reversed(ours)}  # one that stands under two names by its first
    base = next(m for m in trained.values() if m.label == "self-trained")
    for model in trained.values():
        changed = [
            f"{part}.{name}"
            for part in ("self_training",)
            for name, value in model.options[part].items()
            if value != base.options[part][name]
        ]
        assert len(changed) <= TOGETHER.get(model.label, 1), model.label
    teachers = {model.options["teacher"] for model in trained.values()}
    assert len(teachers) == 2  # one more for another prior in training
    assert len(units(work.cells)) == len({cell.model.name for cell in work.cells})  # any worker takes any


def test_seeds_of_a_self_training_are_one_setting_of_several_models():
    """Its options once named the seed's teacher, so that every seed stood in the table as a setting of its own."""
    work = planned("control")
    rows = [{"key": cell.key} for cell in work.cells]
    ours = [one for one in summaries(work, rows) if one.kind == "self_trained"]
    assert ours and {one.seeds for one in ours} == {3}
    models = {cell.model.name: cell.model for cell in work.cells if cell.model.kind == "self_trained"}
    of_seeds = {}
    for model in models.values():
        of_seeds.setdefault(model.seed, set()).add(teacher_of(model))
    assert [len(teachers) for teachers in of_seeds.values()] == [1, 1, 1]
    assert len(set.union(*of_seeds.values())) == 3


def test_cells_of_earlier_grids_keep_their_keys():
    """Neither a CVAE's training options nor a baseline's name what came with self-training and the later baselines."""
    work = planned("control")
    for cell in work.cells:
        if cell.model.kind in ("cvae", "control_codes", "fudge"):
            new = {"further", "real_share", "prior_combination", "held_out", "contrast_contexts", "lora_rank", "adapter_learning_rate"}  # fmt: skip
            named = set(cell.model.options) & (new - ({"lora_rank"} if cell.model.kind == "cvae" else set()))
            assert not named, (cell.model.label, named)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": "outs/x"}, "teacher: the experiment says this of a self-training"),
        ({"writing": 3}, "writing: expected generation options, found 3"),
        ({"threshold": "high"}, "threshold: expected float, found 'high'"),
        ({"rounds": 0}, "rounds: expected a number of at least 1, found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        divided(options)


def test_a_grid_s_mistake_names_the_model(grid_file):  # noqa: F811
    path = grid_file({"mine": {"kind": "self_trained", "writing": {"weight": 3}}})
    with pytest.raises(
        InputError, match=r"grid.yaml: models.mine: writing.weight: no such option; there are "
    ):
        main([str(path), "--dry-run"])


@pytest.mark.slow
def test_a_self_trained_cvae_is_measured_and_what_models_share_goes_last(grid_file, tmp_path):  # noqa: F811
    """Two that differ in what they accept share teacher and replies; each row says what its training was made of."""
    cell = {"weights": 1, "candidates": 1, "max_new_tokens": 8}
    ours = {"kind": "self_trained", "contexts": 2, "best_share": [0.5, 1], "copies": 99, "held_out": "lyrical+optimistic+critical",
            "writing": {"candidates": 2, "max_new_tokens": 8}, "generation": cell}  # fmt: skip
    path = grid_file({"ours": ours}, keep_models=False)
    assert main([str(path)]) == 0
    rows = rows_of(path)
    assert [row["training.best_share"] for row in rows] == ["0.5", "1"]
    for row in rows:
        record = json.loads(row["self_training"])
        last = record["rounds"][-1]
        assert last["written"] == 14 and "lyrical+optimistic+critical" not in last["by_target"]
        assert float(row["self_accepted"]) == last["accepted"] / 14
        assert float(row["seconds_training"]) >= last["seconds"]
        assert 0 <= float(row["reused_real"]) <= 1 and 0 <= float(row["reused_written"]) <= 1
        assert record["options"]["teacher"].startswith("teacher-")
    assert not [p for p in (tmp_path / "experiments" / "grid" / "models").iterdir() if p.is_dir()]
