"""Train the conditional VAE on dialogues that are each labelled for one attribute. ``bash train_cvae.sh``"""

import copy
import dataclasses
import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import GPT2Config, PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.training_args import OptimizerNames

from common.devices import memory_used
from common.errors import InputError
from common.options import CommonArguments, at_least, read_names, within
from common.processes import by_first, several
from common.provenance import relative
from common.schema import Schema, load_schema, target_name
from dataset.batching import CvaeCollator, cvae_dataset
from dataset.chat_template import UnreadableTemplate, template_of
from dataset.compact import released
from dataset.dialogues import Dialogue, balanced, read_attribute_dialogues, read_dialogues, without_targets
from dataset.encoding import SHORTEST, DialogueTemplate, ended
from dataset.tokenizers import SCRATCH_TEMPLATE, train_decoder_tokenizer, train_encoder_tokenizer
from generation.control_weights import read_weights
from generation.loading import ENCODER_TOKENIZER, load_cvae, tokenizers_of
from generation.record import head_warnings, posterior_warnings
from generation.sharing import run_parts
from model import bases
from model.checkpointing import checkpoint_layers
from model.config import PRIORS, MiracleConfig
from model.cvae import MiracleModel
from model.decoder import positions_limit
from model.losses import LossWeights
from model.prior import COMBINATIONS
from model.quantised import hold_in_4bit
from model.schedule import KL_SCHEDULES
from training.bf16_weights import hold_in_bf16
from training.cvae_trainer import SHAPES, CvaeTrainer, can_record
from training.inputs import Inputs, compared_settings, dialogue_files
from training.stage import PRECISIONS, Stage, resolved_arguments, run_trainer
from training.steps import with_steps

VERSION = 1  # of this stage's code; raise it where the same options and data come out otherwise

NOT_RECORDED = "cvae: with several processes these steps are not recorded as CUDA graphs (--shared_graphs false, or a flow prior); small models train more slowly so"

EIGHT_BITS = (OptimizerNames.ADAMW_BNB, OptimizerNames.ADAMW_8BIT)  # two names of bitsandbytes' AdamW

CONFIG = MiracleConfig()  # the owner of the defaults


