"""A run that is shared: its folder, its card, the hub (which is played by a folder), and what a stranger loads."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import filter_repo_objects

from common.errors import InputError
from common.schema import load_schema
from generation import sharing as share
from miracle import Miracle
from scoring.stale import stale_parts, stamp_of
from scoring.systems import evaluator_folders
from scripts.share import main

QUESTION = "My bread did not rise. What shall I do?"


@pytest.fixture(scope="module")
def shared(tiny_run, tmp_path_factory):
    return Miracle.from_run(tiny_run, "cpu").save_pretrained(
        tmp_path_factory.mktemp("shared") / "mine", license="mit"
    )


@pytest.fixture(scope="module")
def results(tiny_run):
    return json.loads((tiny_run / "results.json").read_text())


def reply_of(model):
    return model.reply(QUESTION, "optimistic,lyrical", max_new_tokens=8)[0]


def same(one, other):
    return (one.text, one.probabilities, one.coherence, one.weights) == (
        other.text,
        other.probabilities,
        other.coherence,
        other.weights,
    )


def test_a_saved_run_replies_as_the_run_does(tiny_run, shared, tmp_path):
    expected = reply_of(Miracle.from_run(tiny_run, "cpu"))
    assert expected.probabilities
    again = Miracle.from_pretrained(shared, "cpu")
    assert same(reply_of(again), expected)
    assert same(
        reply_of(Miracle.from_run(again.save_pretrained(tmp_path / "twice"), "cpu")), expected
    )  # a shared run can be shared


def test_only_what_a_reply_needs_is_shared_and_no_path_of_this_machine(shared):
    assert {path.name for path in shared.iterdir()} == {
        "README.md",
        "cvae",
        "classifier",
        "nli",
        "results.json",
    }
    texts = [path for path in shared.rglob("*") if path.suffix in (".md", ".json", ".jinja", ".txt")]
    assert len(texts) > 10
    for path in texts:
        text = path.read_text()
        for place in (
            str(shared.parent),
            str(Path(__file__).resolve().parents[2]),
            str(Path.home()) + "/",
            "/tmp/",
        ):
            assert place not in text, (path, place)


def test_the_card_says_what_was_trained_on_and_measured(shared, results):
    card, schema = ModelCard.load(shared / "README.md"), load_schema()
    assert card.data.license == "mit" and "arxiv:2310.18342" in card.data.tags
    stored = {result.metric_type: result for result in card.data.eval_results}
    assert stored["accuracy_joint"].metric_value == pytest.approx(
        results["overall"]["accuracy_joint"], abs=1e-4
    )
    assert stored["nli"].metric_args["ci95"] == pytest.approx(results["overall"]["ci95"]["nli"], abs=1e-4)
    low, high = results["overall"]["ci95"]["accuracy_mean"]
    assert f"| {results['overall']['accuracy_mean']:.3f} [{low:.3f}, {high:.3f}] |" in card.text
    for attribute in schema.attributes:
        assert (
            f"| {attribute.name} | train | dataset/corpus/dialogue_{attribute.name}.jsonl | 6 |" in card.text
        )
        for aspect in attribute.aspects:
            assert f"| {attribute.name} | {aspect} | {attribute.descriptions[aspect]} |" in card.text
    for record in results["evaluators"].values():
        assert f" | {record['hash']} |" in card.text
    audit = results["evaluators"]["nli"]["audit"]
    assert (
        f"true replies {audit['real']:.2f} on average and true replies to something else {audit['random']:.2f}"
        in card.text
    )
    assert (
        all(f"Warning of the run: {warning}" in card.text for warning in results["warnings"])
        and results["warnings"]
    )
    assert (
        "@inproceedings" in card.text
        and "| latent_size | 32 |" in card.text
        and "18 training dialogues" in card.text
    )


def test_the_card_s_example_runs(shared, monkeypatch, capsys):
    example = re.search(r"```python\n(.*?)```", (shared / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(shared.parent)
    exec(compile(example, "README.md", "exec"), {})
    probability, coherence = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert 0 <= probability <= 1 and 0 <= coherence <= 1


def test_a_cvae_alone_can_be_shared(tiny_run, tmp_path):
    share.save_run(tiny_run / "cvae", tmp_path / "alone")
    card = (tmp_path / "alone" / "README.md").read_text()
    assert (
        "No replies were scored." in card and "reply.probabilities" not in card and "model-index" not in card
    )
    assert Miracle.from_pretrained(tmp_path / "alone", "cpu").scorer is None
    stage = tmp_path / "alone" / "cvae" / "stage.json"
    stage.write_text(json.dumps(json.loads(stage.read_text()) | {"descriptions": {}}))
    share.save_run(tmp_path / "alone" / "cvae", tmp_path / "undescribed")
    plain = (tmp_path / "undescribed" / "README.md").read_text()
    assert "\n| attribute | aspect |\n|---|---|\n| languagestyle | plain |\n" in plain  # and no empty column


def test_a_model_put_together_by_hand_cannot_be_shared(tiny_run, tmp_path):
    loaded = Miracle.from_run(tiny_run, "cpu")
    with pytest.raises(InputError, match="only one that was loaded from a run's folder"):
        Miracle(loaded.generator, None, loaded.control, loaded.decoding).save_pretrained(tmp_path / "out")


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """What `huggingface_hub.HfApi` is asked for, kept as the hub's cache keeps it."""

    revision = "a" * 40

    def __init__(self, cache):
        self.cache, self.calls = cache, []

    def __call__(self, token=None):
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        self.calls.append(("upload", repo_id, commit_message))
        place = self.cache / f"models--{repo_id.replace('/', '--')}"
        for path in filter(Path.is_file, Path(folder_path).rglob("*")):
            blob, link = (
                place / "blobs" / f"{len(self.calls)}-{path.name}-{path.stat().st_ino}",
                place / "snapshots" / self.revision / path.relative_to(folder_path),
            )
            for file in (blob, link):
                file.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(path.read_bytes())
            link.symlink_to(blob)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(self.revision)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    played = Hub(tmp_path / "cache")
    monkeypatch.setattr(share, "HfApi", played)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(played.cache))
    return played


