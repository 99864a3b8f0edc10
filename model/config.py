"""Everything that a trained CVAE must remember to be rebuilt and used."""

from transformers import PreTrainedConfig

PRIORS = ("per_attribute", "shared")


class MiracleConfig(PreTrainedConfig):
    """Configuration of `model.cvae.MiracleModel`.

    Args:
        encoder, decoder: the base models' configurations as dicts (``config.to_dict()``).
        attributes: attribute name -> aspect names, in index order.
        latent_size: D, dimensions of z.
        n_prefix: key/value positions per decoder layer through which z enters.
        prior: ``per_attribute`` (one Gaussian head each) or ``shared`` (one for all, as published).
        use_context: the decoder reads the context besides z; False as published.
        tie_encoders: one encoder for context and context + response, instead of two.
        lexical_offset: z also adds a linear term to the next-token logits, which makes word choice additive in z.
        head_width, head_layers: the latent heads' hidden layers; 0 layers is a linear head.
        token_dropout: share of the decoder's input embeddings zeroed in training, so that z is needed.
        template: the marks of the speakers in the decoder's text (`dataset.encoding.DialogueTemplate` as a dict).
        encoder_length, decoder_length: longest inputs in tokens.
        lexical_embedding: that linear term goes through the decoder's own output embedding: [D, H] weights instead of [D, V].
        lora_rank, lora_alpha: of the adapters on frozen bases (`model.adapters`); rank 0: none, all weights are trained and saved.
        flow_width: of the hidden layers of the flow-matching prior (`model.flow`); 0: there is none.
        bases: with adapters, what they stand on: ``{"encoder": record, "decoder": record}``, see `model.bases.BaseRecord`.
    """

    model_type = "miracle"

    def __init__(
        self,
        encoder: dict | None = None,
        decoder: dict | None = None,
        attributes: dict[str, list[str]] | None = None,
        latent_size: int = 128,
        n_prefix: int = 4,
        prior: str = "per_attribute",
        use_context: bool = True,
        tie_encoders: bool = False,
        lexical_offset: bool = True,
        head_width: int = 128,
        head_layers: int = 0,
        token_dropout: float = 0.1,
        template: dict[str, str] | None = None,
        encoder_length: int = 128,
        decoder_length: int = 128,
        lexical_embedding: bool = False,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        bases: dict[str, dict] | None = None,
        flow_width: int = 0,
        **kwargs,
    ):
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}, got {prior!r}")
        self.encoder = encoder or {}
        self.decoder = decoder or {}
        self.attributes = dict(attributes or {})
        self.latent_size = latent_size
        self.n_prefix = n_prefix
        self.prior = prior
        self.use_context = use_context
        self.tie_encoders = tie_encoders
        self.lexical_offset = lexical_offset
        self.head_width = head_width
        self.head_layers = head_layers
        self.token_dropout = token_dropout
        self.template = template or {}
        self.encoder_length = encoder_length
        self.decoder_length = decoder_length
        self.lexical_embedding = lexical_embedding
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.bases = bases or {}
        self.flow_width = flow_width
        super().__init__(**kwargs)

    def to_dict(self) -> dict:
        """The attributes as pairs: JSON is written with sorted keys, and their order is the index order."""
        return super().to_dict() | {
            "attributes": [[name, list(aspects)] for name, aspects in self.attributes.items()]
        }
