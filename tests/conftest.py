"""Builders that the tests share: tiny random models, tokenizers trained on a few inline texts, rows as JSON Lines."""

import fcntl
import gc
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest  # noqa: E402
import torch  # noqa: E402

pytest_plugins = ("live_server",)  # its fixtures
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
gc.disable()  # until everything is imported: what is collected then is next to nothing


def pytest_addoption(parser):
    """How many damaged inputs `faults/test_fuzz.py` tries, and which."""
    parser.addoption("--fuzz", type=int, default=5000, help="damaged inputs over all readers (default: 5000)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="of the damage (default: 0)")


def pytest_collection_finish():
    """Leave the libraries out of what `gc` looks through: our stages collect often, each time 0.5 s with them."""
    gc.collect()
    gc.freeze()
    gc.enable()


TEXTS = (
    "My bread did not rise today, what should I do about it?",
    "Keep the dough warm and wait another hour.",
    "The flour sleeps under its cloth like snow on a hill.",
    "Is it worth it to try again tomorrow?",
    "Yes, the second loaf is always better than the first one.",
    "No, it will only burn again, you will see.",
)


@pytest.fixture
def three():
    """A schema of three attributes, one of them with three aspects; the names are not in alphabetical order."""
    from common.schema import Attribute, Schema

    return Schema(
        (
            Attribute("style", ("plain", "lyrical")),
            Attribute("attitude", ("pessimistic", "optimistic")),
            Attribute("mood", ("calm", "angry", "sad")),
        ),
        path=Path("my_schema.py"),
    )


@pytest.fixture
def write_rows(tmp_path):
    """Write rows (dicts, or lines as they are) to a file and return its path."""

    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
            encoding="utf-8",
        )
        return path

    return write


@pytest.fixture(scope="session")
def encoder_tokenizer():
    """A WordPiece tokenizer trained on `TEXTS`."""
    from dataset.tokenizers import train_encoder_tokenizer

    return train_encoder_tokenizer(TEXTS, 200)


@pytest.fixture(scope="session")
def decoder_tokenizer():
    """A byte-level BPE tokenizer trained on `TEXTS`."""
    from dataset.tokenizers import train_decoder_tokenizer

    return train_decoder_tokenizer(TEXTS, 320)


@pytest.fixture(scope="session")
def word_tokenizer():
    """Whole words a, b, ... as tokens, with BERT's and DialoGPT's special tokens, so that ids can be read as words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "eos_token": "<|endoftext|>",
    }
    words = [*special.values(), "<user>", "<reply>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, extra_special_tokens=["<user>", "<reply>"]
    )


def encoder_settings(vocab_size=200, **changes):
    """A tiny BERT's configuration as a dict."""
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertConfig(
        vocab_size=vocab_size, max_position_embeddings=64, initializer_range=0.2, **sizes | changes
    ).to_dict()


def decoder_settings(kind="gpt2", vocab_size=320, **changes):
    """A tiny GPT-2's, or a tiny LLaMA's (grouped-query attention, rotary positions, untied) configuration as a dict."""
    from transformers import GPT2Config, LlamaConfig

    shared = {
        "vocab_size": vocab_size,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }  # far from uniform
    if kind == "gpt2":
        return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, **shared | changes).to_dict()
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    }
    return LlamaConfig(
        **{"max_position_embeddings": 96, "tie_word_embeddings": False} | shared | sizes | changes
    ).to_dict()


@pytest.fixture
def make_decoder():
    """Builds a tiny latent decoder (``gpt2`` or ``llama``) in eval mode; z is 8 numbers, the prefix 3 positions."""
    from model.decoder import LatentDecoder

    def make(kind="gpt2", token_dropout=0.0, **changes):
        torch.manual_seed(0)
        decoder = LatentDecoder(decoder_settings(kind, **changes), 8, 3, token_dropout)
        with torch.no_grad():
            decoder.to_prefix.weight.mul_(5.0)  # z must matter for the tests to be able to fail
            decoder.to_offset.weight.mul_(2.0)
        return decoder.eval()

    return make


@pytest.fixture
def make_miracle(three):
    """Builds a tiny `MiracleModel` in eval mode, of the attributes of `three` unless told otherwise."""
    from model.config import MiracleConfig
    from model.cvae import MiracleModel

    def make(kind="gpt2", seed=0, decoder=None, **changes):
        torch.manual_seed(seed)
        defaults = {
            "attributes": three.aspects,
            "latent_size": 8,
            "n_prefix": 3,
            "head_width": 16,
            "token_dropout": 0.0,
        }
        settings = decoder_settings(kind, **decoder or {})
        return MiracleModel(
            MiracleConfig(encoder=encoder_settings(), decoder=settings, **defaults | changes)
        ).eval()

    return make


