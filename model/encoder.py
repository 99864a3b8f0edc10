"""Text encoders: the mean of a model's states over the real tokens; BERT-type, or any that `AutoModel` gives states of."""

import inspect

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

PADDING_TOLERANCE = 1e-3  # of the largest number of a text's mean state


def encoder_config(settings: dict) -> AutoConfig:
    """A base model's configuration from the dict that `MiracleConfig` keeps."""
    settings = dict(settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def encoder_weights(base: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A base's weights, of the encoder alone where it has a decoder too."""
    return (base.get_encoder() if base.config.is_encoder_decoder else base).state_dict()


def states_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration, with random weights, that turns tokens into states; without a pooling layer where it can be left out."""
    try:
        model = AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:  # a class without that choice
        model = AutoModel.from_config(config)
    return model.get_encoder() if config.is_encoder_decoder else model


class MeanEncoder(nn.Module):
    """A BERT-type encoder whose output is the mean over the real tokens (section 3.1 uses the same pooling)."""

    def __init__(self, settings: dict):
        super().__init__()
        config = encoder_config(settings)
        self.transformer = states_model(config)
        self.hidden_size = config.hidden_size
        takes_types = "token_type_ids" in inspect.signature(self.transformer.forward).parameters
        self.has_token_types = takes_types and (getattr(config, "type_vocab_size", 0) or 0) > 1

    @torch.no_grad()
    def check(self, length: int, pad_token_id: int) -> None:
        """Try the encoder on an input of `length` tokens and a padded one.

        Raises:
            ValueError: where it cannot read so many, or padding changes what it says of a text, so that a reply would
                depend on what else is in its batch.
        """
        training = self.training
        self.eval()
        real = min(5, length - 1)
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, real:] = 0
        try:
            ids = torch.arange(2 * length).remainder(self.transformer.config.vocab_size - 1).view(2, length)
            ids = torch.where(ids == pad_token_id, ids + 1, ids).masked_fill(mask == 0, pad_token_id)
            with torch.random.fork_rng(devices=[]):
                together, alone = (
                    self(ids, mask, torch.zeros_like(ids))[1],
                    self(ids[1:, :real], mask[1:, :real], torch.zeros_like(ids[1:, :real]))[0],
                )
        except Exception as error:  # of somebody else's model, in whatever way it fails
            positions = getattr(self.transformer.config, "max_position_embeddings", None)
            known = (
                f"; it has {positions} positions"
                if isinstance(positions, int) and positions < length + 4
                else ""
            )
            raise ValueError(
                f"it cannot read {length} tokens{known} ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            ) from error
        finally:
            self.train(training)
        if not torch.allclose(together, alone, atol=PADDING_TOLERANCE * float(alone.abs().max() + 1e-6)):
            raise ValueError(
                "padding changes what it says of a text, so that replies would depend on what else is in their batch"
            )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Args: ids, mask (1 = real) and token types, each [B, T]. Returns [B, H] in fp32."""
        types = (
            {"token_type_ids": token_type_ids} if self.has_token_types and token_type_ids is not None else {}
        )
        states = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, **types
        ).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        return (states.float() * weights).sum(1) / weights.sum(1).clamp_min(1.0)