@dataclass(frozen=True)
class ModelArguments:
    """What the model is made of; see `model.config.MiracleConfig`."""

    latent_size: int = field(default=CONFIG.latent_size, metadata={"help": "dimensions of z"})
    n_prefix: int = field(
        default=CONFIG.n_prefix,
        metadata={"help": "key/value positions per decoder layer through which z enters"},
    )
    prior: str = field(
        default=CONFIG.prior,
        metadata={"help": "one Gaussian head per attribute, or one for all (published)", "choices": PRIORS},
    )
    use_context: bool = field(
        default=CONFIG.use_context,
        metadata={"help": "the decoder reads the context too (--no-use-context: z alone, as published)"},
    )
    lexical_offset: bool = field(
        default=CONFIG.lexical_offset,
        metadata={"help": "z adds a linear term to the next-token logits as well"},
    )
    tie_encoders: bool = field(
        default=CONFIG.tie_encoders, metadata={"help": "one encoder for context and context + response"}
    )
    head_width: int = field(default=CONFIG.head_width, metadata={"help": "width of the latent heads"})
    head_layers: int = field(default=CONFIG.head_layers, metadata={"help": "their hidden layers; 0: linear"})
    token_dropout: float = field(
        default=CONFIG.token_dropout,
        metadata={"help": "share of the decoder's input embeddings zeroed in training"},
    )
    encoder_length: int = field(
        default=CONFIG.encoder_length, metadata={"help": "longest encoder input in tokens"}
    )
    decoder_length: int = field(
        default=CONFIG.decoder_length, metadata={"help": "longest decoder input in tokens"}
    )
    lexical_embedding: bool = field(
        default=CONFIG.lexical_embedding,
        metadata={
            "help": "that linear term goes through the decoder's output embedding: a fraction of the weights"
        },
    )
    lora_rank: int = field(
        default=CONFIG.lora_rank,
        metadata={"help": "train adapters of this rank on the frozen bases (LoRA); 0: all weights"},
    )
    lora_alpha: float = field(
        default=CONFIG.lora_alpha,
        metadata={"help": "their scale is lora_alpha / lora_rank; 0: twice the rank"},
    )
    flow_width: int = field(
        default=CONFIG.flow_width,
        metadata={
            "help": "width of a flow-matching prior, which --algorithm flow samples from (model/flow.py); 0: none"
        },
    )
    load_4bit: bool = field(
        default=False,
        metadata={
            "help": "with --lora_rank: hold the decoder's frozen layers in 4 bits while training, a quarter of bf16's memory; needs the package bitsandbytes"
        },
    )
    bf16_decoder: bool = field(
        default=False,
        metadata={
            "help": "without --lora_rank, with --optim adamw_bnb_8bit: hold the decoder's weights and gradients in bf16 while training all of them, and round updates stochastically: 6 bytes a parameter instead of 10; needs the package bitsandbytes (training/bf16_weights.py)"
        },
    )
    start_from: str | None = field(
        default=None,
        metadata={
            "help": "run, release or cvae/ folder to go on from; its architecture stays, heads and priors of new attributes start anew"
        },
    )
    user_prefix: str = field(
        default="",
        metadata={
            "help": "mark before a user turn in the text of a decoder whose tokenizer has no chat template"
        },
    )
    assistant_prefix: str = field(default="", metadata={"help": "mark before a reply"})
    turn_start: str = field(default="", metadata={"help": "text between mark and turn"})
    turn_end: str = field(default="<|endoftext|>", metadata={"help": "mark after a turn"})
    encoder_layers: int = field(
        default=0,
        metadata={
            "help": "read only the base encoder's first so many layers, which takes less time; 0: all (without --lora_rank)"
        },
    )
    scratch_encoder_layers: int = field(
        default=2, metadata={"help": "layers of an encoder trained from scratch"}
    )
    scratch_decoder_layers: int = field(
        default=3, metadata={"help": "layers of a decoder trained from scratch"}
    )
    scratch_width: int = field(default=128, metadata={"help": "their width"})
    scratch_heads: int = field(default=4, metadata={"help": "their attention heads"})
    scratch_vocab_size: int = field(default=4000, metadata={"help": "their vocabularies"})
    scratch_dropout: float = field(default=0.1, metadata={"help": "their dropout"})

    def __post_init__(self):
        at_least(
            1,
            self,
            "latent_size n_prefix head_width scratch_encoder_layers scratch_decoder_layers scratch_width scratch_heads scratch_vocab_size",
        )
        at_least(0, self, "head_layers lora_rank lora_alpha encoder_layers flow_width")
        if self.encoder_layers and self.lora_rank:
            raise InputError(
                "--encoder_layers leaves layers of a base out; adapters (--lora_rank) stand on whole ones"
            )
        if self.load_4bit and not self.lora_rank:
            raise InputError(
                "--load_4bit holds frozen weights in 4 bits; without --lora_rank all are trained"
            )
        if self.bf16_decoder and self.lora_rank:
            raise InputError(
                "--bf16_decoder is for training all weights (--lora_rank 0); with adapters the frozen ones are in bf16 on a GPU anyway"
            )
        at_least(SHORTEST, self, "encoder_length decoder_length")
        for name in ("token_dropout", "scratch_dropout"):
            within(name, getattr(self, name), 0 <= getattr(self, name) < 1, "of 0 or more and less than 1")

    @property
    def settings(self) -> dict:
        """What decides a training; an option that came later is left out at its default, so that earlier trainings count."""
        return without_defaults(self, "flow_width", "load_4bit", "bf16_decoder")

    @property
    def template(self) -> DialogueTemplate:
        """How a base decoder's text marks who speaks."""
        return DialogueTemplate(self.user_prefix, self.assistant_prefix, self.turn_start, self.turn_end)

    def scratch_size(self, layers: int) -> bases.ScratchSize:
        """The size of a transformer trained from scratch."""
        positions = max(self.encoder_length, self.decoder_length) + 2
        return bases.ScratchSize(
            layers,
            self.scratch_width,
            self.scratch_heads,
            self.scratch_vocab_size,
            positions,
            self.scratch_dropout,
        )


def read_term_weights(given: object) -> dict[str, float]:
    """``term=0.1,other=2``, or the same as a mapping; raises `InputError` for anything else."""
    weights = read_weights(given)
    if not isinstance(weights, dict):
        raise InputError(f"must be term=number,..., found {given!r:.80}")
    return weights


