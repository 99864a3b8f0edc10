"""Base models: where the encoders' and the decoder's weights come from, and tiny configurations for models trained from scratch."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

ROOT = Path(__file__).resolve().parent.parent
BASES = ROOT / "data" / "bases"  # where `common.base_models` puts them
ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[EOS]", "<|end|>", "[SEP]")
SCRATCH = "scratch"  # the name of a base that does not exist: random weights, own tokenizer


class BaseNotFound(ValueError):
    """A base model was found neither locally nor on the hub; the message is one line with the remedy."""


@dataclass(frozen=True)
class ScratchSize:
    """Size of a tiny transformer that starts from random weights."""

    layers: int
    width: int
    heads: int
    vocab_size: int
    positions: int = 256
    dropout: float = 0.1


def scratch_encoder_config(
    size: ScratchSize, tokenizer: PreTrainedTokenizerBase, token_types: int = 2
) -> BertConfig:
    """A tiny BERT for a tokenizer of our own."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=size.positions,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        type_vocab_size=token_types,
        initializer_range=0.05,  # BERT's own 0.02 is made for widths of 768
        pad_token_id=tokenizer.pad_token_id,
    )


def scratch_decoder_config(size: ScratchSize, tokenizer: PreTrainedTokenizerBase) -> GPT2Config:
    """A tiny GPT-2 for a tokenizer of our own."""
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=size.positions,
        initializer_range=size.width**-0.5,  # GPT-2's own 0.02 is made for widths of 768 and more
        resid_pdrop=size.dropout,
        embd_pdrop=size.dropout,
        attn_pdrop=size.dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


SETTINGS = ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")


def _damaged_settings(folder: Path) -> str | None:
    """The first file of settings that is no object of finite numbers, ``config.json: not UTF-8 JSON (...)``; None where all are."""
    for name in SETTINGS:
        try:
            _read_settings(folder / name)
        except (ValueError, RecursionError) as error:
            return f"{name}: {error}"
    return None


def _read_settings(path: Path) -> dict:
    """A file's JSON object, empty where there is none; raises `ValueError` in one line."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise ValueError(f"not UTF-8 JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    return found


def _finite(text: str) -> float:
    """A number of JSON's; NaN in ``layer_norm_eps`` would make numbers of no meaning in silence."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text}, no finite number")
    return number


