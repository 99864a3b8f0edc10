"""The commands of the README on a few rows, and what they say to bad input."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import gen_cvae
import train_classifier
import train_cvae
import train_nli
from common.entry import run_main
from common.errors import InputError
from common.options import parser_of, read_preset
from dataset.tokenizers import train_decoder_tokenizer, train_encoder_tokenizer
from generation import run as generation_run
from generation import run as run_stage
from scripts import pipeline
from training import classifier as classifier_stage
from training import coherence as coherence_stage
from training import cvae as cvae_stage

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--limit", "6"]
ONE_EPOCH = [word for stage in ("classifier", "nli", "cvae") for word in (f"--{stage}.num_train_epochs", "1")]
ONE_EPOCH += ["--classifier.min_steps", "0", "--nli.min_steps", "0"]


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A whole demo pipeline on six rows of every file; a copy, which the tests here may add to."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("outs") / "r"))


def test_pipeline_leaves_the_run_folder_of_the_contracts(run):
    for name in ("languagestyle", "attitude", "mindchar"):
        assert (run / "classifier" / name / "model.safetensors").is_file()
    assert (run / "nli" / "model.safetensors").is_file() and (run / "cvae" / "model.safetensors").is_file()
    for name in ("control", "none"):
        assert (run / "generations" / f"{name}.jsonl").is_file() and (
            run / "results" / f"{name}.json"
        ).is_file()
    assert (run / "results.json").read_text() == (run / "results" / "control.json").read_text()
    assert not list(run.rglob("*.partial"))


def test_generations_and_results_have_the_contract_s_keys(run):
    rows = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 8
    keys = {
        "id",
        "context",
        "target",
        "response",
        "reference",
        "predicted",
        "probabilities",
        "nli",
        "nats",
        "tokens",
        "seed",
        "cvae",
        "evaluators",
    }
    assert all(set(row) == keys for row in rows)
    assert all(row["reference"] for row in rows)  # the bundled test file has one for every combination
    results = json.loads((run / "results.json").read_text())
    assert results["format"] == 1 and len(results["by_target"]) == 8 and results["baseline"]["n"] == 48
    assert results["overall"]["ppl"] is None  # the demo names no language model
    expected = sum(row["predicted"][a] == t for row in rows for a, t in row["target"].items()) / (
        3 * len(rows)
    )
    assert results["overall"]["accuracy_mean"] == pytest.approx(expected)
    assert {"command", "seed", "config", "versions", "git", "device", "nfe", "seconds"} <= set(results["run"])
    assert str(Path.home()) not in json.dumps(results) and str(run.parent) not in json.dumps(results)


def replace_stages(monkeypatch, function) -> None:
    """Every stage of the pipeline is `function`."""
    for module, name in (
        (classifier_stage, "train"),
        (coherence_stage, "train"),
        (cvae_stage, "train"),
        (run_stage, "generate"),
    ):
        monkeypatch.setattr(module, name, function)


def test_a_stage_s_model_is_gone_before_the_next_stage(monkeypatch):
    """Its trainer and the steps it recorded refer to each other: on a card that is just large enough there is no room beside them."""

    class Trainer:
        pass

    left = []

    def stage(*configuration):
        assert all(trainer() is None for trainer in left)
        trainer = Trainer()
        trainer.steps = [trainer]
        left.append(weakref.ref(trainer))

    replace_stages(monkeypatch, stage)
    gc.disable()
    try:
        assert pipeline.main([]) == 0
    finally:
        gc.enable()
    assert len(left) == 5


def test_a_finished_pipeline_trains_nothing_again_and_writes_the_same_replies(run, capsys):
    before = (run / "generations.jsonl").read_text()
    times = {path: path.stat().st_mtime_ns for path in sorted(run.glob("*/control.json*"))}
    assert (
        pipeline.main(["--outs", str(run.parent), "--run", "r", "--preset", "scratch", *QUICK, *ONE_EPOCH])
        == 0
    )
    said = capsys.readouterr().out
    assert said.count("already trained") == 5
    assert "none: already written, 48 replies" in said and "control: already written, 48 replies" in said
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert re.search(r"^nli: already trained, .* pairs$", said, re.MULTILINE)
    assert said.splitlines()[-1] == f"-> {run / 'report.html'}" and "4 of 48 replies, all in" in said
    assert (run / "generations.jsonl").read_text() == before


def test_named_target_tags_and_langevin(run):
    common = ["--outs", str(run.parent), "--run", "r", "--limit", "3", "--no-score"]
    assert (
        gen_cvae.main(
            [
                *common,
                "--target",
                "optimistic,lyrical",
                "--name",
                "two",
                "--algorithm",
                "langevin",
                "--langevin_steps",
                "5",
            ]
        )
        == 0
    )
    rows = [json.loads(line) for line in (run / "generations" / "two.jsonl").read_text().splitlines()]
    assert [row["target"] for row in rows] == [{"languagestyle": "lyrical", "attitude": "optimistic"}] * 3
    assert gen_cvae.main([*common, "--target", "tags", "--name", "tags", "--decoding", "top_p"]) == 0


@pytest.mark.slow
def test_another_schema_with_one_attribute_of_three_aspects(tmp_path):
    rows = [
        {"input": [f"what of {i} {a}?"], "output": [f"{a} {a} thing {i}"], "tag": a}
        for i in range(6)
        for a in ("red", "green", "blue")
    ]
    for name in ("dialogue", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    contexts = [{"input": [f"what of {i}?"], "output": []} for i in range(2)]
    (tmp_path / "contexts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in contexts))
    schema = tmp_path / "my_schema.py"
    schema.write_text(
        "ATTRIBUTES = [dict(name='colour', aspects=['red', 'green', 'blue'], dialogues='dialogue.jsonl', dev_dialogues='dev.jsonl')]\n"
        "TEST = 'contexts.jsonl'\n"
    )
    assert pipeline.main(["--outs", str(tmp_path), "--run", "r", "--schema", str(schema), *ONE_EPOCH]) == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert list(results["by_target"]) == ["red", "green", "blue"] and results["overall"]["bleu"] is None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder laid out like two plain checkpoints of the hub: encoder/ and decoder/, tiny and random."""
    folder = tmp_path_factory.mktemp("base")
    texts = ["the bread is flat", "i hope the rain ends soon", "what a long day it was"] * 4
    encoder_tokenizer, decoder_tokenizer = (
        train_encoder_tokenizer(texts, 200),
        train_decoder_tokenizer(texts, 400),
    )
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(encoder_tokenizer), **size)).save_pretrained(folder / "encoder")
    encoder_tokenizer.save_pretrained(folder / "encoder")
    config = GPT2Config(
        vocab_size=len(decoder_tokenizer), n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "decoder")
    decoder_tokenizer.save_pretrained(folder / "decoder")
    return folder