@dataclass(frozen=True)
class LossArguments:
    """Weights and schedules of the loss; reconstruction has weight 1. Units: see `model.losses`."""

    kl_weight: float = field(default=0.05, metadata={"help": "weight of the KL term after its ramp"})
    kl_schedule: str = field(
        default="ramp", metadata={"help": "how the KL's weight rises", "choices": KL_SCHEDULES}
    )
    kl_ramp: float = field(
        default=0.25, metadata={"help": "share of the training (of each cycle) over which it rises"}
    )
    kl_cycles: int = field(default=4, metadata={"help": "cycles of the cyclical schedule"})
    free_bits: float = field(
        default=0.05, metadata={"help": "nats per dimension that the KL term does not push below"}
    )
    classification_weight: float = field(
        default=1.0, metadata={"help": "weight of the latent heads' cross-entropy"}
    )
    distance_weight: float = field(
        default=0.1, metadata={"help": "weight of the distance between the attributes' means"}
    )
    context_weight: float = field(
        default=0.0,
        metadata={"help": "weight of language modelling on the context's tokens, for decoders from scratch"},
    )
    flow_weight: float = field(
        default=1.0,
        metadata={"help": "weight of the flow-matching prior's error, where there is one"},
    )
    term_weights: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "weights of further terms of the loss, term=number,..., see TERMS in model/losses.py",
            "read": read_term_weights,
        },
    )
    prior_combination: str = field(
        default="average",
        metadata={
            "help": "how the priors of a dialogue's attributes become one where it is labelled for several",
            "choices": COMBINATIONS,
        },
    )
    new_learning_rate: float = field(
        default=1e-3, metadata={"help": "learning rate of layers that come from no base"}
    )
    min_steps: int = field(
        default=0,
        metadata={
            "help": "at least so many steps, except with --limit: few dialogues are gone through in more epochs; 0: as many as the epochs make"
        },
    )
    precision: str = field(
        default="auto",
        metadata={"help": "auto (bf16 where the GPU has it), fp32, bf16, fp16", "choices": PRECISIONS},
    )
    recompute_tokens: int = field(
        default=0,
        metadata={
            "help": "batches of more decoder tokens, padding included, recompute its layers in the backward pass; 0: none do"
        },
    )
    graphs: bool = field(
        default=True,
        metadata={
            "help": "record training steps as CUDA graphs, on a single GPU without gradient checkpointing"
        },
    )
    shared_graphs: bool = field(
        default=True,
        metadata={
            "help": "with several GPUs too: forward and backward are graphs, the processes' sums between them (training/shared_step.py)"
        },
    )

    def __post_init__(self):
        for name in ("free_bits", *(f"{term}_weight" for term in self._named)):
            within(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "of 0 or more")
        if options := sorted({"reconstruction", *self._named} & set(self.term_weights)):
            raise InputError(f"term_weights: {options[0]} is no further term; it has a weight of its own")
        try:
            LossWeights(**self.term_weights)
        except ValueError as error:
            raise InputError(f"term_weights: {error}") from None
        within("kl_ramp", self.kl_ramp, 0 <= self.kl_ramp <= 1, "from 0 to 1")
        at_least(1, self, "kl_cycles")
        at_least(0, self, "recompute_tokens min_steps")
        within("new_learning_rate", self.new_learning_rate, 0 < self.new_learning_rate < math.inf, "over 0")

    @property
    def _named(self) -> dict[str, float]:
        """The terms that have an option of their own."""
        return {
            "kl": self.kl_weight,
            "classification": self.classification_weight,
            "distance": self.distance_weight,
            "context": self.context_weight,
            "flow": self.flow_weight,
        }

    @property
    def weights(self) -> LossWeights:
        """Of all terms, by name; the KL's after its ramp."""
        return LossWeights(
            self.free_bits,
            prior_combination=self.prior_combination,
            **self._named,
            **self.term_weights,
        )

    @property
    def settings(self) -> dict:
        """What decides a training; an option that came later is left out at its default, so that earlier trainings count."""
        settings = without_defaults(self, "term_weights", "prior_combination", "flow_weight", "min_steps")
        settings.pop("shared_graphs")  # how a step is computed, not what it is
        if self.context_weight:
            settings["context_first_token"] = "left out"  # it counted where there was padding before it
        return settings


