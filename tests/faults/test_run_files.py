"""Files of a run or of a release that are damaged or gone: one line that names the file, whoever reads it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from common.errors import InputError
from common.jsonl import read_json, write_json, write_jsonl
from common.records import MARKS
from common.schema import load_schema
from dataset.encoding import DialogueTemplate
from experiments.cvae import Cvae
from experiments.rows import read_rows
from generation.loading import load_cvae
from generation.sharing import has_evaluators, save_run
from miracle import Miracle
from scoring.compare import compare
from scoring.evaluators import Evaluator
from scoring.report.card import model_card
from scoring.report.run_report import write_run_report
from scoring.score import baseline_of, score_file
from scoring.stale import stale_parts

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "release" / "chat"
SCHEMA = load_schema(str(ROOT / "schema.py"))
REPLY = {
    "id": "0", "context": ["How are you?"], "target": {"attitude": "optimistic"}, "response": "Well, as rain on a hill.", "reference": None,
    "predicted": {"attitude": "optimistic"}, "probabilities": {"attitude": {"optimistic": 0.9, "pessimistic": 0.1}}, "nli": 0.5, "seed": 0,
}  # fmt: skip


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def written(content: bytes):
    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


DAMAGE = {
    "link to nothing": a_link_to_nothing,
    "link to itself": a_link_to_itself,
    "folder": a_folder,
    "empty": written(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "no object": written(b"[1]"),
    "nothing in it": written(b"{}"),
    "overall null": written(b'{"overall": null}'),
    "overall a list": written(b'{"overall": [0.5]}'),
    "share over 1": written(b'{"overall": {"attributes": {"attitude": {"accuracy": 7}}}}'),
}


@pytest.fixture
def run(tmp_path):
    """A run with the released model's records and a reply, without weights."""
    folder = tmp_path / "r"
    (folder / "cvae").mkdir(parents=True)
    (folder / "results").mkdir()
    for name in ("results.json", "cvae/config.json", "cvae/stage.json"):
        shutil.copyfile(RELEASE / name, folder / name)
    shutil.copyfile(RELEASE / "results.json", folder / "results" / "none.json")
    write_jsonl(folder / "generations.jsonl", [REPLY])
    return folder


