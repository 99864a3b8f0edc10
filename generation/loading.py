"""A trained CVAE from its folder, with its tokenizers."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from common.base_models import ensure_bases
from common.errors import InputError
from model.bases import BaseNotFound, tokenizer_beside
from model.config import MiracleConfig
from model.cvae import MiracleModel

ENCODER_TOKENIZER = "encoder_tokenizer"  # folder inside cvae/; the decoder's tokenizer lies in cvae/ itself


def load_cvae(folder: Path) -> MiracleModel:
    """A checkpoint, whole or adapters; bases that adapters stand on are fetched where they are not there (`common.base_models`).

    Raises:
        model.bases.BaseNotFound: where they are not found, or are others.
        InputError: for a checkpoint that is damaged, lacks weights, or holds numbers that are not finite.
    """
    try:
        return _loaded(folder)
    except BaseNotFound:
        known = {
            (base["known"], base["source"])
            for base in MiracleConfig.from_pretrained(folder).bases.values()
            if base["known"]
        }
        if not known:
            raise
    for name, source in sorted(known):
        ensure_bases(name, source)
    return _loaded(folder)


def _loaded(folder: Path) -> MiracleModel:
    try:
        model = MiracleModel.from_pretrained(folder, use_safetensors=True).eval()
    except BaseNotFound:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the CVAE cannot be loaded ({' '.join(str(error).split())[:300]})"
        ) from error
    if name := next(
        (name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None
    ):
        raise InputError(
            f"{folder}: the weights are not finite ({name} holds NaN or infinity); train it again with --overwrite"
        )
    return model


def tokenizers_of(
    folder: Path, config: MiracleConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The encoder's and the decoder's tokenizer of a checkpoint."""
    return (
        tokenizer_beside(folder / ENCODER_TOKENIZER, "encoder", config.bases.get("encoder")),
        tokenizer_beside(folder, "decoder", config.bases.get("decoder")),
    )