@dataclass(frozen=True)
class FurtherArguments:
    """What is trained on beside the schema's dialogues, and what is left out."""

    further: str | None = field(
        default=None,
        metadata={
            "help": "dialogue file to train on beside the schema's, whose tags may name several attributes (training.self_training writes one)"
        },
    )
    real_share: float = field(
        default=0.0,
        metadata={
            "help": "least share of the schema's own dialogues in what is trained on; further ones over that are left out, the same number of every target. 0: none are"
        },
    )
    classify_further: bool = field(
        default=True, metadata={"help": "the latent heads learn from the further dialogues too"}
    )
    held_out: list[str] = field(
        default_factory=list,
        metadata={
            "help": "combinations of aspects that are never trained on, lyrical+optimistic+critical,...: dialogues with all those labels are left out",
            "read": read_names,
        },
    )

    def __post_init__(self):
        within("real_share", self.real_share, 0 <= self.real_share <= 1, "from 0 to 1")

    @property
    def settings(self) -> dict:
        """What decides a training; nothing where there are no further dialogues and nothing is held out."""
        return without_defaults(self, *(f.name for f in dataclasses.fields(self)))


def without_defaults(options: object, *names: str) -> dict:
    """The options of a dataclass, those of the names left out that have their defaults."""
    plain = type(options)()
    return {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in names or value != getattr(plain, name)
    }


