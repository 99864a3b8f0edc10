"""A trained CVAE from its folder, with its tokenizers."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from common.base_models import ensure_bases
from common.checkpoints import cannot_be_loaded, damaged_file
from common.errors import InputError
from common.jsonl import read_json
from model.bases import BaseNotFound, tokenizer_beside
from model.config import MiracleConfig
from model.cvae import MiracleModel

RETRAIN = "train it again: bash train_cvae.sh --overwrite"
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
            if base.get("known")
        }
        if not known:
            raise
    for name, source in sorted(known):
        ensure_bases(name, source)
    return _loaded(folder)


def _loaded(folder: Path) -> MiracleModel:
    try:
        read_json(folder / "config.json")  # whose mistakes its library would tell less plainly
    except InputError as error:
        raise InputError(f"{error}; {RETRAIN}") from None
    if reason := damaged_file(folder):
        raise cannot_be_loaded(folder, "CVAE", reason, RETRAIN)
    try:
        model = MiracleModel.from_pretrained(folder, use_safetensors=True).eval()
    except (BaseNotFound, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what a checkpoint may have wrong, its readers say in many ways
        raise cannot_be_loaded(folder, "CVAE", error, RETRAIN) from error
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
    """The encoder's and the decoder's tokenizer of a checkpoint; raises `InputError` for one that is damaged."""
    tokenizers = []
    for tokenizer_folder, kind in ((folder / ENCODER_TOKENIZER, "encoder"), (folder, "decoder")):
        if reason := damaged_file(tokenizer_folder):
            raise InputError(
                f"{tokenizer_folder}: the {kind}'s tokenizer cannot be loaded ({reason}); {RETRAIN}"
            )
        tokenizers.append(tokenizer_beside(tokenizer_folder, kind, config.bases.get(kind)))
    return tokenizers[0], tokenizers[1]