def test_what_was_pushed_is_loaded_from_the_hub_s_cache(tiny_run, hub):
    model = Miracle.from_run(tiny_run, "cpu")
    assert (
        model.push_to_hub("someone/small-talk", private=True) == "https://huggingface.co/someone/small-talk"
    )
    assert hub.calls == [
        ("create", "someone/small-talk", True, True),
        ("upload", "someone/small-talk", "Upload a MIRACLE run"),
    ]
    loaded = Miracle.from_pretrained("someone/small-talk", "cpu")
    assert hub.cache in loaded.folder.parents and same(reply_of(loaded), reply_of(model))
    card = (loaded.folder / "README.md").read_text()
    assert (
        'Miracle.from_pretrained("someone/small-talk")' in card
        and yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == "small-talk"
    )


def test_every_shared_file_is_one_that_is_fetched(shared):
    files = sorted(str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file())
    assert sorted(filter_repo_objects(files, allow_patterns=list(share.PARTS))) == files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "expected user/name"),
        ("someone/nothing", "hub repository someone/nothing: .* logged in"),
        ("some one/x", "hub repository some one/x: "),
    ],
)
def test_a_repository_that_cannot_be_had_is_one_line(name, message, hub):
    with pytest.raises(InputError, match=message) as found:
        Miracle.from_pretrained(name)
    assert "\n" not in str(found.value)


def test_a_refusal_of_the_hub_is_one_line(tiny_run, hub, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("401 Unauthorized\nInvalid credentials")

    monkeypatch.setattr(hub, "create_repo", refused)
    with pytest.raises(InputError, match="401 Unauthorized Invalid credentials; .*hf auth login"):
        share.push_run(tiny_run, "someone/x")


def test_the_command_line_and_its_mistakes(tiny_run, tmp_path, hub, capsys):
    assert main([str(tiny_run), "--folder", str(tmp_path / "out")]) == 0
    assert (
        capsys.readouterr().out == f"-> {tmp_path / 'out'}\n" and (tmp_path / "out" / "README.md").is_file()
    )
    assert main([str(tiny_run), "--to", "someone/x"]) == 0 and hub.calls[0] == (
        "create",
        "someone/x",
        None,
        True,
    )
    with pytest.raises(InputError, match="copied into itself"):
        main([str(tiny_run), "--folder", str(tiny_run / "cvae" / "shared")])
    with pytest.raises(InputError, match="expected user/name"):
        main([str(tiny_run), "--to", ""])
    with pytest.raises(InputError, match="holds something already"):
        main([str(tiny_run), "--folder", str(tmp_path / "out")])
    with pytest.raises(InputError, match="no trained CVAE"):
        main([str(tmp_path), "--folder", str(tmp_path / "other")])
    with pytest.raises(InputError, match="one of the arguments --to --folder is required"):
        main([str(tiny_run)])


def test_results_of_another_training_are_not_shared(shared, tmp_path):
    run = shutil.copytree(shared, tmp_path / "run")
    stage = json.loads((run / "cvae" / "stage.json").read_text())
    stage["settings"]["latent_size"] += 1
    (run / "cvae" / "stage.json").write_text(json.dumps(stage))
    with pytest.raises(InputError, match="results.json is of another training"):
        share.save_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_knows_what_it_stands_on(tiny_run, shared, tmp_path, capsys):
    """Replies and results name the same weights; a run that was put together from two is shared with a warning."""
    places = evaluator_folders(list(load_schema(None).names))
    assert (
        stale_parts(tiny_run, places) == [] and None not in stamp_of(tiny_run / "generations.jsonl").values()
    )
    run = shutil.copytree(shared, tmp_path / "run")
    for place in ("cvae", "nli"):
        stage = json.loads((run / place / "stage.json").read_text())
        stage["metrics"]["hash"] = "another"
        (run / place / "stage.json").write_text(json.dumps(stage))
    share.save_run(run, tmp_path / "out")
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert (
        "warning: stale: results.json was measured with another CVAE, evaluator nli than run holds now"
        in line
    )
