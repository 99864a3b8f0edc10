"""model/bases.py and what train_cvae.py builds on: bases of many families, or one line with what is missing."""

import dataclasses

import pytest
import torch
from conftest import TEXTS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
)

from baselines.language_model import PlainDecoder
from common.errors import InputError
from common.options import CommonArguments
from dataset.dialogues import Dialogue
from dataset.encoding import DialogueTemplate, encode_contexts, encode_for_decoder, encode_texts, ended
from generation.decoding import generate
from model import bases
from model.cvae import MiracleModel
from model.decoder import LatentDecoder, position_offset, positions_limit
from training import cvae as cvae_training

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 80, "dim": 32, "n_layers": 2,
    "n_heads": 4, "hidden_dim": 48, "d_model": 32, "num_layers": 2, "d_kv": 8, "num_heads": 4, "d_ff": 48, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "embedding_size": 32, "attention_window": 8,
    "num_groups": 1, "n_layer": 2, "n_head": 4, "n_embd": 32, "head_dim": 8, "num_key_value_heads": 2, "block_size": 4, "num_random_blocks": 1,
    "true_hidden_size": 32, "intra_bottleneck_size": 32,
}  # fmt: skip
FAMILIES = (
    "camembert",
    "albert",
    "mpnet",
    "xlm-roberta-xl",
    "rembert",
    "distilbert",
    "deberta-v2",
    "t5",
    "bart",
    "gpt2",
)


def tiny_config(kind, vocab_size, **changes):
    default = AutoConfig.for_model(kind)
    known = {*default.to_dict(), *getattr(type(default), "attribute_map", {})}
    return AutoConfig.for_model(
        kind,
        **{k: v for k, v in SIZES.items() if k in known}
        | {"vocab_size": vocab_size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        | changes,
    )


@pytest.fixture(scope="module")
def plain_tokenizer(tmp_path_factory):
    """A function that makes a word tokenizer with the special tokens named."""

    def make(*others, **special):
        words = [
            *dict.fromkeys(special.values()),
            *others,
            *sorted({word for text in TEXTS for word in text.split()}),
        ]
        tokenizer = Tokenizer(
            models.WordLevel(
                {word: number for number, word in enumerate(words)}, unk_token=special.get("unk_token")
            )
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)

    return make


@pytest.fixture
def saved(tmp_path):
    """Saves a model with a tokenizer, and returns the folder's name."""

    def save(model, tokenizer, name="base"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def built(three, encoder=bases.SCRATCH, decoder=bases.SCRATCH, **options):
    dialogues = [Dialogue("0", (TEXTS[0],), TEXTS[1], {}), Dialogue("1", (TEXTS[3],), TEXTS[4], {})]
    common = dataclasses.replace(CommonArguments(), encoder=encoder, decoder=decoder)
    small = {
        "latent_size": 8,
        "encoder_length": 48,
        "decoder_length": 48,
        "scratch_width": 32,
        "scratch_vocab_size": 300,
    }
    return cvae_training.build(common, cvae_training.ModelArguments(**small | options), three, dialogues)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_encoder_of_any_family_is_taken_over_and_comes_back(
    kind, three, saved, encoder_tokenizer, tmp_path
):
    """CamemBERT and all others with a pooling layer but BERT, RoBERTa and XLM-R ended in a traceback."""
    torch.manual_seed(0)
    base = AutoModel.from_config(tiny_config(kind, len(encoder_tokenizer))).eval()
    model, tokenizer, _ = built(three, encoder=saved(base, encoder_tokenizer))
    row = encode_contexts(tokenizer, [(TEXTS[0],)], None, 48)[0]
    ids = torch.tensor([row["input_ids"]])
    source = base.get_encoder() if base.config.is_encoder_decoder else base
    with torch.no_grad():
        expected = source(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
        torch.testing.assert_close(
            model.eval().prior_encoder(ids, torch.ones_like(ids)), expected, atol=1e-5, rtol=1e-4
        )
        model.save_pretrained(tmp_path / "cvae")
        again = MiracleModel.from_pretrained(tmp_path / "cvae").eval()
        torch.testing.assert_close(
            again.encode_prior(ids, torch.ones_like(ids)).mean,
            model.encode_prior(ids, torch.ones_like(ids)).mean,
        )


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("fnet", {}, "padding changes what it says of a text"),
        (
            "camembert",
            {"encoder_length": 80},
            "it cannot read 80 tokens; it has 80 positions",
        ),  # two rows of the table are the padding's
        ("bert", {"encoder_length": 128}, "it cannot read 128 tokens; it has 80 positions"),
    ],
)
def test_an_encoder_that_cannot_serve_is_one_line(kind, options, says, three, saved, encoder_tokenizer):
    name = saved(AutoModel.from_config(tiny_config(kind, len(encoder_tokenizer))), encoder_tokenizer)
    with pytest.raises(InputError, match=f"base encoder .* \\({kind}\\): .*{says}"):
        built(three, encoder=name, **options)


def test_an_encoder_without_cls_and_sep_is_read_with_its_own_marks(plain_tokenizer):
    both = plain_tokenizer(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    row = encode_contexts(both, [("Keep the", "dough warm")], ["and wait"], 48)[0]
    assert both.convert_ids_to_tokens(row["input_ids"]) == [
        "<s>",
        "Keep",
        "the",
        "</s>",
        "dough",
        "warm",
        "</s>",
        "and",
        "wait",
        "</s>",
    ]
    assert row["token_type_ids"] == [0] * 7 + [1] * 3
    only = plain_tokenizer(eos_token="</s>", unk_token="<unk>")
    row = encode_contexts(only, [("Keep the",)], ["and wait another hour."], 6)[0]
    assert only.convert_ids_to_tokens(row["input_ids"]) == ["</s>", "and", "wait", "another", "hour.", "</s>"]
    for encode in (
        lambda tokenizer: encode_contexts(tokenizer, [("Keep",)], None, 9),
        lambda tokenizer: encode_texts(tokenizer, ["Keep"], 9),
    ):
        with pytest.raises(InputError, match="end-of-sequence token"):
            encode(plain_tokenizer(unk_token="<unk>"))


def gpt2(vocab_size, **changes):
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=2, n_positions=96, **changes)
    )


