"""The conditional VAE that joins encoders, priors, decoder and latent heads."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import SAFE_WEIGHTS_NAME

from model.adapters import add_adapters, load_base_weights, merge_adapters
from model.bases import load_recorded
from model.checkpointing import checkpoint_layers
from model.config import MiracleConfig
from model.decoder import LatentDecoder
from model.encoder import MeanEncoder, encoder_weights
from model.flow import VelocityField
from model.gaussian import Gaussian, gaussian_from_parameters
from model.heads import LatentHeads
from model.losses import LossInputs, LossWeights, weighted_sum
from model.prior import LatentPrior, of_targets


class MiracleModel(PreTrainedModel):
    """Prior encoder, posterior encoder, latent decoder and latent heads (figure 2 of the paper)."""

    config_class = MiracleConfig
    base_model_prefix = "miracle"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: MiracleConfig):
        super().__init__(config)
        aspects = [len(names) for names in config.attributes.values()]
        self.prior_encoder = MeanEncoder(config.encoder)
        self.posterior_encoder = None if config.tie_encoders else MeanEncoder(config.encoder)
        hidden = self.prior_encoder.hidden_size
        self.prior = LatentPrior(hidden, config.latent_size, len(aspects), shared=config.prior == "shared")
        self.posterior = nn.Linear(hidden, 2 * config.latent_size)
        self.heads = LatentHeads(config.latent_size, aspects, config.head_width, config.head_layers)
        self.flow = (
            VelocityField(config.latent_size, aspects, config.flow_width) if config.flow_width else None
        )
        self.decoder = LatentDecoder(
            config.decoder,
            config.latent_size,
            config.n_prefix,
            config.token_dropout,
            config.lexical_offset,
            config.lexical_embedding,
        )
        self.post_init()
        if config.lora_rank:
            for base in self.base_models():
                add_adapters(base, config.lora_rank, config.lora_alpha or 2.0 * config.lora_rank)
        self._note_unsaved()

    def _note_unsaved(self) -> None:
        """Tied weights are saved once and frozen ones not at all; tells the Trainer that a checkpoint without them is whole."""
        frozen = {
            name for name, value in self.named_parameters(remove_duplicate=False) if not value.requires_grad
        }
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys) | frozen

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *args,
        config: MiracleConfig | None = None,
        bases: dict[str, str] | None = None,
        **options,
    ):
        """Load a checkpoint that `save_pretrained` wrote, whole or adapters.

        Args:
            bases: with adapters, ``{"encoder": folder, "decoder": folder}`` of what they stand on; None: looked for by
                `model.bases.load_recorded`.

        Raises:
            model.bases.BaseNotFound: where adapters' bases are not found, or are not those that they were trained on.
        """
        config = config or MiracleConfig.from_pretrained(folder)
        if not config.lora_rank:
            model, loading_info = super().from_pretrained(
                folder, *args, config=config, output_loading_info=True, **options
            )
            if missing := sorted(loading_info["missing_keys"]):
                raise ValueError(f"{folder}: {len(missing)} weights are missing ({missing[0]}, ...)")
            return model
        with no_init_weights():  # all of them are read
            model = cls(config)
        model.load_bases(
            *(
                load_recorded(kind, config.bases[kind], (bases or {}).get(kind))
                for kind in ("encoder", "decoder")
            )
        )
        weights = load_file(Path(folder) / SAFE_WEIGHTS_NAME)
        shapes = {
            name: value.shape
            for name, value in model.state_dict().items()
            if name not in model._keys_to_ignore_on_save
        }
        other = sorted(
            name
            for name in {*shapes, *weights}
            if name not in shapes or name not in weights or shapes[name] != weights[name].shape
        )
        if other:
            raise ValueError(
                f"{folder}: the weights are not those of this model; missing, left over or of another size are {', '.join(other[:3])}"
            )
        model.load_state_dict(weights, strict=False)
        return model.eval()

    def base_models(self) -> list[PreTrainedModel]:
        """The language models that everything stands on: encoders, then decoder."""
        encoders = [self.prior_encoder] + ([self.posterior_encoder] if self.posterior_encoder else [])
        return [*(encoder.transformer for encoder in encoders), self.decoder.lm]

    def load_bases(self, encoder: PreTrainedModel | None, decoder: PreTrainedModel | None) -> None:
        """Take the bases' weights, strictly, with or without adapters on top; None leaves a part as it is."""
        *encoders, lm = self.base_models()
        if encoder is not None:
            for transformer in encoders:
                load_base_weights(transformer, encoder_weights(encoder), optional="pooler.")
        if decoder is not None:
            load_base_weights(lm, decoder.state_dict())

    def freeze_in(self, dtype: torch.dtype) -> None:
        """Keep the frozen weights in a smaller type; what is trained stays as it is."""
        for parameter in self.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)

    def merge(self) -> None:
        """Add the adapters to the weights: the same model, whole."""
        for base in self.base_models():
            merge_adapters(base)
        self.config.lora_rank, self.config.bases = 0, {}
        self.requires_grad_(True)
        self._note_unsaved()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The bases initialise themselves; ours: normal weights, and means of unit scale from the first step on."""
        for base in self.base_models():
            if any(module is inner for inner in base.modules()):
                base._init_weights(module)
                return
        if isinstance(module, nn.Linear):
            lexical = getattr(self.decoder.to_logits, "project", self.decoder.to_logits)
            gain = {self.decoder.to_prefix: 0.1, self.decoder.to_offset: 0.02, lexical: 0.02}.get(
                module, 1.0
            )  # small beside what they join
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def base_parameters(self) -> set[int]:
        """Ids of the parameters that come from the bases, which train at a lower rate where those are pre-trained."""
        return {id(p) for base in self.base_models() for p in base.parameters()}

    def decoder_first(self, parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those of the decoder, which the losses of tokens alone depend on, and the others."""
        decoder = {id(p) for p in self.decoder.parameters()}
        return [p for p in parameters if id(p) in decoder], [p for p in parameters if id(p) not in decoder]

    def encode_prior(self, context_ids: torch.Tensor, context_mask: torch.Tensor) -> Gaussian:
        """p(z | c, attribute) of every attribute, [B, K, D], from context ids and mask [B, T]."""
        return self.prior(self.prior_encoder(context_ids, context_mask, torch.zeros_like(context_ids)))

    def encode_posterior(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Gaussian:
        """q(z | c, r), [B, D], from the ids, mask and token types of context + response, [B, T]."""
        encoder = self.posterior_encoder or self.prior_encoder
        return gaussian_from_parameters(self.posterior(encoder(ids, mask, types)))

    def forward(self, *, weights: LossWeights, **batch: Any) -> dict[str, torch.Tensor]:
        """The loss of a batch that may mix attributes (eq. 7: reconstruction, KL, L_C, L_D).

        Args:
            weights: see `LossWeights`.
            batch: as for `loss_inputs`.

        Returns:
            `model.losses.weighted_sum`: ``loss``, its terms and what is logged beside them, by name.
        """
        return weighted_sum(self.loss_inputs(weights=weights, **batch), weights)

    def loss_inputs(
        self,
        context_ids: torch.Tensor,
        context_mask: torch.Tensor,
        posterior_ids: torch.Tensor,
        posterior_mask: torch.Tensor,
        posterior_types: torch.Tensor,
        decoder_ids: torch.Tensor,
        decoder_mask: torch.Tensor,
        labels: torch.Tensor,
        targets: torch.Tensor,
        weights: LossWeights,
        classified: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        response_length: int | None = None,
        rows: int | None = None,
    ) -> LossInputs:
        """What the terms of a batch's loss are computed from, each process its own examples.

        Args:
            context_*, posterior_*, decoder_*, labels: [B, T] each with its own T; see `dataset.batching.CvaeCollator`.
            targets: [B, K] aspect indices, -1 where an example is not labelled for an attribute.
            classified: bool [B], the examples that the latent heads learn from; None: all.
            weights: see `LossWeights`.
            noise: standard normal [B, D] for the posterior sample; drawn where None.
            response_length: all labels lie in that many last columns, so that the vocabulary's logits, the largest
                tensor of a step, need not be computed for the context's tokens; None: for all.
            rows: only the first so many examples count; 0 in a process for which a step has none, and which computes along
                with the others; None: all.
        """
        priors = self.encode_prior(context_ids, context_mask)
        prior = of_targets(priors, targets, weights.prior_combination)
        posterior = self.encode_posterior(posterior_ids, posterior_mask, posterior_types)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)

        reads_context = bool(weights["context"]) and self.config.use_context
        kept = 0 if reads_context or response_length is None else response_length + 1  # columns; 0: all
        given = LossInputs(
            token_losses=self.decoder.losses(decoder_ids, decoder_mask, z, kept),
            labels=labels[:, -kept:],
            attention_mask=decoder_mask[:, -kept:],
            reads_context=reads_context,
            prior=prior,
            posterior=posterior,
            z=z,
            logits=[logits.float() for logits in self.heads(z)],
            targets=targets,
            classified=classified,
            flow=self.flow,
            free_bits=weights.free_bits,
            decoded=z,
        )
        return given if rows is None else given.first(rows)

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """Recompute all layers in the backward pass, by a route that keeps the prefix (`model.checkpointing`)."""
        checkpoint_layers(self)

    gradient_checkpointing_enable = activation_checkpointing_enable  # its name before transformers 5.18


AutoConfig.register("miracle", MiracleConfig, exist_ok=True)
AutoModel.register(MiracleConfig, MiracleModel, exist_ok=True)
