"""The evaluators: sequence classifiers for attributes and coherence, trained apart from the generator."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scipy.special import softmax
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from common.checkpoints import cannot_be_loaded, damaged_file, missing_file
from common.errors import InputError
from common.provenance import relative
from dataset.encoding import encode_contexts, encode_texts
from dataset.tokenizers import train_encoder_tokenizer
from model.bases import (
    SCRATCH,
    BaseNotFound,
    ScratchSize,
    load_config,
    load_encoder,
    load_recorded,
    load_tokenizer,
    record_of,
    scratch_encoder_config,
    tokenizer_beside,
)
from scoring.asked_logits import AskedLogits, Reading
from scoring.recorded_forward import RecordedForward


def new_classifier(
    base: str,
    size: ScratchSize,
    texts: Callable[[], Iterable[str]],
    labels: list[str],
    token_types: int = 2,
    lora_rank: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier to train, from a base or from nothing, and its tokenizer.

    Args:
        base: folder, hub name or ``scratch``; a BERT-type encoder, or for texts alone a GPT-2-type decoder, which pools at
            the last token that is not padding.
        size, texts: used for ``scratch`` alone: the model's size and the texts to train the tokenizer on.
        labels: names in index order; they are kept in the model's configuration.
        token_types: of ``scratch``; 4 makes room for the exact-match feature (see `reads_exact_match`).
        lora_rank: of adapters on the frozen base, which are then all that is trained but the last layer; 0: all weights.

    Raises:
        model.bases.BaseNotFound: for a base that is not found.
        InputError: for adapters on ``scratch``.
    """
    if base == SCRATCH and lora_rank:
        raise InputError("--lora_rank trains adapters on a base; an encoder from scratch has none")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if base != SCRATCH:
        tokenizer, config = load_tokenizer(base), load_config(base)
        config.update(
            {"num_labels": len(labels), "pad_token_id": tokenizer.pad_token_id, **names}
        )  # decoders look for the last token by it
        try:
            with quiet_loading():
                model = AutoModelForSequenceClassification.from_pretrained(
                    base, config=config, dtype="float32"
                )
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"base {base} ({config.model_type}) cannot be a classifier: {' '.join(str(error).split())[:160]}"
            ) from error
        return with_adapters(model, base, lora_rank, tokenizer) if lora_rank else model, tokenizer
    tokenizer = train_encoder_tokenizer(texts(), size.vocab_size)
    config = scratch_encoder_config(size, tokenizer, token_types)
    config.update({"num_labels": len(labels), **names})
    return BertForSequenceClassification(config), tokenizer


def with_adapters(
    model: PreTrainedModel, base: str, rank: int, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A classifier whose base is frozen, with adapters on it, as a `peft.PeftModel`; its last layer is trained whole."""
    from peft import LoraConfig, TaskType, get_peft_model

    model.config.base_record = record_of(
        base, load_encoder(base), relative(base) if Path(base).is_dir() else base, tokenizer
    )
    adapted = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=TaskType.SEQ_CLS),
    )
    adapted.peft_config[
        "default"
    ].base_model_name_or_path = None  # peft looks for it on the hub at every save
    return adapted


def save_classifier(model: PreTrainedModel, folder: Path) -> None:
    """Write a classifier, whole or as adapters in `peft`'s own format, with its configuration, which names labels and base."""
    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = model.config.base_record["name"]
        model.save_pretrained(folder, save_embedding_layers=False)
        model.config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Loading a base without the report that its last layer is new, which it is meant to be."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def without_adapters(folder: Path) -> PreTrainedModel:
    """A classifier of adapters with its base, put together and merged; its configuration names the base.

    Raises:
        model.bases.BaseNotFound: where the base is not found, or is another.
    """
    from peft import PeftModel, get_peft_model_state_dict

    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(config)
    found = model.base_model.load_state_dict(
        load_recorded("encoder", config.base_record).state_dict(), strict=False
    )
    if found.missing_keys or any(not name.startswith("pooler.") for name in found.unexpected_keys):
        raise InputError(f"{folder}: the base {config.base_record['name']} does not fit this classifier")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        with_adapters = PeftModel.from_pretrained(model, str(folder))
    with safe_open(folder / ADAPTER_FILES[1], "np") as weights:
        other = sorted(set(weights.keys()) ^ set(get_peft_model_state_dict(with_adapters)))
    if other:  # peft makes up what is missing
        raise ValueError(
            f"{ADAPTER_FILES[1]}: {len(other)} weights are missing or left over ({other[0]}, ...)"
        )
    return with_adapters.merge_and_unload()


def reads_exact_match(model: PreTrainedModel) -> bool:
    """Whether a coherence model marks matching tokens by token types 2 and 3 (`dataset.encoding.encode_contexts`)."""
    return getattr(model.config, "type_vocab_size", 0) >= 4


def whole_classifier(folder: Path) -> PreTrainedModel:
    """A classifier's own checkpoint; raises `InputError` where weights are missing, which `transformers` would make up."""
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the evaluator cannot be loaded ({' '.join(str(error).split())[:200]})"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"{folder}: {len(missing)} weights are missing ({missing[0]}, ...); train it again with --overwrite"
        )
    return model


def majority(record: dict) -> float | None:
    """The accuracy of always saying the most frequent label of the dev data, from a record's ``confusion``; None: unknown."""
    counts = (record.get("confusion") or {}).get("counts")
    rows = [sum(row) for row in counts or []]
    return max(rows) / sum(rows) if sum(rows) else None