def further_dialogues(
    options: FurtherArguments, schema: Schema, real: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """The dialogues of `FurtherArguments.further`, those that are trained on and all of them, without what is held out.

    Args:
        real: the number of the schema's own dialogues.

    Raises:
        InputError: for a mistake in the file, or a combination that the schema does not have.
    """
    held_out = schema.held_out(options.held_out)
    if options.further is None:
        return [], []
    dialogues = read_dialogues(Path(options.further), schema, labelled=True)
    kept = without_targets(dialogues, held_out)
    most = math.floor(real * (1 / options.real_share - 1) + 1e-9) if options.real_share else len(kept)
    return balanced(kept, most, lambda dialogue: target_name(dialogue.target)) if most else [], kept


def scratch_decoder(options: ModelArguments, texts: list[str]) -> tuple[GPT2Config, PreTrainedTokenizerBase]:
    """A decoder trained from scratch, whose text is marked by `SCRATCH_TEMPLATE`, and its tokenizer, trained on `texts`."""
    tokenizer = train_decoder_tokenizer(texts, options.scratch_vocab_size)
    return bases.scratch_decoder_config(
        options.scratch_size(options.scratch_decoder_layers), tokenizer
    ), tokenizer


def build(
    common: CommonArguments, options: ModelArguments, schema: Schema, dialogues: list[Dialogue]
) -> tuple[MiracleModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The model with its bases' weights, or tiny and random, and the encoder's and decoder's tokenizers.

    Raises:
        model.bases.BaseNotFound: a base is not found.
        InputError: a decoder whose cache cannot take z.
    """
    if options.start_from:
        return continued(options, schema)
    if options.lora_rank and bases.SCRATCH in (common.encoder, common.decoder):
        raise InputError("--lora_rank trains adapters on bases; an encoder or decoder from scratch has none")
    template = options.template
    texts = [text for dialogue in dialogues for text in (*dialogue.context, dialogue.response)]
    encoder = decoder = None
    if common.encoder == bases.SCRATCH:
        encoder_tokenizer = train_encoder_tokenizer(texts, options.scratch_vocab_size)
        encoder_config = bases.scratch_encoder_config(
            options.scratch_size(options.scratch_encoder_layers), encoder_tokenizer
        )
    else:
        encoder_tokenizer, encoder = (
            bases.load_tokenizer(common.encoder),
            bases.load_encoder(common.encoder, options.encoder_layers),
        )
        encoder_config = encoder.config
        bases.check_vocabulary(common.encoder, encoder_tokenizer, bases.embedding_rows(encoder))
    if common.decoder == bases.SCRATCH:
        (decoder_config, decoder_tokenizer), template = scratch_decoder(options, texts), SCRATCH_TEMPLATE
    else:
        decoder_tokenizer, decoder = (
            bases.load_decoder_tokenizer(common.decoder),
            bases.load_decoder(common.decoder),
        )
        bases.check_vocabulary(common.decoder, decoder_tokenizer, bases.embedding_rows(decoder))
        decoder_config, template = decoder.config, marks(decoder_tokenizer, template, common.decoder)
    records = {}
    if options.lora_rank:
        records = {
            kind: bases.record_of(name, base, relative_name(name), tokenizer)
            for kind, name, base, tokenizer in (
                ("encoder", common.encoder, encoder, encoder_tokenizer),
                ("decoder", common.decoder, decoder, decoder_tokenizer),
            )
        }
    names = {f.name for f in dataclasses.fields(ModelArguments)} & set(MiracleConfig().to_dict())
    config = MiracleConfig(
        encoder=_portable(encoder_config),
        decoder=_portable(decoder_config),
        attributes=schema.aspects,
        template=dataclasses.asdict(template),
        bases=records,
        **{name: getattr(options, name) for name in names},
    )
    try:
        model = MiracleModel(config)
    except (ValueError, AttributeError, TypeError, NotImplementedError) as error:
        raise InputError(" ".join(str(error).split())) from error
    try:
        model.load_bases(encoder, decoder)
        if encoder is not None:
            model.prior_encoder.check(options.encoder_length, encoder_tokenizer.pad_token_id)
    except ValueError as error:
        raise InputError(
            f"base encoder {common.encoder} ({encoder_config.model_type}): {error}; see --encoder and --encoder_length"
        ) from error
    if (
        decoder is not None
        and (positions := positions_limit(model.decoder.lm)) is not None
        and positions < options.decoder_length
    ):
        raise InputError(
            f"base decoder {common.decoder} has {positions} positions; --decoder_length is {options.decoder_length}"
        )
    return model, encoder_tokenizer, decoder_tokenizer


def continued(
    options: ModelArguments, schema: Schema
) -> tuple[MiracleModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The model of another run with this schema's attributes: heads and priors of attributes that it does not have start anew.

    Raises:
        InputError: where there is no trained CVAE.
    """
    folder = run_parts(Path(options.start_from))[1]
    source = load_cvae(folder)
    config = copy.deepcopy(source.config)
    config.attributes, config.token_dropout = schema.aspects, options.token_dropout
    config.flow_width = options.flow_width or config.flow_width
    model = MiracleModel(config)
    model.load_state_dict(inherited(source, model), strict=False)
    return model, *tokenizers_of(folder, source.config)


def in_4bit(model: MiracleModel, arguments: TrainingArguments) -> None:
    """Hold the decoder's frozen layers in 4 bits; raises `InputError` without ``bitsandbytes``, or where there are none."""
    compute = torch.bfloat16 if arguments.bf16 else torch.float32
    try:
        held = hold_in_4bit(model.decoder.lm, arguments.device, compute)
    except ModuleNotFoundError:
        raise InputError(
            "--load_4bit needs the package bitsandbytes: python -m pip install bitsandbytes"
        ) from None
    if not held:
        kind = model.config.decoder["model_type"]
        raise InputError(f"--load_4bit: a decoder of type {kind!r} has no frozen linear layers with adapters")


def check_bf16(arguments: TrainingArguments) -> None:
    """Raises `InputError` where `ModelArguments.bf16_decoder` cannot be trained: another optimizer or precision, or no ``bitsandbytes``."""
    if arguments.optim not in EIGHT_BITS:
        raise InputError(
            f"--bf16_decoder needs --optim adamw_bnb_8bit, whose step rounds stochastically; rounded to the nearest by {arguments.optim.value}, small updates would be lost"
        )
    if not arguments.bf16:
        raise InputError(
            "--bf16_decoder holds weights in bf16, and the training computes in another type; add --precision bf16"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--bf16_decoder needs the package bitsandbytes: python -m pip install bitsandbytes")


def inherited(source: MiracleModel, model: MiracleModel) -> dict[str, torch.Tensor]:
    """The weights that a model takes over from one with other attributes; an attribute is the same where its aspects are, too."""
    weights, own = source.state_dict(), model.state_dict()
    taken = {
        name: value for name, value in weights.items() if not name.startswith(("heads.", "prior.", "flow."))
    }
    before, now = (list(m.config.attributes.items()) for m in (source, model))
    if before == now and source.config.flow_width == model.config.flow_width:  # a field is of all attributes
        taken |= {name: value for name, value in weights.items() if name.startswith("flow.")}
    pairs = [(before.index(attribute), number) for number, attribute in enumerate(now) if attribute in before]
    for old, new in pairs:
        taken |= {
            name: weights[name.replace(f"heads.heads.{new}.", f"heads.heads.{old}.", 1)]
            for name in own
            if name.startswith(f"heads.heads.{new}.")
        }
    for name in ("prior.project.weight", "prior.project.bias"):
        if source.prior.shared:
            taken[name] = weights[name]
            continue
        rows, theirs = (
            own[name].unflatten(0, (len(now), -1)).clone(),
            weights[name].unflatten(0, (len(before), -1)),
        )
        for old, new in pairs:
            rows[new] = theirs[old]
        taken[name] = rows.flatten(0, 1)
    return taken


def marks(tokenizer: PreTrainedTokenizerBase, otherwise: DialogueTemplate, name: str) -> DialogueTemplate:
    """The turn marks of a base, whose tokenizer has an end of sequence; raises `InputError` for a chat template that they cannot be read off."""
    try:
        return ended(template_of(tokenizer, otherwise), tokenizer)
    except UnreadableTemplate as error:
        raise InputError(f"{name}: {error}") from error


def relative_name(base: str) -> str:
    """A base as it is recorded: a folder without the machine's part, a hub name or ``scratch`` as it is."""
    return relative(base) if Path(base).is_dir() else base


def _portable(config) -> dict:
    """A base's configuration without the path that it was loaded from."""
    settings = config.to_dict()
    settings.pop("_name_or_path", None)
    return settings


def data_record(
    schema: Schema, train: dict[str, list[Dialogue]], dev: dict[str, list[Dialogue]]
) -> list[dict]:
    """What was trained on: ``[{"attribute", "split", "file", "dialogues"}]``, the last a number."""
    return [
        {
            "attribute": attribute.name,
            "split": split,
            "file": relative(path),
            "dialogues": len(dialogues[attribute.name]),
        }
        for attribute in schema.attributes
        for split, path, dialogues in (
            ("train", attribute.dialogues, train),
            ("dev", attribute.dev_dialogues, dev),
        )
    ]


def further_record(options: FurtherArguments, dialogues: list[Dialogue]) -> list[dict]:
    """As `data_record`, of what is trained on besides."""
    if options.further is None:
        return []
    named = {"attribute": "several", "split": "train", "file": relative(options.further)}
    return [named | {"dialogues": len(dialogues)}]


OPTIONS = (CommonArguments, ModelArguments, LossArguments, FurtherArguments, TrainingArguments)


def train(
    common: CommonArguments,
    options: ModelArguments,
    loss: LossArguments,
    more: FurtherArguments,
    training: TrainingArguments,
    record: dict | None = None,
) -> None:
    """Train into ``outs/<run>/cvae``, unless that is done.

    Args:
        record: what ``stage.json`` is to say besides.

    Raises:
        InputError: for data, options or a base that cannot be used.
        model.bases.BaseNotFound: for a base that is not found.
    """
    schema = load_schema(common.schema)
    reads = {
        **dialogue_files(schema),
        "the base encoder": common.encoder,
        "the base decoder": common.decoder,
    }
    settings = {"schema": schema.aspects, "limit": common.limit}
    settings |= options.settings | loss.settings | more.settings | compared_settings(training)
    names = {key: relative_name(getattr(common, key)) for key in ("encoder", "decoder")}
    if options.start_from:
        names["start_from"] = relative(options.start_from)
        reads["the model to start from"] = run_parts(Path(options.start_from))[1]
    if more.further:
        names["further"] = relative(more.further)
        reads["the further dialogues"] = Path(more.further)
    compared = {
        name: value for name, value in settings.items() if name not in ("start_from", "further")
    }  # they count by their content
    stage = Stage(
        name="cvae",
        folder=common.run_folder / "cvae",
        inputs=Inputs.of(VERSION, compared, reads),
        record={"settings": settings | names} | (record or {}),
    )
    with stage.exclusive():
        _train(stage, schema, common, options, loss, more, training)


def _train(
    stage: Stage,
    schema: Schema,
    common: CommonArguments,
    options: ModelArguments,
    loss: LossArguments,
    more: FurtherArguments,
    training: TrainingArguments,
) -> None:
    if (record := by_first(stage.finished)) and not common.overwrite:
        print(f"cvae: already trained ({record['seconds']:.0f} s)", flush=True)
        return
    train_rows, dev_rows = (
        read_attribute_dialogues(schema, split, common.limit) for split in ("train", "dev")
    )
    train_rows = {
        name: without_targets(rows, schema.held_out(more.held_out)) for name, rows in train_rows.items()
    }
    real = sum(map(len, train_rows.values()))
    further, all_further = further_dialogues(more, schema, real)
    stage.record.update(
        data=data_record(schema, train_rows, dev_rows) + further_record(more, further),
        descriptions={a.name: a.descriptions for a in schema.attributes if a.descriptions},
    )
    training = with_steps(training, real + len(further), 0 if common.limit else loss.min_steps)
    arguments = resolved_arguments(training, stage, loss.precision, label_names=["labels"])
    if options.bf16_decoder:
        check_bf16(arguments)
    set_seed(training.seed)
    model, encoder_tokenizer, decoder_tokenizer = build(
        common,
        options,
        schema,
        [d for ds in train_rows.values() for d in ds],  # a tokenizer of its own reads these alone
    )
    if arguments.bf16 and model.config.lora_rank and arguments.device.type == "cuda":
        model.freeze_in(torch.bfloat16)
    if options.load_4bit:
        in_4bit(model, arguments)
    if options.bf16_decoder:
        if model.config.lora_rank:
            raise InputError(
                "--bf16_decoder trains all weights; the model that --start_from names has adapters"
            )
        hold_in_bf16(model.decoder.lm)
    if loss.recompute_tokens and not arguments.gradient_checkpointing:
        checkpoint_layers(model.decoder.lm, loss.recompute_tokens)
    template = DialogueTemplate(**model.config.template)
    how = (
        encoder_tokenizer,
        decoder_tokenizer,
        template,
        options.encoder_length,
        options.decoder_length,
        options.use_context,
    )
    # a flow's weights would need gradients between the two graphs
    shared_graphs = loss.shared_graphs and model.flow is None
    graphs = loss.graphs and can_record(arguments) and (shared_graphs or not several())
    if not graphs and several() and arguments.device.type == "cuda" and loss.graphs:
        print(NOT_RECORDED, flush=True)
    trainer = CvaeTrainer(
        model=model,
        args=arguments,
        train_dataset=cvae_dataset(
            {name: released(rows) for name, rows in train_rows.items()},
            schema,
            *how,
            further=further,
            classify_further=more.classify_further,
        ),
        eval_dataset=cvae_dataset(dev_rows, schema, *how),
        data_collator=CvaeCollator(
            encoder_tokenizer.pad_token_id,
            decoder_tokenizer.pad_token_id,
            SHAPES if graphs else 1,
            options.encoder_length,
        ),
        stage=stage.name,
        tokenizers={
            "context_ids": encoder_tokenizer,
            "posterior_ids": encoder_tokenizer,
            "decoder_ids": decoder_tokenizer,
        },
        graphs=graphs,
        settings=loss,
        new_learning_rate=loss.new_learning_rate,
    )
    del train_rows, dev_rows  # from here on their token ids are enough
    millions, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or every) / 1e6
        for every in (True, False)
    )
    adapters = (
        f", {trained:.1f} M of them trained (adapters of rank {model.config.lora_rank})"
        if model.config.lora_rank
        else ""
    )
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    shared = f", {rows} of them a step in {arguments.world_size} processes" if several() else ""
    print(
        f"cvae: {millions:.1f} M parameters{adapters}, {len(trainer.train_dataset)} training dialogues{shared}",
        flush=True,
    )
    if more.further:
        print(
            f"cvae: {len(further)} of {len(all_further)} further dialogues beside {real} of the schema's",
            flush=True,
        )
    seconds = run_trainer(trainer, stage)
    memory = memory_used()
    held = f", {memory['held']:.1f} GB" if memory else ""
    metrics = {key.removeprefix("eval_"): value for key, value in trainer.final_metrics().items()} | (
        {"memory_gb": memory} if memory else {}
    )

    def save(folder: Path) -> None:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        decoder_tokenizer.save_pretrained(folder)
        encoder_tokenizer.save_pretrained(folder / ENCODER_TOKENIZER)
        metrics["hash"] = bases.weights_hash(folder)
        metrics["history"] = trainer.state.log_history

    by_first(lambda: stage.finish(save, metrics, seconds, load_cvae))
    print(
        f"cvae: dev reconstruction {metrics['reconstruction']:.3f} nats/token, KL {metrics['kl_unclamped']:.1f} nats, latent heads "
        f"{metrics['head_accuracy']:.3f} on posterior and {metrics['prior_head_accuracy']:.3f} on prior samples, {seconds:.0f} s{held} -> {stage.folder}",
        flush=True,
    )
    for line in posterior_warnings(metrics) + head_warnings(metrics, schema.aspects):
        print(f"warning: {line}", flush=True)
