"""Base models: where the encoders' and the decoder's weights come from, and tiny configurations to start from nothing."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

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

SCRATCH = "scratch"  # the name of a base that does not exist: random weights, own tokenizer


class BaseNotFound(ValueError):
    """A base model can be had neither locally nor from the hub; the message is one line with the remedy."""


@dataclass(frozen=True)
class ScratchSize:
    """Size of a tiny transformer that starts from random weights."""

    layers: int
    width: int
    heads: int
    vocab_size: int
    positions: int = 256
    dropout: float = 0.1


def scratch_encoder_config(size: ScratchSize, tokenizer: PreTrainedTokenizerBase, token_types: int = 2) -> BertConfig:
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


def _load(loader, name: str, **options):
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            reason = str(error).split("\n")[0]
            raise BaseNotFound(f"base model folder {name} cannot be loaded: {reason}") from error
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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name: str) -> PreTrainedConfig:
    """A base's configuration; raises `BaseNotFound`."""
    return _load(AutoConfig, name)


def load_encoder(name: str) -> PreTrainedModel:
    """A BERT-type base in fp32; raises `BaseNotFound`."""
    return _load(AutoModel, name, dtype="float32")


def load_decoder(name: str) -> PreTrainedModel:
    """A causal LM base in fp32; raises `BaseNotFound`."""
    return _load(AutoModelForCausalLM, name, dtype="float32")


def weights_hash(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 over a folder's weight files, which names a model in results."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")]):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