@pytest.mark.parametrize(
    ("special", "end"),
    [
        (
            {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
            "[SEP]",
        ),  # BERT's, of many Chinese GPT-2s
        ({"eos_token": "<eos>"}, "<eos>"),
        ({"bos_token": "<|endoftext|>"}, "<|endoftext|>"),
    ],
)
def test_a_decoder_without_an_end_of_sequence_token_ends_with_what_it_has(
    special, end, three, saved, plain_tokenizer
):
    tokenizer = plain_tokenizer(unk_token="[UNK]", **special)
    model, _, found = built(three, decoder=saved(gpt2(len(tokenizer)), tokenizer))
    assert found.eos_token == end and found.pad_token_id is not None
    template = DialogueTemplate(**model.config.template)
    row = encode_for_decoder(found, template, [("Keep the", "dough", "warm")], ["and wait"], 48)[0]
    assert found.convert_ids_to_tokens(row["input_ids"]) == [
        "Keep",
        "the",
        end,
        "dough",
        end,
        "warm",
        end,
        "and",
        "wait",
        end,
    ]


def test_a_decoder_that_cannot_end_is_one_line(three, saved, plain_tokenizer):
    tokenizer = plain_tokenizer(unk_token="[UNK]")
    with pytest.raises(
        bases.BaseNotFound,
        match="has no end-of-sequence token, no separator and none of .* set eos_token in its tokenizer_config.json",
    ):
        built(three, decoder=saved(gpt2(len(tokenizer)), tokenizer))


def test_a_template_of_one_s_own_stays(plain_tokenizer):
    tokenizer = plain_tokenizer(eos_token="<eos>", unk_token="[UNK]")
    assert (
        ended(DialogueTemplate(turn_end="\n"), tokenizer).turn_end == "\n"
        and ended(DialogueTemplate(), tokenizer).turn_end == "<eos>"
    )


def test_a_tokenizer_of_another_model_is_one_line_and_padding_without_an_embedding_none(
    three, saved, decoder_tokenizer
):
    with pytest.raises(
        bases.BaseNotFound, match="its tokenizer has tokens up to number 319, the model has 200 embeddings"
    ):
        built(three, decoder=saved(gpt2(200), decoder_tokenizer))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=decoder_tokenizer.backend_tokenizer, eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    _, _, found = built(three, decoder=saved(gpt2(len(tokenizer) - 1), tokenizer))
    assert found.pad_token == "<eos>"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": "{}"},
        {"config.json": "not json"},
        {"config.json": '{"model_type": "no-such"}'},
        {"config.json": '{"model_type": "gpt2"}', "model.safetensors": "broken"},
    ],
)
def test_a_folder_that_is_no_checkpoint_is_one_line(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for load in (bases.load_decoder, bases.load_encoder):
        with pytest.raises(bases.BaseNotFound, match="cannot be loaded: [^\n]+$"):
            load(str(tmp_path))


def test_too_few_positions_are_one_line(three, saved, decoder_tokenizer):
    with pytest.raises(InputError, match="has 96 positions; --decoder_length is 112"):
        built(three, decoder=saved(gpt2(len(decoder_tokenizer)), decoder_tokenizer), decoder_length=112)


@pytest.mark.parametrize("kind", ["roberta", "opt", "gpt2"])
def test_positions_are_those_that_the_model_was_trained_with(kind):
    """RoBERTa's position table begins two rows later than BERT's and GPT-2's; OPT adds its offset itself."""
    torch.manual_seed(0)
    if kind == "roberta":
        lm = RobertaForCausalLM(
            RobertaConfig(
                vocab_size=60,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=40,
                is_decoder=True,
                initializer_range=0.3,
            )
        )
    else:
        lm = AutoModelForCausalLM.from_config(
            tiny_config(
                kind,
                60,
                max_position_embeddings=40,
                **(
                    {"word_embed_proj_dim": 32, "ffn_dim": 48, "pad_token_id": 1}
                    if kind == "opt"
                    else {"n_positions": 40}
                ),
            )
        )
    lm.eval()
    assert (position_offset(lm), positions_limit(lm)) == ((2, 38) if kind == "roberta" else (0, 40))
    ids = torch.randint(5, 60, (2, 9))
    with torch.no_grad():
        found = PlainDecoder(lm).forward(ids, torch.ones_like(ids), torch.arange(2))
        torch.testing.assert_close(found, lm(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    decoder = LatentDecoder(lm.config.to_dict(), 8, 2, 0.0).eval()
    z, room = torch.randn(1, 8), positions_limit(lm)
    written = generate(
        decoder,
        z,
        ids[:1],
        torch.ones_like(ids[:1]),
        eos_token_id=10**6,
        pad_token_id=1,
        max_new_tokens=room - 9,
    )[0]
    assert len(written) == room - 9
    whole = torch.cat([ids[:1], torch.tensor([written])], dim=1)
    with torch.no_grad():
        logits = decoder(whole, torch.ones_like(whole), z)
    assert logits[0, 8:-1].argmax(-1).tolist() == written


def test_an_evaluator_s_base_with_too_few_positions_is_one_line():
    from transformers import AlbertForSequenceClassification

    from training.evaluators import check_length

    model = AlbertForSequenceClassification(
        AlbertConfig(**{k: v for k, v in SIZES.items() if k in AlbertConfig().to_dict()}, vocab_size=60)
    )
    check_length(model, 80)
    with pytest.raises(
        InputError, match=r"the base \(albert, 80 positions\) cannot read 81 tokens; lower --max_length"
    ):
        check_length(model, 81)