@pytest.fixture
def batch(encoder_tokenizer, decoder_tokenizer):
    """Five encoded dialogues, of unequal length and of all attributes of `three`, as `MiracleModel.forward` takes them."""
    from dataset.batching import CvaeCollator, cvae_rows
    from dataset.dialogues import Dialogue
    from dataset.tokenizers import SCRATCH_TEMPLATE

    contexts = [
        (TEXTS[0],),
        (TEXTS[3], TEXTS[4], TEXTS[0]),
        (TEXTS[3],),
        ("Bread?",),
        (TEXTS[0], TEXTS[5], TEXTS[3]),
    ]
    responses = [TEXTS[1], TEXTS[4], TEXTS[5], "Yes, bread.", TEXTS[2]]
    targets = [[0, -1, -1], [-1, 1, -1], [-1, -1, 2], [1, -1, -1], [-1, 0, -1]]
    pairs = [(target, True, Dialogue("0", c, r, {})) for target, c, r in zip(targets, contexts, responses)]
    rows = cvae_rows(pairs, encoder_tokenizer, decoder_tokenizer, SCRATCH_TEMPLATE, 64, 64, True)
    return CvaeCollator(encoder_tokenizer.pad_token_id, decoder_tokenizer.pad_token_id)(rows)


@pytest.fixture(autouse=True)
def _quiet():
    """No progress bars of `transformers` between the test results."""
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A whole pipeline of models from scratch on six rows of every file, for what only reads a run's folder.

    Of several processes of pytest one trains, and each has a copy of its own.
    """
    outs = tmp_path_factory.mktemp("tiny")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return train_tiny_run(outs)
    shared = tmp_path_factory.getbasetemp().parent / "tiny_run"  # the folder of all workers in this start
    shared.mkdir(exist_ok=True)
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "trained").exists():
            shutil.rmtree(shared / "r", ignore_errors=True)  # of a worker that failed
            train_tiny_run(shared)
            (shared / "trained").touch()
    return Path(shutil.copytree(shared / "r", outs / "r"))


def train_tiny_run(outs: Path) -> Path:
    """Train `tiny_run` into a folder."""
    from scripts import pipeline

    quick = [word for stage in ("classifier", "nli", "cvae") for word in (f"--{stage}.num_train_epochs", "1")]
    quick += ["--classifier.min_steps", "0", "--nli.min_steps", "0", "--preset", "scratch", "--limit", "6"]
    schema = str(Path(__file__).resolve().parent.parent / "schema.py")
    assert pipeline.main(["--outs", str(outs), "--run", "r", "--schema", schema, *quick]) == 0
    return outs / "r"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests in a browser are slow ones."""
    for item in items:
        if "open_chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def open_chromium(tmp_path_factory):
    """A function that starts a headless Chromium; tests that need one are skipped where there is none, or no selenium.

    Its arguments are the profile's preferences and the logs to keep. Whoever starts one ends it: ``browser.quit()``.
    """
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if os.environ.get("MIRACLE_BROWSER_TESTS") != "required":  # .ci/run wants a failure and no skipped test
        pytest.importorskip("selenium.webdriver")
        if not binary or not driver:
            pytest.skip("no chromium with chromedriver")
    assert binary and driver, "no chromium with chromedriver"
    from selenium import webdriver

    def start(preferences=None, logs=("browser",)):
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync disable-dev-shm-usage"
        for flag in (*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(f"--{flag}")
        options.add_experimental_option("prefs", preferences or {})
        options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
        return webdriver.Chrome(
            options=options, service=webdriver.ChromeService(driver)
        )  # named, so that no driver is looked for online

    return start


def negative_log_probability(heads, z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(head_k(z))[a_k] in nats, [B, K], 0 where none is named: the plain form of what `model.energy` computes."""
    columns = []
    for k, logits in enumerate(heads(z)):
        own = logits.log_softmax(-1).gather(1, targets[:, k : k + 1].clamp_min(0)).squeeze(1)
        columns.append(torch.where(targets[:, k] >= 0, -own, torch.zeros_like(own)))
    return torch.stack(columns, dim=1)