READERS = {
    "report": lambda run: write_run_report(run),
    "comparison": lambda run: compare([run, shutil.copytree(run, run.with_name("s"), symlinks=True)], SCHEMA),
    "card": lambda run: model_card(run, "r"),
    "share": lambda run: save_run(run, run.with_name("shared")),
    "stale": lambda run: stale_parts(run, {}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_damaged_results_are_one_line(reader, damage, run):
    damage(run / "results.json")
    with pytest.raises(InputError) as caught:
        reader(run)
    assert str(caught.value).startswith(f"{run / 'results.json'}: ") and "\n" not in str(caught.value)
    assert not (run / "report.html").exists() and not run.with_name("shared").exists()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_results_without_control_are_one_line(damage, run):
    damage(run / "results" / "none.json")
    with pytest.raises(InputError, match="results/none.json: "):
        baseline_of(run, "control", score_file(run / "generations.jsonl", SCHEMA), None, {})


def test_a_run_does_not_forget_its_settings(run, monkeypatch):
    """Results that were a link to nothing counted as none, and replies came with other settings."""
    monkeypatch.setattr("miracle.ReplyGenerator", lambda *_: pytest.fail("weights are read for nothing"))
    a_link_to_nothing(run / "results.json")
    with pytest.raises(InputError, match="results.json: expected a file, found a link to nothing"):
        Miracle.from_run(run, "cpu")


@pytest.mark.parametrize("damage", [a_link_to_nothing, a_folder])
def test_replies_that_are_no_file_are_not_left_out(damage, run):
    damage(run / "generations.jsonl")
    for reader in (READERS["report"], READERS["comparison"]):
        with pytest.raises(InputError, match="generations.jsonl: expected a file, found "):
            reader(run)


def test_a_table_of_rows_that_is_a_link_to_nothing_is_not_begun_anew(tmp_path):
    (tmp_path / "results.csv").symlink_to("nowhere")
    with pytest.raises(InputError, match="results.csv: expected a file, found a link to nothing"):
        read_rows(tmp_path / "results.csv")


def test_numbers_that_are_unknown_are_left_out_of_the_card(run):
    results = read_json(run / "results.json")
    results["overall"]["ci95"]["accuracy_mean"] = [None, 0.5]
    del results["overall"]["nli"]
    write_json(run / "results.json", results)
    assert "accuracy_mean" in str(model_card(run, "r"))


def test_a_report_shows_what_a_target_lacks(run):
    results = read_json(run / "results.json")
    del next(iter(results["by_target"].values()))["attributes"]
    write_json(run / "results.json", results)
    results = read_json(run / "results.json")
    results["evaluators"]["nli"]["audit"]["cut"] = None
    write_json(run / "results.json", results)
    stage = read_json(run / "cvae" / "stage.json")
    stage["metrics"]["history"] = [{"step": 1, "loss": 10**400}, {"step": 2, "loss": 1.5}]
    write_json(run / "cvae" / "stage.json", stage)
    assert write_run_report(run).is_file()


@pytest.mark.parametrize(
    ("name", "value"), [("weights", 1e20), ("solver", "x"), ("candidates", -1), ("guidance", 1e31), ("seed", -(2**70))]
)  # fmt: skip
def test_a_setting_that_a_record_cannot_have_is_named_with_its_file(name, value, run):
    results = read_json(run / "results.json")
    results["run"]["config"]["generation"][name] = value
    write_json(run / "results.json", results)
    with pytest.raises(InputError, match=f"results.json: run.config.generation.*{name}"):
        Miracle.from_run(run, "cpu")


CVAE_DAMAGE = {
    "no attributes": ({"attributes": None}, "no 'attributes' in it"),
    "attributes as a text": ({"attributes": "abc"}, "'attributes': expected attributes with their aspects"),
    "an attribute without aspects": ({"attributes": [["a", []]]}, "'attributes': expected attributes"),
    "no bases": ({"bases": {}}, "expected 'bases' with 'encoder' and 'decoder'"),
    "a base without a hash": ({"bases": {"encoder": {"name": "a"}}}, "'bases.encoder' has no 'hash'"),
    "a length as a text": ({"decoder_length": "x"}, "'decoder_length': expected a number"),
    "no length": ({"decoder_length": 0}, "'decoder_length': expected a number from 1"),
    "a mark that there is not": (
        {"template": {"begin": "<s>"}},
        "'template': expected of the marks user_prefix, ",
    ),
    "a mark that is a number": ({"template": {"start": 3}}, "'template.start': expected a text"),
}


@pytest.mark.parametrize(("change", "said"), CVAE_DAMAGE.values(), ids=CVAE_DAMAGE.keys())
def test_a_cvae_s_configuration_is_looked_at_before_its_bases_are_loaded(change, said, run):
    path = run / "cvae" / "config.json"
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(InputError) as caught:
        load_cvae(run / "cvae")
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


def test_the_marks_of_a_configuration_are_those_of_a_template():
    assert set(MARKS) == {field.name for field in dataclasses.fields(DialogueTemplate)}


def test_cut_weights_are_found_before_bases_are_loaded(run, monkeypatch):
    monkeypatch.setattr("model.cvae.load_recorded", lambda *_: pytest.fail("bases are loaded for nothing"))
    (run / "cvae" / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="the CVAE cannot be loaded .model.safetensors: "):
        load_cvae(run / "cvae")


@pytest.mark.parametrize(
    ("weights", "said"), [(None, "no weights, "), (b"", "model.safetensors: "), (b"\x00" * 99, "model.safetensors: ")]
)  # fmt: skip
def test_what_nobody_could_load_is_not_shared(weights, said, run):
    (run / "results.json").unlink()
    if weights is not None:
        (run / "cvae" / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=f"cvae cannot be shared: {said}"):
        save_run(run, run.with_name("shared"))
    assert not run.with_name("shared").exists()


def test_a_record_that_lacks_what_an_experiment_needs_is_named(run):
    stage = read_json(run / "cvae" / "stage.json")
    del stage["seconds"], stage["metrics"]["head_accuracy"]
    write_json(run / "cvae" / "stage.json", stage)
    with pytest.raises(InputError, match="stage.json: expected seconds, head_accuracy of the training"):
        Cvae(run / "cvae", SCHEMA, None, 0)


@pytest.fixture
def adapters(tmp_path):
    """The released coherence model's folder."""
    return shutil.copytree(RELEASE / "nli", tmp_path / "r" / "nli")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters_that_are_gone_are_not_asked_for_on_the_hub(name, adapters):
    (adapters / name).unlink()
    with pytest.raises(InputError, match=f"the evaluator cannot be loaded .{name}: not there.; train it"):
        Evaluator.load(adapters, "nli", None, {}, [])


def test_an_evaluator_without_its_configuration_is_not_left_out(adapters):
    for name in ("attitude", "mood"):
        shutil.copytree(adapters, adapters.parent / "classifier" / name)
    run = adapters.parent
    assert has_evaluators(run, ["attitude", "mood"])
    (run / "classifier" / "mood" / "config.json").unlink()
    with pytest.raises(InputError, match="mood: expected config.json beside adapter_model.safetensors"):
        has_evaluators(run, ["attitude", "mood"])
    shutil.rmtree(run / "classifier" / "mood")
    assert not has_evaluators(run, ["attitude", "mood"])