@pytest.fixture(scope="module")
def chat_run(base, tmp_path_factory):
    """A run of the preset whose CVAE is adapters, from tiny bases, with evaluators that are adapters too."""
    outs = tmp_path_factory.mktemp("chat")
    sizes = [
        "--cvae.latent_size",
        "8",
        "--cvae.per_device_train_batch_size",
        "4",
        "--classifier.lora_rank",
        "2",
        "--nli.lora_rank",
        "2",
    ]
    common = [
        "--preset",
        "chat",
        "--base",
        str(base),
        "--schema",
        "schema.py",
        "--outs",
        str(outs),
        "--limit",
        "4",
    ]
    assert pipeline.main([*common, *ONE_EPOCH, *sizes, "--generation.candidates", "2"]) == 0
    return outs / "chat"


@pytest.mark.slow
def test_a_run_of_adapters_is_a_run_like_any_other(chat_run, base):
    from miracle import Miracle
    from model.bases import weights_hash

    saved = chat_run / "cvae" / "model.safetensors"
    assert saved.stat().st_size < 0.7 * (base / "decoder" / "model.safetensors").stat().st_size
    assert (chat_run / "classifier" / "attitude" / "adapter_model.safetensors").is_file() and (
        chat_run / "nli" / "adapter_config.json"
    ).is_file()
    results = json.loads((chat_run / "results.json").read_text())
    assert results["run"]["config"]["cvae"]["lora_rank"] == 16 and results["overall"]["ppl"] > 1
    assert results["evaluators"]["attitude"]["hash"] == weights_hash(chat_run / "classifier" / "attitude")
    row = json.loads((chat_run / "generations.jsonl").read_text().splitlines()[0])
    model = Miracle.from_run(chat_run, "cpu")
    again = model.reply(row["context"], row["target"], seed=row["seed"])[0]
    assert again.text == row["response"] and again.probabilities["attitude"] == pytest.approx(
        row["probabilities"]["attitude"], abs=1e-4
    )


