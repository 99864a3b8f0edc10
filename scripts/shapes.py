"""Shapes of well-known models, for benchmarks with random weights: nothing is downloaded.

The numbers are those of the ``config.json`` of the repositories named, on the Hugging Face hub; all of these decoders share
their input and output embeddings.
"""

from dataclasses import dataclass

import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, Qwen2Config

from model.config import MiracleConfig
from model.cvae import MiracleModel

ATTRIBUTES = {
    "languagestyle": ["plain", "lyrical"],
    "attitude": ["pessimistic", "optimistic"],
    "mindchar": ["emotional", "critical"],
}


def _bert(vocabulary: int, width: int, layers: int, heads: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )


def _grouped(kind: type, vocabulary: int, width: int, layers: int, heads: int, kv_heads: int, inner: int, theta: float):  # fmt: skip
    """LLaMA's architecture, or Qwen2's, with grouped-query attention."""
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        max_position_embeddings=4096,  # of 8,192 to 131,072; no weight depends on it
        rope_theta=theta,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )


def _gpt2(vocabulary: int, width: int, layers: int, heads: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=1024,
        bos_token_id=None,
        eos_token_id=None,
    )


def encoders() -> dict[str, PreTrainedConfig]:
    """Encoders by name."""
    return {
        "tiny": _bert(500, 32, 1, 2),
        "minilm": _bert(30522, 384, 6, 12),  # sentence-transformers/all-MiniLM-L6-v2
        "bert-base": _bert(30522, 768, 12, 12),  # google-bert/bert-base-uncased
    }


def decoders() -> dict[str, PreTrainedConfig]:
    """Decoders by name."""
    return {
        "tiny": _grouped(LlamaConfig, 500, 32, 2, 4, 2, 64, 1e4),
        "SmolLM2-135M": _grouped(LlamaConfig, 49152, 576, 30, 9, 3, 1536, 1e5),  # HuggingFaceTB/SmolLM2-135M-Instruct
        "DialoGPT-medium": _gpt2(50257, 1024, 24, 16),  # microsoft/DialoGPT-medium
        "Qwen2.5-0.5B": _grouped(Qwen2Config, 151936, 896, 24, 14, 2, 4864, 1e6),  # Qwen/Qwen2.5-0.5B
        "Qwen2.5-1.5B": _grouped(Qwen2Config, 151936, 1536, 28, 12, 2, 8960, 1e6),  # Qwen/Qwen2.5-1.5B
        "Llama-3.2-1B": _grouped(LlamaConfig, 128256, 2048, 16, 32, 8, 8192, 5e5),  # meta-llama/Llama-3.2-1B
        "Llama-3.2-3B": _grouped(LlamaConfig, 128256, 3072, 28, 24, 8, 8192, 5e5),  # meta-llama/Llama-3.2-3B
    }  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A model to measure: its bases by name, its latent, and how it is trained, as a preset has them."""

    encoder: str
    decoder: str
    latent_size: int
    n_prefix: int
    lora_rank: int = 0


SETUPS = {
    "tiny": Setup("tiny", "tiny", 8, 2),
    "chat": Setup("minilm", "SmolLM2-135M", 64, 2, 16),
    "paper": Setup("bert-base", "DialoGPT-medium", 768, 1),
}


def build(setup: Setup, device: torch.device) -> MiracleModel:
    """A model with random weights; the frozen ones of a model with adapters in bf16 on a GPU, as training keeps them."""
    config = MiracleConfig(
        encoder=encoders()[setup.encoder].to_dict(),
        decoder=decoders()[setup.decoder].to_dict(),
        attributes=ATTRIBUTES,
        latent_size=setup.latent_size,
        n_prefix=setup.n_prefix,
        lora_rank=setup.lora_rank,
        head_width=128,
        head_layers=2,
    )
    torch.manual_seed(0)
    with device:  # weights are drawn where they are needed
        model = MiracleModel(config)
    if setup.lora_rank and device.type == "cuda":
        model.freeze_in(torch.bfloat16)
    return model
