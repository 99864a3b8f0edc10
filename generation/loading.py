"""A trained CVAE from its folder, with its tokenizers."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.base_models import ensure_bases
from model.bases import BaseNotFound, tokenizer_beside
from model.config import MiracleConfig
from model.cvae import MiracleModel

ENCODER_TOKENIZER = "encoder_tokenizer"  # folder inside cvae/; the decoder's tokenizer lies in cvae/ itself


def load_cvae(folder: Path) -> MiracleModel:
    """A checkpoint, whole or adapters; bases that adapters stand on are fetched where they are not there (`common.base_models`).

    Raises:
        model.bases.BaseNotFound: where they are not found, or are others.
    """
    try:
        return MiracleModel.from_pretrained(folder, use_safetensors=True).eval()
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
    return MiracleModel.from_pretrained(folder, use_safetensors=True).eval()


def tokenizers_of(
    folder: Path, config: MiracleConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The encoder's and the decoder's tokenizer of a checkpoint."""
    return (
        tokenizer_beside(folder / ENCODER_TOKENIZER, "encoder", config.bases.get("encoder")),
        tokenizer_beside(folder, "decoder", config.bases.get("decoder")),
    )