def test_a_preset_fetches_the_bases_that_it_names(base, tmp_path, monkeypatch):
    """They are fetched once, before anything is read or trained; a folder of the user's own stands before the name."""
    from common import options as arguments

    asked = []
    monkeypatch.setattr(arguments, "ensure_bases", lambda name: asked.append(name) or base)
    common, *_ = arguments.parse_arguments(train_cvae.OPTIONS, "cvae", ["--preset", "chat"], "")
    assert (
        asked == ["smollm2"]
        and common.encoder == str(base / "encoder")
        and common.decoder == str(base / "decoder")
    )
    common, *_ = arguments.parse_arguments(
        train_cvae.OPTIONS, "cvae", ["--preset", "chat", "--base", str(tmp_path)], ""
    )
    assert asked == ["smollm2"] and common.decoder == str(tmp_path / "decoder")


def test_a_base_named_by_itself_stands_before_the_preset_s(tmp_path, monkeypatch):
    """As the second evaluators of an experiment need it, whose encoder is not that of the preset's pair."""
    from common import options as arguments

    monkeypatch.setattr(arguments, "ensure_bases", lambda name: tmp_path / "pair")
    common, *_ = arguments.parse_arguments(
        train_classifier.OPTIONS, "classifier", ["--preset", "chat", "--encoder", "other"], ""
    )
    assert (common.encoder, common.decoder) == ("other", str(tmp_path / "pair" / "decoder"))
    common, *_ = arguments.parse_arguments(
        train_classifier.OPTIONS,
        "classifier",
        ["--preset", "chat", "--encoder", "scratch", "--decoder", "mine"],
        "",
    )
    assert (common.encoder, common.decoder) == ("scratch", "mine")
    common, *_ = arguments.parse_arguments(
        train_classifier.OPTIONS, "classifier", ["--base", str(tmp_path), "--encoder", "other"], ""
    )
    assert common.encoder == str(tmp_path / "encoder")  # --base names both


def test_without_a_run_the_last_one_is_taken_else_the_released_model(tmp_path, monkeypatch):
    from generation import sharing as share
    from generation.sharing import default_run

    monkeypatch.setattr(share, "RELEASE", tmp_path / "release")
    with pytest.raises(InputError, match="no trained run in .* yet: bash pipeline.sh trains one"):
        default_run(tmp_path)
    share.RELEASE.mkdir()
    assert default_run(tmp_path) == share.RELEASE
    for number, name in enumerate(("old", "new", "unfinished")):
        (tmp_path / name / "cvae").mkdir(parents=True)
        if name != "unfinished":
            (tmp_path / name / "cvae" / "stage.json").write_text("{}")
            os.utime(tmp_path / name / "cvae" / "stage.json", (number, number))
    assert default_run(tmp_path) == tmp_path / "new"


def trained(outs, name, when, limit=None):
    record = outs / name / "cvae" / "stage.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"settings": {"limit": limit}}))
    os.utime(record, (when, when))


