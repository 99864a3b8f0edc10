"""The conditional VAE that joins encoders, priors, decoder and latent heads."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from model.checkpointing import checkpoint_layers
from model.config import MiracleConfig
from model.decoder import LatentDecoder
from model.encoder import MeanEncoder
from model.gaussian import Gaussian, gaussian_from_parameters
from model.heads import LatentHeads
from model.losses import LossTerms, LossWeights, classification_loss, context_loss, distance_loss, kl_loss, mean_over_processes, reconstruction_loss, token_losses
from model.prior import LatentPrior, of_attribute


class Miracle(PreTrainedModel):
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
        self.decoder = LatentDecoder(config.decoder, config.latent_size, config.n_prefix, config.token_dropout, config.lexical_offset)
        self.post_init()
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)  # saved once; tells the Trainer that a checkpoint without them is whole

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The bases initialise themselves; ours: normal weights, and means of unit scale from the first step on."""
        bases = [self.prior_encoder.transformer, self.decoder.lm] + ([self.posterior_encoder.transformer] if self.posterior_encoder else [])
        for base in bases:
            if any(module is inner for inner in base.modules()):
                base._init_weights(module)
                return
        if isinstance(module, nn.Linear):
            gain = {self.decoder.to_prefix: 0.1, self.decoder.to_offset: 0.02, self.decoder.to_logits: 0.02}.get(module, 1.0)  # small beside what they join
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def base_parameters(self) -> set[int]:
        """Ids of the parameters that come from the bases, which train at a lower rate where those are pre-trained."""
        encoders = [self.prior_encoder] + ([self.posterior_encoder] if self.posterior_encoder else [])
        return {id(p) for base in [*encoders, self.decoder.lm] for p in base.parameters()}

    def encode_prior(self, context_ids: torch.Tensor, context_mask: torch.Tensor) -> Gaussian:
        """p(z | c, attribute) of every attribute, [B, K, D], from context ids and mask [B, T]."""
        return self.prior(self.prior_encoder(context_ids, context_mask, torch.zeros_like(context_ids)))

    def encode_posterior(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Gaussian:
        """q(z | c, r), [B, D], from the ids, mask and token types of context + response, [B, T]."""
        encoder = self.posterior_encoder or self.prior_encoder
        return gaussian_from_parameters(self.posterior(encoder(ids, mask, types)))

    def forward(
        self,
        context_ids: torch.Tensor,
        context_mask: torch.Tensor,
        posterior_ids: torch.Tensor,
        posterior_mask: torch.Tensor,
        posterior_types: torch.Tensor,
        decoder_ids: torch.Tensor,
        decoder_mask: torch.Tensor,
        labels: torch.Tensor,
        attribute: torch.Tensor,
        aspect: torch.Tensor,
        weights: LossWeights,
        noise: torch.Tensor | None = None,
        response_length: int | None = None,
    ) -> LossTerms:
        """The loss of a batch that may mix attributes (eq. 7: reconstruction, KL, L_C, L_D).

        Args:
            context_*, posterior_*, decoder_*, labels: [B, T] each with its own T; see `dataset.batching.CvaeCollator`.
            attribute, aspect: [B], which attribute an example is labelled for, and its aspect.
            weights: see `LossWeights`.
            noise: standard normal [B, D] for the posterior sample; drawn where None.
            response_length: all labels lie in that many last columns, so that the vocabulary's logits, the largest
                tensor of a step, need not be computed for the context's tokens; None: for all.
        """
        priors = self.encode_prior(context_ids, context_mask)
        prior = of_attribute(priors, attribute)
        posterior = self.encode_posterior(posterior_ids, posterior_mask, posterior_types)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)

        reads_context = bool(weights.context) and self.config.use_context
        kept = 0 if reads_context or response_length is None else response_length + 1  # columns; 0: all
        losses = token_losses(self.decoder(decoder_ids, decoder_mask, z, kept), decoder_ids[:, -kept:])
        reconstruction = reconstruction_loss(losses, labels[:, -kept:])
        context = context_loss(losses, decoder_mask, labels) if reads_context else reconstruction.new_zeros(())
        kl, kl_unclamped = kl_loss(posterior, prior, weights.free_bits)
        classification, accuracy = classification_loss([logits.float() for logits in self.heads(z)], attribute, aspect)
        distance = distance_loss(z, attribute, len(self.config.attributes))
        loss = reconstruction + weights.kl * kl + weights.classification * classification + weights.distance * distance
        loss = loss + weights.context * context
        stds = (mean_over_processes(gaussian.std.detach()).mean() for gaussian in (prior, posterior))
        return LossTerms(loss, reconstruction, kl, kl_unclamped, classification, distance, accuracy, *stds, context)

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """Recompute all layers in the backward pass, by a route that keeps the prefix (`model.checkpointing`)."""
        checkpoint_layers(self)

    gradient_checkpointing_enable = activation_checkpointing_enable  # its name before transformers 5.18


AutoConfig.register("miracle", MiracleConfig, exist_ok=True)
AutoModel.register(MiracleConfig, Miracle, exist_ok=True)