def _load(loader, name: str, **options):
    if Path(name).is_dir() and (reason := _damaged_settings(Path(name))):
        raise BaseNotFound(f"base model folder {name} cannot be loaded: {reason}")
    try:
        return loader.from_pretrained(name, **options)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise BaseNotFound(f"base model {name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # what a checkpoint may have wrong, its readers say in many ways
        if Path(name).is_dir():
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise BaseNotFound(
                f"base model folder {name} cannot be loaded: {reason if isinstance(error, (OSError, ValueError)) else f'{type(error).__name__}: {reason}'}"
            ) from error
        if not isinstance(error, (OSError, ValueError)):
            raise
        raise BaseNotFound(
            f"base model {name!r} not found: no local folder of that name, and the Hugging Face hub could not be reached or "
            "does not have it; get it with `hf download` on a machine with network, and name the folder "
            "(BASE=<folder with encoder/ and decoder/>)"
        ) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A base's tokenizer, from a folder or by hub name; decoders without a padding token pad with end-of-sequence's.

    Raises:
        BaseNotFound: in one line.
    """
    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.pad_token_id is None:  # padding is masked out, so that any token will do
        tokenizer.pad_token = next(
            (
                token
                for token in (
                    tokenizer.eos_token,
                    tokenizer.sep_token,
                    tokenizer.unk_token,
                    tokenizer.bos_token,
                )
                if token
            ),
            None,
        )
    return tokenizer


def load_decoder_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a decoder, which has an end-of-sequence token: its own, else the separator (GPT-2 checkpoints with
    BERT's tokenizer end texts with it), else one of `ENDS` that its vocabulary has.

    Raises:
        BaseNotFound: where it has none of them.
    """
    tokenizer = load_tokenizer(name)
    if tokenizer.eos_token_id is None:
        vocabulary = tokenizer.get_vocab()
        end = tokenizer.sep_token or next((token for token in ENDS if token in vocabulary), None)
        if end is None:
            raise BaseNotFound(
                f"base model {name}: its tokenizer has no end-of-sequence token, no separator and none of {', '.join(ENDS)}; a decoder must know "
                "how a reply ends: set eos_token in its tokenizer_config.json"
            )
        tokenizer.eos_token = end
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens a model has embeddings for."""
    try:
        return model.get_input_embeddings().num_embeddings
    except (NotImplementedError, AttributeError):  # characters hashed, embeddings quantised
        return model.config.vocab_size


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, embeddings: int) -> None:
    """See that every token of a tokenizer has an embedding; padding without one becomes the end-of-sequence or separator.

    Raises:
        BaseNotFound: where tokens of texts have none: the tokenizer is of another model.
    """
    used = {tokenizer.eos_token, tokenizer.sep_token, tokenizer.cls_token, tokenizer.unk_token}
    special = (
        {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        | set(tokenizer.all_special_tokens)
    ) - used
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= embeddings:
        tokenizer.pad_token = next(
            token for token in (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token) if token
        )
    highest = max(number for token, number in tokenizer.get_vocab().items() if token not in special)
    if highest >= embeddings:
        raise BaseNotFound(
            f"base model {name}: its tokenizer has tokens up to number {highest}, the model has {embeddings} embeddings; they are of different models"
        )


def load_config(name: str) -> PreTrainedConfig:
    """A base's configuration; raises `BaseNotFound`."""
    return _load(AutoConfig, name)


def load_encoder(name: str, layers: int = 0) -> PreTrainedModel:
    """A BERT-type base in fp32, or its first so many layers; raises `BaseNotFound`."""
    model = _load(AutoModel, name, dtype="float32")
    depth = getattr(model.config, "num_hidden_layers", 0)
    if layers > depth:
        raise BaseNotFound(f"base model {name} has {depth} layers, --encoder_layers asks for {layers}")
    if layers:
        for module in list(model.modules()):
            for child, stack in list(module.named_children()):
                if isinstance(stack, nn.ModuleList) and len(stack) == depth:
                    setattr(module, child, stack[:layers])
        model.config.num_hidden_layers = layers
    return model


def load_decoder(name: str) -> PreTrainedModel:
    """A causal LM base in fp32; raises `BaseNotFound`."""
    return _load(AutoModelForCausalLM, name, dtype="float32")


@dataclass(frozen=True)
class BaseRecord:
    """What a checkpoint of adapters remembers of a base that they stand on.

    Attributes:
        name: folder, from the repository's root where it lies there, or hub name.
        hash: `content_hash` of its weights.
        revision: of the hub's repository; None: a folder, or unknown.
        known: name among `common.base_models`'s bases, and where that one came from; None: none of those.
        tokenizer: `tokenizer_hash` of what the model was trained with; None: not recorded.
    """

    name: str
    hash: str
    revision: str | None = None
    known: str | None = None
    source: str | None = None
    tokenizer: str | None = None


def content_hash(model: PreTrainedModel) -> str:
    """The first 16 hex digits of the SHA-256 over a model's weights in fp32, by name: the same for every way to store them."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy())
    return digest.hexdigest()[:16]


PROBE = "It's  10:45\nÀ bientôt — 世界 🙂 <|im_end|> it is."


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """The first 16 hex digits of the SHA-256 over what a tokenizer does: its vocabulary, which tokens start, end, pad and
    separate, and how it reads a line with digits, spaces, letters of several scripts and a mark. How it is stored is left out.
    """
    roles = [getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "pad", "unk", "sep", "cls")]
    said = [sorted(tokenizer.get_vocab().items()), roles, tokenizer(PROBE)["input_ids"]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def not_finite(folder: Path) -> str | None:
    """The first tensor of a folder's safetensors that holds NaN or infinity; None where all are finite."""
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(path).items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                return name
    return None


def record_of(
    name: str, model: PreTrainedModel, shown: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> dict:
    """The `BaseRecord` of a loaded base as a dict.

    Args:
        name: what it was loaded by, a folder or a hub name.
        shown: the name to keep, without the machine's part.
        tokenizer: what the model is trained with; None: nothing is recorded of it.
    """
    origin = Path(name).parent / "base.json"
    try:
        stored = _read_settings(origin)
    except ValueError as error:
        raise BaseNotFound(f"{origin}: {error}") from error
    revision = None if Path(name).is_dir() else getattr(model.config, "_commit_hash", None)
    record = BaseRecord(
        shown,
        content_hash(model),
        revision,
        stored.get("name"),
        stored.get("source"),
        tokenizer_hash(tokenizer) if tokenizer else None,
    )
    if Path(name).is_dir() and not Path(name).resolve().is_relative_to(
        ROOT
    ):  # checkpoints keep no machine's paths, this machine may
        note = BASES / "places" / record.hash
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(Path(name).resolve()), encoding="utf-8")
    return dataclasses.asdict(record)


def load_recorded(kind: str, record: dict, folder: str | None = None) -> PreTrainedModel:
    """The base that adapters stand on, in fp32.

    Args:
        kind: ``encoder`` or ``decoder``.
        record: `BaseRecord` as a dict.
        folder: where it lies; None: by its recorded name, else where `record_of` saw it on this machine, else any folder of
            `BASES` that holds the same weights, else the hub's.

    Raises:
        BaseNotFound: where there is none, or only others; says which were looked at.
    """
    wanted = BaseRecord(**record)
    note = BASES / "places" / wanted.hash
    seen = [Path(note.read_text(encoding="utf-8"))] if note.is_file() else []
    places = [Path(folder)] if folder else [ROOT / wanted.name, *seen, *sorted(BASES.glob(f"*/{kind}"))]
    found = []
    for place in dict.fromkeys(place for place in places if (place / "config.json").is_file()):
        model = load_encoder(str(place)) if kind == "encoder" else load_decoder(str(place))
        if (other := content_hash(model)) == wanted.hash:
            _places[wanted.hash] = str(place)
            return model
        found.append(f"{place} with {other}")
    if wanted.revision and not folder:
        loader = AutoModel if kind == "encoder" else AutoModelForCausalLM
        model = _load(loader, wanted.name, dtype="float32", revision=wanted.revision)
        if content_hash(model) == wanted.hash:
            _places[wanted.hash] = wanted.name
            return model
        found.append(f"the hub's {wanted.name} with {content_hash(model)}")
    remedy = (
        f"; get it: bash scripts/get_bases.sh {wanted.known} --source {wanted.source}" if wanted.known else ""
    )
    raise BaseNotFound(
        f"these adapters stand on the {kind} {wanted.name} with hash {wanted.hash}; found {' and '.join(found) or 'none'}{remedy}"
    )


_places: dict[str, str] = {}  # hash -> where `load_recorded` found it


def tokenizer_beside(folder: Path, kind: str, record: dict | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint: its own, or where adapters were saved without one, their base's.

    Raises:
        BaseNotFound: for neither, and where the base's reads or ends a text in another way than the one of the training.
    """
    load = load_decoder_tokenizer if kind == "decoder" else load_tokenizer
    if record is None or (folder / "tokenizer_config.json").is_file():
        return load(str(folder))
    if record["hash"] not in _places:
        load_recorded(kind, record)
    place = _places[record["hash"]]
    tokenizer = load(place)
    wanted, actual = record.get("tokenizer"), tokenizer_hash(tokenizer)
    if wanted not in (None, actual):
        remedy = (
            f"; fetch it anew: rm -r {shown_place(place)} && bash scripts/get_bases.sh {record['known']}"
            if record.get("known")
            else ""
        )
        raise BaseNotFound(
            f"{folder}: trained with the tokenizer {wanted} of {record['name']}; the one in {place} has the same weights and is "
            f"another tokenizer, {actual} (it ends texts with {tokenizer.eos_token!r}){remedy}"
        )
    return tokenizer


def shown_place(place: str) -> str:
    """The folder of a pair of bases that a checkpoint is one of, from the repository's root where it lies there."""
    pair = Path(place).resolve().parent
    return str(pair.relative_to(ROOT)) if pair.is_relative_to(ROOT) else str(pair)


def weights_hash(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 over a folder's weight files, which names a model in results."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")]):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