def test_the_run_that_is_taken_is_said_and_trials_are_passed_over(tmp_path, monkeypatch, capsys):
    """After ``--limit 20`` chat.sh without a name silently talked to that."""
    from generation import sharing
    from generation.sharing import default_run, named_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharing, "RELEASE", tmp_path / "release" / "chat")
    trained(Path("outs"), "small", 3, limit=1)
    with pytest.raises(InputError, match="but of --limit; name one to use it: bash chat.sh outs/small$"):
        default_run()
    sharing.RELEASE.mkdir(parents=True)
    trained(Path("outs"), "manner", 4, limit=20)
    said = []
    assert default_run(write=said.append) == sharing.RELEASE
    assert said == [
        "outs/manner was trained on 20 rows a file (--limit) and is passed over; name it to use it"
    ]
    trained(Path("outs"), "demo", 2)
    assert named_run(None, None, "serve.sh") == Path("outs/demo")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("outs/manner was trained on 20 rows") and lines[1:] == [
        "outs/demo, trained last; bash serve.sh release/chat is the released model"
    ]
    trained(Path("outs"), "newest", 5)
    (tmp_path / "outs" / "newest" / "cvae" / "stage.json").write_text("[")  # loading says what is wrong
    assert default_run() == Path("outs/newest")


def test_a_run_is_named_once(capsys):
    import chat
    from generation.sharing import named_run

    assert named_run(Path("outs/r"), None, "chat.sh") == named_run(None, "r", "chat.sh") == Path("outs/r")
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match=r"^outs/r and --run x \(or RUN=x\) both name a run; leave one out$"):
        chat.main(["outs/r", "--run", "x"])
    with pytest.raises(InputError, match="no such folder: outs/nobody-s"):
        chat.main(["--run", "nobody-s"])


