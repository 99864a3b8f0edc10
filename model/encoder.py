"""Text encoders: the mean of a BERT-type model's states over the real tokens."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel


def encoder_config(settings: dict) -> AutoConfig:
    """A base model's configuration from the dict that `MiracleConfig` keeps."""
    settings = dict(settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def encoder_weights(base: nn.Module) -> dict[str, torch.Tensor]:
    """A base's weights without the pooling layer that it may have and `MeanEncoder` has not."""
    return {name: value for name, value in base.state_dict().items() if not name.startswith("pooler.")}


class MeanEncoder(nn.Module):
    """A BERT-type encoder whose output is the mean over the real tokens (section 3.1 uses the same pooling)."""

    def __init__(self, settings: dict):
        super().__init__()
        config = encoder_config(settings)
        options = {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta") else {}
        self.transformer = AutoModel.from_config(config, **options)
        self.hidden_size = config.hidden_size
        self.has_token_types = getattr(config, "type_vocab_size", 0) > 1

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Args: ids, mask (1 = real) and token types, each [B, T]. Returns [B, H] in fp32."""
        types = {"token_type_ids": token_type_ids} if self.has_token_types and token_type_ids is not None else {}
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        return (states.float() * weights).sum(1) / weights.sum(1).clamp_min(1.0)