def majority_warning(name: str, record: dict) -> str | None:
    """Says that an evaluator may know no more than which label is the most frequent: its accuracy is within two standard errors of that."""
    share, accuracy, n = majority(record), record.get("accuracy"), record.get("n_dev")
    if share is None or accuracy is None or not n:
        return None
    needed = share + 2 * (share * (1 - share) / n) ** 0.5
    if accuracy > needed:
        return None
    return f"evaluator {name}: dev accuracy {accuracy:.3f} is not over {needed:.3f}, two standard errors above always saying the most frequent label ({share:.3f} of {n}); it may know nothing of the text"


def other_schema(folder: Path) -> str:
    """Where an attribute's folder is missing but others' are there: that the run may be another schema's; else nothing."""
    others = (
        sorted(path.parent.name for path in folder.parent.glob("*/config.json"))
        if folder.name != "nli"
        else []
    )
    if not others:
        return ""
    return f"the run has {', '.join(others)}: name its schema (--schema my_schema.py), or "


@dataclass
class Evaluator:
    """A trained classifier, ready to score."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    record: dict  # accuracy on dev, base and hash, as results name them

    def __post_init__(self) -> None:
        self.forward = RecordedForward([self.model], self.max_length)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        marks = [getattr(self.tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos")]
        self._vocabulary = (
            self.name
            if backend is None
            else hashlib.blake2b(f"{backend.to_str()}{marks}".encode()).hexdigest()
        )

    @property
    def reads(self) -> tuple[str, int]:
        """What decides how a text is encoded: evaluators that agree in it are given the same rows."""
        return self._vocabulary, self.max_length

    @classmethod
    def load(
        cls, folder: Path, name: str, device: torch.device, record: dict, labels: list[str]
    ) -> "Evaluator":
        """Load from a run's folder.

        Raises:
            InputError: where there is none, or one with other labels than `labels`.
        """
        if not (folder / "config.json").is_file():
            how = "bash train_nli.sh" if name == "nli" else f"ATTR={name} bash train_classifier.sh"
            raise InputError(f"no {name} evaluator in {folder}; {other_schema(folder)}train it first: {how}")
        how = "bash train_nli.sh" if name == "nli" else f"ATTR={name} bash train_classifier.sh"
        if reason := damaged_file(folder):
            raise InputError(
                f"{folder}: the evaluator cannot be loaded ({reason}); train it again: {how} --overwrite"
            )
        try:
            base = getattr(AutoConfig.from_pretrained(folder), "base_record", None)
            if base and (reason := missing_file(folder, *ADAPTER_FILES)):
                raise cannot_be_loaded(folder, "evaluator", reason, f"train it again: {how} --overwrite")
            model = without_adapters(folder) if base else whole_classifier(folder)
        except (InputError, BaseNotFound, torch.OutOfMemoryError):
            raise
        except Exception as error:  # what a checkpoint may have wrong, its readers say in many ways
            raise cannot_be_loaded(
                folder, "evaluator", error, f"train it again: {how} --overwrite"
            ) from error
        if name_of_it := next(
            (key for key, value in model.named_parameters() if not torch.isfinite(value).all()), None
        ):
            raise InputError(
                f"{folder}: the weights are not finite ({name_of_it}); train it again with --overwrite"
            )
        model.to(device).eval()
        found = [model.config.id2label[index] for index in range(model.config.num_labels)]
        if found != labels:
            raise InputError(
                f"{folder}: the evaluator's labels are {found}, expected {labels}; it was trained for another schema"
            )
        tokenizer = tokenizer_beside(folder, "encoder", base)
        return cls(
            name,
            model,
            tokenizer,
            min(256, (getattr(model.config, "max_position_embeddings", None) or 512) - 2),
            record,
        )

    def probabilities(self, rows: list[dict], batch_size: int = 64) -> np.ndarray:
        """Softmax probabilities [N, labels] of encoded rows, in their order; batches are grouped by length."""
        if not rows:
            return np.zeros((0, self.model.config.num_labels))
        asked = AskedLogits([self.reading(rows)], batch_size, f"scoring {self.name}")
        return softmax(asked.fetch()[0], axis=-1)

    def reading(self, rows: list[dict]) -> Reading:
        """Encoded rows, to be read by this evaluator."""
        return Reading(rows, self.forward, self.tokenizer.pad_token_id)

    def encode(self, texts: list[str]) -> list[dict[str, list[int]]]:
        """Replies as an attribute's classifier reads them, in the format it was trained in."""
        return encode_texts(self.tokenizer, texts, self.max_length)

    def score_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
        """[N, aspects]: an attribute's probabilities for replies."""
        return self.probabilities(self.encode(texts), batch_size)

    def score_pairs(
        self, contexts: list[tuple[str, ...]], responses: list[str], batch_size: int = 64
    ) -> np.ndarray:
        """[N]: the probability that a response fits its context."""
        return self.probabilities(self.encode_pairs(contexts, responses), batch_size)[:, 1]

    def encode_pairs(self, contexts: list[tuple[str, ...]], responses: list[str]) -> list[dict]:
        """Contexts and responses as the coherence model reads them."""
        return encode_contexts(
            self.tokenizer, contexts, responses, self.max_length, reads_exact_match(self.model)
        )