@pytest.mark.slow
def test_a_compact_run_takes_its_tokenizers_from_the_bases(chat_run, tmp_path):
    from miracle import Miracle
    from scripts.share import main

    assert main([str(chat_run), "--folder", str(tmp_path / "small"), "--compact"]) == 0
    assert not list((tmp_path / "small").rglob("tokenizer*.json"))
    sizes = [
        (folder / "cvae" / "model.safetensors").stat().st_size for folder in (chat_run, tmp_path / "small")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    whole, small = (
        Miracle.from_pretrained(folder, "cpu").reply(
            "what a long day", "lyrical", candidates=1, decoding="greedy"
        )[0]
        for folder in (chat_run, tmp_path / "small")
    )
    assert whole.text[:3] == small.text[:3] and small.coherence == pytest.approx(whole.coherence, abs=0.02)
    with pytest.raises(InputError, match="already"):
        main([str(chat_run), "--folder", str(tmp_path / "small"), "--compact"])


@pytest.mark.slow
def test_a_merged_run_says_the_same_without_its_bases(chat_run, tmp_path):
    from miracle import Miracle
    from scripts.merge import main

    assert main([str(chat_run), str(tmp_path / "whole")]) == 0
    config = json.loads((tmp_path / "whole" / "cvae" / "config.json").read_text())
    assert not config.get("lora_rank") and not config.get("bases")
    replies = [
        Miracle.from_run(folder, "cpu")
        .reply("what a long day", "lyrical", candidates=1, decoding="greedy")[0]
        .text
        for folder in (chat_run, tmp_path / "whole")
    ]
    assert replies[0] == replies[1]
    with pytest.raises(InputError, match="no adapters"):
        main([str(tmp_path / "whole"), str(tmp_path / "again")])


@pytest.mark.slow
def test_a_run_goes_on_from_another_with_attributes_of_its_own(chat_run, base, tmp_path):
    from safetensors.torch import load_file

    words = [
        "--preset",
        "chat",
        "--base",
        str(base),
        "--schema",
        "",
        "--outs",
        str(tmp_path),
        "--run",
        "mine",
    ]
    schema = tmp_path / "my_schema.py"
    rows = [
        {"input": [f"what of {i} {a}?"], "output": [f"{a} {a} thing {i}"], "tag": a}
        for i in range(6)
        for a in ("red", "green", "blue")
    ]
    for name in ("dialogue", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema.write_text(
        "ATTRIBUTES = [dict(name='colour', aspects=['red', 'green', 'blue'], dialogues='dialogue.jsonl', dev_dialogues='dev.jsonl')]\n"
    )
    words[words.index("--schema") + 1] = str(schema)
    assert (
        train_cvae.main(
            [
                *words,
                "--start_from",
                str(chat_run),
                "--max_steps",
                "1",
                "--warmup_steps",
                "0",
                "--per_device_train_batch_size",
                "4",
            ]
        )
        == 0
    )
    config = json.loads((tmp_path / "mine" / "cvae" / "config.json").read_text())
    assert (
        config["attributes"] == [["colour", ["red", "green", "blue"]]]
        and config["lora_rank"] == 16
        and config["latent_size"] == 8
    )
    before, after = (
        load_file(folder / "cvae" / "model.safetensors") for folder in (chat_run, tmp_path / "mine")
    )
    moved = [(before[name] - after[name]).abs().max() for name in before if ".lora_" in name]
    assert 0 < max(moved) < 0.05  # a step away from where the other run ended


def test_training_on_a_cpu_in_bf16(base, tmp_path):
    words = [
        "--preset",
        "chat",
        "--base",
        str(base),
        "--schema",
        "schema.py",
        "--outs",
        str(tmp_path),
        "--limit",
        "2",
        "--max_steps",
        "1",
        "--latent_size",
        "8",
    ]
    assert train_cvae.main([*words, "--precision", "bf16"]) == 0
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        train_cvae.main([*words, "--precision", "fp16"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_preset_runs_from_local_checkpoint_folders(preset, base, tmp_path):
    sizes = [
        "--cvae.latent_size",
        "8",
        "--cvae.per_device_train_batch_size",
        "4",
        "--generation.ppl_model",
        str(base / "decoder"),
    ]
    common = [
        "--preset",
        preset,
        "--base",
        str(base),
        "--schema",
        "schema.py",
        "--outs",
        str(tmp_path),
        "--limit",
        "4",
    ]
    assert pipeline.main([*common, *ONE_EPOCH, *sizes]) == 0
    results = json.loads((tmp_path / preset / "results.json").read_text())
    assert results["overall"]["ppl"] > 1 and results["run"]["config"]["cvae"]["encoder"] == "encoder"


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"input": ["a", "b"], "output": ["c", "d"]}\n{"input": ["a", "b", "c"], "output": ["d"]}\n'
    )
    monkeypatch.setattr(sys, "argv", ["gen_cvae.py", "--outs", str(tmp_path), "--contexts", str(bad)])
    with pytest.raises(SystemExit) as end:
        run_main(gen_cvae.main)
    shown = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in shown
    assert shown.strip().splitlines()[-1].startswith(f"error: {bad}:2: 3 user turns")


@pytest.mark.slow
def test_paper_without_network_says_what_it_tried_and_how_to_get_it(tmp_path):
    done = command(
        "train_cvae.py",
        "--preset",
        "paper",
        "--schema",
        "schema.py",
        "--outs",
        str(tmp_path),
        "--limit",
        "2",
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "google-bert/bert-base-uncased" in last and "hf download" in last and "BASE=" in last


@pytest.mark.parametrize(
    "main, argv, message",
    [
        (train_classifier.main, ["--attribute", "mood"], "unknown attribute 'mood'"),
        (train_classifier.main, ["--colour", "red"], "unknown option --colour"),
        (
            train_cvae.main,
            ["--preset", "huge"],
            "unknown preset 'huge'; there are chat, demo, paper, scratch, small",
        ),
        (train_cvae.main, ["--preset", "small"], "BASE="),
        (
            train_classifier.main,
            ["--preset", "paper"],
            "text_l.raw.jsonl; bash scripts/download_data.sh fetches",
        ),
        (train_nli.main, ["--schema", "nowhere.py"], "schema not found"),
        (gen_cvae.main, ["--outs", "nowhere"], "train it first: ATTR=languagestyle bash train_classifier.sh"),
        (gen_cvae.main, ["--outs", "nowhere", "--no-score"], "train it first: RUN=demo bash train_cvae.sh"),
        (gen_cvae.main, ["--target", "happy"], "unknown aspect 'happy'"),
        (gen_cvae.main, ["--target", "plain,lyrical"], "one aspect per attribute"),
        (pipeline.main, ["--outs", "/nowhere", "--generation.wieghts", "3"], "unknown option --wieghts 3"),
        (
            train_classifier.main,
            ["--num_train_epochs", "-1"],
            "--num_train_epochs: expected a number over 0, found -1.0",
        ),
        (
            train_nli.main,
            ["--per_device_train_batch_size", "0"],
            "--per_device_train_batch_size: expected a number of at least 1, found 0",
        ),
        (
            pipeline.main,
            ["--cvae.learning_rate", "0"],
            "--learning_rate: expected a number over 0, found 0.0",
        ),
        (train_nli.main, ["--seed", "-1"], "--seed: expected a number from 0 to 4294967295, found -1"),
        (
            train_nli.main,
            ["--num_train_epochs", "inf"],
            "--num_train_epochs: expected a number over 0, found inf",
        ),
        (
            train_nli.main,
            ["--max_grad_norm", "nan"],
            "--max_grad_norm: expected a number of 0 or more, found nan",
        ),
        (
            train_nli.main,
            ["--eval_accumulation_steps", "0"],
            "--eval_accumulation_steps: expected a number of at least 1",
        ),
        (train_nli.main, ["--warmup_steps", "-5"], "an option: .*warmup_steps"),
        (train_nli.main, ["--lr_scheduler_kwargs", "{"], "an option: "),
        (train_nli.main, ["--fsdp", "x"], "an option: "),
        (gen_cvae.main, ["--tolerance", "nan"], "tolerance must lie between 0 and 1, got nan"),
        (train_cvae.main, ["--latent_size", "0"], "latent_size: expected a number of at least 1, found 0"),
        (
            train_cvae.main,
            ["--token_dropout", "1"],
            "token_dropout: expected a number of 0 or more and less than 1, found 1.0",
        ),
        (
            train_cvae.main,
            ["--decoder_length", "7"],
            "decoder_length: expected a number of at least 8, found 7",
        ),
        (train_cvae.main, ["--kl_weight", "nan"], "kl_weight: expected a number of 0 or more, found nan"),
        (train_cvae.main, ["--kl_ramp", "1.5"], "kl_ramp: expected a number from 0 to 1, found 1.5"),
        (
            train_cvae.main,
            ["--new_learning_rate", "-1"],
            "new_learning_rate: expected a number over 0, found -1.0",
        ),
        (train_nli.main, ["--pair_rounds", "0"], "pair_rounds: expected a number of at least 1, found 0"),
        (
            pipeline.main,
            ["--classifier.max_length", "3"],
            "max_length: expected a number of at least 8, found 3",
        ),
        (pipeline.main, ["--latent_size", "8"], "others name their stage: --cvae.latent_size"),
    ],
)
def test_mistakes_are_input_errors_that_say_what_to_do(main, argv, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        main(argv)


def kept(run: Path) -> list[Path]:
    """What a run holds, without the locks of processes that are gone."""
    return sorted(path for path in run.rglob("*") if path.suffix != ".lock")


def test_a_checkpoint_of_another_schema_is_refused_and_nothing_is_written(run, tmp_path):
    schema = tmp_path / "other.py"
    (tmp_path / "contexts.jsonl").write_text('{"input": ["hello?"], "output": []}\n')
    schema.write_text(
        "ATTRIBUTES = [dict(name='languagestyle', aspects=['lyrical', 'plain'])]\nTEST = 'contexts.jsonl'\n"
    )
    before = kept(run)
    with pytest.raises(InputError, match="was trained for another schema"):
        gen_cvae.main(["--outs", str(run.parent), "--run", "r", "--schema", str(schema), "--name", "x"])
    with pytest.raises(InputError, match="was trained for the aspects"):
        gen_cvae.main(
            ["--outs", str(run.parent), "--run", "r", "--schema", str(schema), "--name", "x", "--no-score"]
        )
    assert kept(run) == before


@pytest.mark.parametrize("preset", ["demo", "chat", "small", "paper"])
def test_presets_have_all_sections(preset):
    assert {"classifier", "nli", "cvae", "generation"} <= set(read_preset(preset))


def test_help_begins_with_our_options_and_says_what_a_negative_switch_does():
    ours, _, theirs = (
        parser_of(train_cvae.OPTIONS).format_help().partition("training options of transformers:")
    )
    assert "--latent_size" in ours and "--kl_weight" in ours and "--num_train_epochs" not in ours
    assert "--num_train_epochs" in theirs and "--latent_size" not in theirs
    assert (
        "the same as --use_context false\n" in ours and ours.count("the decoder reads the context too") == 1
    )
    assert [
        parser_of(train_cvae.OPTIONS).parse_args(words).use_context
        for words in ([], ["--no_use_context"], ["--no-use-context"])
    ] == [True, False, False]


def test_report_to_goes_to_the_trainings_and_is_off_by_default(monkeypatch, tmp_path):
    options = pipeline.split_options(["--report-to", "tensorboard", "--limit", "3"])
    assert (
        options["cvae"]
        == options["nli"]
        == options["classifier"]
        == ["--report-to", "tensorboard", "--limit", "3"]
    )
    assert options["generation"] == ["--limit", "3"]
    pytest.importorskip("tensorboard")
    arguments = [
        "--attribute",
        "attitude",
        *QUICK,
        "--num_train_epochs",
        "1",
        "--min_steps",
        "0",
        "--outs",
        str(tmp_path),
        "--run",
    ]
    train_classifier.main([*arguments, "on", "--report-to", "tensorboard", "--logging_steps", "1"])
    train_classifier.main([*arguments, "off"])
    assert list((tmp_path / "on" / "classifier" / "logs" / "attitude").glob("*tfevents*"))
    assert not list((tmp_path / "off").rglob("*tfevents*"))


@pytest.mark.parametrize("given, bars", [([], False), (["--disable_tqdm", "false"], True)])
def test_a_training_that_is_no_terminal_s_has_log_lines_and_no_bars(tmp_path, capsys, given, bars):
    train_cvae.main(
        [
            "--outs",
            str(tmp_path),
            "--limit",
            "3",
            "--num_train_epochs",
            "1",
            "--logging_steps",
            "1",
            "--eval_strategy",
            "epoch",
            *given,
        ]
    )
    out, err = capsys.readouterr()
    assert ("\r" in err) == bars and "\r" not in out
    assert [line[:15] for line in out.splitlines() if " step " in line] == [
        "cvae train step",
        "cvae dev   step",
    ]  # and not dev once more at the end


def test_other_replies_do_not_take_the_place_of_the_main_ones():
    import dataclasses

    what, control = generation_run.GenerationArguments(), generation_run.ControlArguments()
    none = dataclasses.replace(control, algorithm="none")
    assert (generation_run.name_of(what, control), generation_run.name_of(what, none)) == ("control", "none")
    assert generation_run.name_of(dataclasses.replace(what, target="tags"), control) == "custom"
    assert generation_run.name_of(dataclasses.replace(what, contexts="my.jsonl"), none) == "custom"
    for name, settings in (("control", none), ("none", control)):
        with pytest.raises(InputError, match="choose another name"):
            generation_run.name_of(dataclasses.replace(what, name=name), settings)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".x", "a b"])
def test_a_name_is_a_plain_file_name(run, name):
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError, match="expected a plain file name"):
        gen_cvae.main(["--outs", str(run.parent), "--run", "r", *QUICK, "--name", name, "--no-score"])
    assert sorted(run.rglob("*")) == before


def test_results_of_other_options_are_replaced_only_where_that_is_asked_for(run, monkeypatch):
    class Begun(Exception):
        """Generation would begin."""

    def begin(*_):
        raise Begun

    monkeypatch.setattr(generation_run, "ReplyGenerator", begin)
    common, other = (
        ["--outs", str(run.parent), "--run", "r", "--no-score"],
        ["--preset", "scratch", "--limit", "2", "--weights", "3"],
    )
    said = r"control\.json was made with other options \(weights 100, now 3\.0; limit 6, now 2\); keep it with --name <another>, or replace it with --overwrite"
    with pytest.raises(InputError, match=said):
        gen_cvae.main([*common, *other])
    for allowed in (
        ["--preset", "scratch", *QUICK, "--batch_size", "7"],
        [*other, "--name", "control"],
        [*other, "--overwrite"],
        [*other, "--target", "plain"],
    ):
        with pytest.raises(Begun):
            gen_cvae.main([*common, *allowed])


def test_the_pipeline_ends_with_the_path_of_the_report(monkeypatch, capsys):
    replace_stages(monkeypatch, lambda *configuration: Path("outs/demo/report.html"))
    assert pipeline.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "-> outs/demo/report.html"


def test_seconds_of_a_resumed_pipeline_are_said_to_be_of_this_start(monkeypatch, capsys, tmp_path):
    """Where the trainings had been done before, "all stages: 92 s" was the replies alone."""
    replace_stages(monkeypatch, lambda *configuration: None)
    (tmp_path / "r" / "nli").mkdir(parents=True)
    (tmp_path / "r" / ".nli.lock").touch()
    command = ["--outs", str(tmp_path), "--run", "r"]
    for content, options, resumed in ((None, [], False), ("{}", [], True), ("{}", ["--overwrite"], False)):
        if content:
            (tmp_path / "r" / "nli" / "stage.json").write_text(content)
        assert pipeline.main([*command, *options]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("all stages: ") and ("in this start" in last) == resumed


def test_the_pipeline_replaces_its_own_replies(monkeypatch):
    seen = []
    replace_stages(monkeypatch, lambda *configuration: seen.append(configuration))
    assert pipeline.main(["--generation.weights", "3"]) == 0
    (_, *none), (_, *control) = ([common, what, control] for common, what, control, _ in seen[-2:])
    assert (none[0].name, none[1].algorithm, none[1].weights) == ("none", "none", 3.0)
    assert (control[0].name, control[1].algorithm, control[1].weights) == ("control", "ode", 3.0)
    assert [common.overwrite for common, *_ in seen] == [False] * 5


@pytest.mark.parametrize(
    "train, dev, said",
    [
        ([0, 1, 2], [0, 1], None),
        ([1, 1], [0, 1], "its training data has 'green' alone"),
        ([0, 1, 2], [2, 2], "its dev data has 'blue' alone"),
        ([0, 1, 0], [0, 1], "its training data has nothing of ['blue']"),
        ([], [0, 1], "its training data has no rows"),
    ],
)
def test_what_saw_one_class_is_no_evaluator(train, dev, said):
    from training.evaluators import doubt_of

    doubt = doubt_of(train, dev, ["red", "green", "blue"])
    assert doubt is None if said is None else doubt.startswith("no evaluator: ") and said in doubt


def test_one_class_gives_no_dev_accuracy_and_a_warning_with_every_number(tmp_path, capsys):
    """--limit 21 left one aspect in training and dev; "dev accuracy 1.000" was printed."""
    from common.schema import load_schema
    from scoring.scorer import Scorer

    rows = [{"input": [f"what of {i}?"], "output": [f"red thing {i}"], "tag": "red"} for i in range(4)]
    for name in ("dialogue", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = tmp_path / "my_schema.py"
    schema.write_text(
        "ATTRIBUTES = [dict(name='colour', aspects=['red', 'green'], dialogues='dialogue.jsonl', dev_dialogues='dev.jsonl')]\n"
    )
    words = [
        "--outs",
        str(tmp_path),
        "--run",
        "r",
        "--schema",
        str(schema),
        "--num_train_epochs",
        "1",
        "--min_steps",
        "0",
    ]
    assert train_classifier.main(words) == 0 and train_classifier.main(words) == 0
    out = capsys.readouterr().out
    assert (
        "colour: already trained, no evaluator: its training data has 'red' alone" in out
        and "dev accuracy" not in out
    )
    scorer = Scorer(tmp_path / "r", load_schema(schema), device=None, coherence=False)
    assert scorer.records["colour"]["accuracy"] is None
    assert scorer.warnings() == [
        "evaluator colour: no evaluator: its training data has 'red' alone, of ['red', 'green']; numbers that rest on it mean nothing"
    ]


def test_memory_that_runs_out_is_one_line_of_advice():
    import torch

    from common.provenance import enough_memory

    with (
        pytest.raises(InputError, match=r"^generation: halve it \(.+\)$"),
        enough_memory("generation: halve it"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    with pytest.raises(RuntimeError, match="other"), enough_memory("generation: halve it"):
        raise RuntimeError("other")
