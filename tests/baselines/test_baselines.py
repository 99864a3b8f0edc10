"""baselines/: tiny models on a toy schema whose every aspect has its own word."""

import json
import sys
from dataclasses import asdict, replace

import pytest
import torch
from conftest import decoder_settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from baselines.fudge import Fudge, Guidance, GuidedDecoder
from baselines.guides import Guide, Guided, classify, guides, sample_name
from baselines.language_model import DialogueCollator, LanguageModel, PlainDecoder, reply_loss, uncontrolled
from baselines.prefix_tuning import PrefixDecoder, Prefixes, PrefixTuning, combine
from baselines.registry import METHODS, TrainingSetting
from baselines.rerank import Rerank
from baselines.steering import SteeredDecoder, Steering, directions, layers_of, mean_states
from common.errors import InputError
from common.schema import Attribute, Schema
from dataset.batching import pad_inputs
from dataset.encoding import IGNORED, encode_for_decoder
from dataset.tokenizers import SCRATCH_TEMPLATE, train_decoder_tokenizer
from experiments.baseline import BaselineKind, Trained
from generation import token_choice as choice
from generation.decoding import DecodingState, Rules, generate
from generation.options import DecodingArguments
from generation.requests import Request
from model.encoder import encoder_config as config_from

MARKERS = {"plain": "brick", "lyrical": "moon", "calm": "pond", "angry": "fire", "sad": "rain"}
THINGS = ("bread", "soup", "tea", "fish", "cake", "rice")
HOW = DecodingArguments(max_new_tokens=8, batch_size=16)
SAMPLED = replace(HOW, decoding="top_p", top_p=0.95)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """For products this small a second thread costs more than it brings, most of all where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Replies "yes the <thing> <marker> well", each labelled for one attribute; the other attribute's words are not in it."""
    folder, attributes = tmp_path_factory.mktemp("toy"), []
    for name, aspects in {"style": ("plain", "lyrical"), "mood": ("calm", "angry", "sad")}.items():
        rows = [
            {"input": [f"shall I have {thing} {when} ?"], "output": [f"yes the {thing} {MARKERS[aspect]} {end}"], "tag": aspect}
            for thing in THINGS for when in ("now", "later") for end in ("well", "again") for aspect in aspects
        ]  # fmt: skip
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        attributes.append(Attribute(name, aspects, dialogues=path, dev_dialogues=path))
    tokenizer = train_decoder_tokenizer(
        [
            f"yes the {t} {m} well again shall I have {t} now later ?"
            for t in THINGS
            for m in MARKERS.values()
        ],
        400,
    )
    torch.manual_seed(0)
    sizes = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 48,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), initializer_range=0.15, bos_token_id=0, eos_token_id=0, **sizes)
    )
    return TrainingSetting(
        Schema(tuple(attributes)), (lm, tokenizer), SCRATCH_TEMPLATE, torch.device("cpu"), epochs=16, batch_size=16, learning_rate=4e-3,
        prefix_learning_rate=2e-2, adapter_learning_rate=2e-2, lora_rank=4, guide_epochs=16, prefix_length=3, decoder_length=40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared():
    """What the methods of this module share."""
    return {}


def requests(*targets, things=THINGS):
    return [
        Request(str(number), (f"shall I have {thing} now ?",), target)
        for number, thing in enumerate(things)
        for target in targets
    ]


SINGLE = [{"style": aspect} for aspect in ("plain", "lyrical")] + [
    {"mood": aspect} for aspect in ("calm", "angry", "sad")
]
BOTH = [{"style": "lyrical", "mood": "sad"}, {"style": "plain", "mood": "angry"}]


def says_marker(asked, replies):
    """Share of the replies that have the marker of a named aspect, and share that has another one of the same attribute."""
    own = [
        any(MARKERS[aspect] in reply.split() for aspect in request.target.values())
        for request, reply in zip(asked, replies)
    ]
    siblings = [
        {"plain", "lyrical"} if "style" in request.target else {"calm", "angry", "sad"} for request in asked
    ]
    others = [
        any(MARKERS[a] in reply.split() for a in of - set(request.target.values()))
        for request, reply, of in zip(asked, replies, siblings)
    ]
    return sum(own) / len(own), sum(others) / len(others)


@pytest.fixture(scope="module")
def plain(setting, shared):
    return METHODS["uncontrolled"].train(setting, shared)


# --- an adapter per aspect -------------------------------------------------------------------------------------------------


def test_an_adapter_learns_its_aspect_and_merged_ones_say_both(setting, shared, plain):
    pytest.importorskip("peft")
    method = once_trained("lora_per_aspect", setting, shared)
    own, others = says_marker(single := requests(*SINGLE), method.write(single, HOW, 1.0, 0))
    assert own > 0.9 and others < 0.1
    both = requests(*BOTH)
    replies = method.write(both, HOW, 1.0, 0)
    assert all(
        any(MARKERS[aspect] in reply.split() for aspect in request.target.values())
        for request, reply in zip(both, replies)
    )
    assert method.write(single, HOW, 0.0, 0) == plain.write(single, HOW, 1.0, 0)  # no weight, no adapter
    assert method.write(requests({}), HOW, 1.0, 0) == plain.write(requests({}), HOW, 1.0, 0)


def test_merged_weights_are_the_base_s_and_the_strength_times_each_adapter_s_change(setting, shared, plain):
    pytest.importorskip("peft")
    method = once_trained("lora_per_aspect", setting, shared)
    name = "transformer.h.0.attn.c_attn.weight"
    base, layer = plain.model.lm.state_dict()[name], method.adapted.base_model.model.transformer.h[0].attn.c_attn  # fmt: skip
    changes = [layer.get_delta_weight(f"aspect_{aspect}") for aspect in ("lyrical", "sad")]
    merged = method.merged(["lyrical", "sad"], 0.5, "cat").state_dict()[name]
    torch.testing.assert_close(merged, base + 0.5 * sum(changes), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(method.merged(["lyrical", "sad"], 0.5, "linear").state_dict()[name], merged)
    assert torch.equal(plain.model.lm.state_dict()[name], base)  # the language model that others stand on
    assert [*method.adapted.peft_config] == [f"aspect_{aspect}" for aspect in MARKERS]


def test_adapters_refuse_what_cannot_be(setting, shared):
    pytest.importorskip("peft")
    method = once_trained("lora_per_aspect", setting, shared)
    with pytest.raises(InputError, match="strength must be 0 or more, found -1"):
        method.write(requests({}), HOW, -1, 0)
    with pytest.raises(InputError, match=r"combination must be one of \('cat', 'linear'\), found 'svd'"):
        method.write(requests({}), HOW, 1.0, 0, combination="svd")


# --- the language model ---------------------------------------------------------------------------------------------------


def test_the_base_given_is_left_as_it_is_and_the_copy_learns(setting, plain):
    fresh = setting.base()[0].state_dict()
    assert not torch.equal(
        fresh["transformer.wte.weight"], plain.model.lm.state_dict()["transformer.wte.weight"]
    )
    replies = plain.write(requests({}), HOW, 1.0, 0)
    assert [reply.split()[:3] for reply in replies] == [["yes", "the", thing] for thing in THINGS]


def test_the_loss_is_that_of_transformers_and_a_weight_adds_the_contexts(plain):
    """Padded on the left here, unpadded there; the contexts' first tokens have nothing before them."""
    lm, rows = plain.model.lm, [([4, 5, 6, 7, 8, 0], 3), ([9, 10, 11], 1)]
    encoded = [{"input_ids": ids, "labels": [-100] * start + ids[start:], "aspect": 0} for ids, start in rows]
    batch = DialogueCollator(plain.model.tokenizer.pad_token_id)(encoded)
    with torch.no_grad():
        nats = [
            -lm(torch.tensor([ids]))
            .logits.log_softmax(-1)[0, :-1]
            .gather(1, torch.tensor(ids[1:]).unsqueeze(1))
            .squeeze(1)
            for ids, _ in rows
        ]
        reply = torch.cat([loss[start - 1 :] for loss, (_, start) in zip(nats, rows)]).mean()
        torch.testing.assert_close(reply_loss(PlainDecoder(lm), batch), reply)
        longest = DialogueCollator(plain.model.tokenizer.pad_token_id)(
            encoded[:1]
        )  # alone: in the batch a padding token precedes the short one
        torch.testing.assert_close(
            reply_loss(PlainDecoder(lm), longest, 0.5), nats[0][2:].mean() + 0.5 * nats[0][:2].mean()
        )


def test_greedy_is_what_transformers_generates(plain):
    model, asked = plain.model, requests({}, things=("bread", "tea"))
    rows = encode_for_decoder(
        model.tokenizer,
        model.template,
        [(*r.context, "yes", *r.context) if r.id == "1" else r.context for r in asked],
        None,
        40,
    )
    batch = pad_inputs(rows, model.tokenizer.pad_token_id, side="left")
    options = {"do_sample": False, "no_repeat_ngram_size": 0, "pad_token_id": model.tokenizer.pad_token_id}
    tokens = model.lm.generate(
        **batch, max_new_tokens=8, eos_token_id=model.tokenizer.eos_token_id, **options
    )[:, batch["input_ids"].shape[1] :]
    expected = [
        " ".join(text.split()) for text in model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ]
    asked[1] = replace(asked[1], context=(*asked[1].context, "yes", *asked[1].context))
    assert plain.write(asked, HOW, 1.0, 0) == expected


def test_writing_in_bf16_leaves_the_weights_in_fp32(plain):
    before = plain.model.lm.transformer.wte.weight.clone()
    assert plain.write(requests({}), replace(HOW, precision="bf16"), 1.0, 0)[0].startswith("yes")
    assert plain.model.lm.dtype == torch.float32 and torch.equal(
        plain.model.lm.transformer.wte.weight, before
    )


def test_a_context_s_cut_depends_on_itself_alone_and_is_said(plain):
    """One long front in the call shortened the prompts of all."""
    long = tuple(["tell me more about the bread and the rain and the sea"] * 9)
    alone, how = requests({})[0], replace(HOW, max_new_tokens=20)
    crowded = replace(alone, context=long)
    front = [[1, 2, 3, 4, 5, 6]]
    for before in (None, []):
        fronts = None if before is None else [before, *front]
        assert (
            plain.model.write([alone, crowded], how, 0, before=fronts)[0]
            == plain.model.write([alone], how, 0, before=None if before is None else [before])[0]
        )
    found = plain.model.cuts([alone, crowded], how)
    assert found[0] is None and found[1].turns > 0


def test_a_reply_longer_than_the_positions_is_refused(plain):
    with pytest.raises(
        InputError, match="--max-new-tokens 48 leaves no room for the context; the decoder has 48 positions"
    ):
        plain.write(requests({}), replace(HOW, max_new_tokens=48), 1.0, 0)


# --- methods that learn ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codes(setting, shared):
    return METHODS["control_codes"].train(setting, shared)


def test_control_codes_write_the_marker_that_is_asked_for(codes):
    asked = requests(*SINGLE)
    own, others = says_marker(asked, codes.write(asked, HOW, 1.0, 0))
    assert own > 0.9 and others < 0.1
    assert sorted(codes.codes) == sorted(MARKERS) and len(set(codes.codes.values())) == 5


def test_control_codes_stand_in_front_in_schema_order(codes, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        type(codes.model),
        "write",
        lambda self, asked, how, seed, before: seen.update(before=before) or [""] * len(asked),
    )
    codes.write(requests(*BOTH, {}, {"mood": "calm", "style": "plain"}, things=("tea",)), HOW, 1.0, 0)
    number = codes.codes
    assert seen["before"] == [
        [number["lyrical"], number["sad"]],
        [number["plain"], number["angry"]],
        [],
        [number["plain"], number["calm"]],
    ]


def test_a_code_in_a_users_text_is_plain_text(codes):
    lyrical = codes.codes["lyrical"]
    row = encode_for_decoder(
        codes.model.tokenizer, codes.model.template, [("have <|lyrical|> tea",)], None, 40
    )[0]
    assert lyrical not in row["input_ids"] and codes.model.tokenizer.decode([lyrical]) == "<|lyrical|>"


@pytest.fixture(scope="module")
def tuned(setting, shared, plain):
    pytest.importorskip("peft")
    before = {name: value.clone() for name, value in plain.model.lm.state_dict().items()}
    method = PrefixTuning.train(setting, shared)
    assert all(
        torch.equal(value, before[name]) for name, value in plain.model.lm.state_dict().items()
    )  # the language model is frozen
    return method


def test_prefixes_write_the_marker_that_is_asked_for(tuned):
    asked = requests(*SINGLE)
    own, others = says_marker(asked, tuned.write(asked, HOW, 1.0, 0))
    assert own > 0.9 and others < 0.1


def test_averaged_prefixes_are_the_mean_of_keys_and_values(tuned):
    prefixes = tuned.prefixes()
    both = combine(prefixes, torch.tensor([[1, 4], [-1, 2], [-1, -1]]), "average")
    torch.testing.assert_close(both[0], (prefixes[1] + prefixes[4]) / 2)
    assert torch.equal(both[1], prefixes[2]) and not both[2].any()
    side_by_side = combine(prefixes, torch.tensor([[1, 4]]), "concatenate")
    assert torch.equal(side_by_side[0], torch.cat([prefixes[1], prefixes[4]]))


@pytest.mark.parametrize("combination", ["average", "concatenate"])
def test_an_attribute_that_is_not_named_adds_nothing(tuned, combination):
    """One named aspect gives that aspect's prefix, none gives the language model as it is, in both combinations."""
    lm, prefixes = tuned.model.lm, tuned.prefixes().detach()
    ids = torch.tensor([[5, 6, 7, 8]])
    mask, row = torch.ones_like(ids), torch.tensor([0])

    def logits(chosen, combination):
        decoder = PrefixDecoder(lm, lambda: prefixes, torch.tensor([chosen]), combination)
        return decoder.forward(ids, mask, row)

    torch.testing.assert_close(logits([-1, 3], combination), logits([3], "average"))
    torch.testing.assert_close(logits([-1, -1], combination), lm(input_ids=ids).logits)
    assert (logits([-1, 3], combination) - lm(input_ids=ids).logits).abs().max() > 0.1


def test_concatenated_prefixes_write_other_replies(tuned):
    asked = requests(*BOTH)
    replies = tuned.write(asked, HOW, 1.0, 0, combination="concatenate")
    assert len(replies) == len(asked) and replies != tuned.write(asked, HOW, 1.0, 0)
    with pytest.raises(
        InputError, match=r"combination must be one of \('average', 'concatenate'\), found 'sum'"
    ):
        tuned.write(asked, HOW, 1.0, 0, combination="sum")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_prefix_starts_as_keys_and_values_of_words(kind):
    """Behind it the model goes on as behind the words themselves; with rotary positions up to where the text is."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config_from(decoder_settings(kind))).eval()
    prefixes = Prefixes(lm.config, 3, 2)
    prefixes.start_from(lm, 1, [5, 6, 7])
    decoder, row = PrefixDecoder(lm, prefixes, torch.tensor([[1]])), torch.tensor([0])
    cache, reference = (
        decoder.start_cache(row, 4),
        lm(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values,
    )
    for own, expected in zip(cache.layers, reference.layers):
        torch.testing.assert_close(own.keys[:, :, :3], expected.keys)
        torch.testing.assert_close(own.values[:, :, :3], expected.values)


def test_without_peft_one_line_says_what_to_install(setting, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        InputError, match="prefix tuning needs peft, which is not installed: pip install peft"
    ):
        PrefixTuning.train(setting, {})


# --- guides, FUDGE and reranking ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fudge(setting, shared):
    return Fudge.train(setting, shared)


def probability(method, asked, replies):
    """Mean over replies and named attributes of the guides' P(aspect | whole reply)."""
    targets = torch.tensor([method.schema.target_indices(request.target) for request in asked])
    predicted = [classify(guide, method.model, replies).exp() for guide in method.guides]
    own = [
        predicted[k][row, index]
        for row, target in enumerate(targets.tolist())
        for k, index in enumerate(target)
        if index >= 0
    ]
    return float(torch.stack(own).mean())


def test_guides_hear_the_marker(fudge):
    for guide, aspects in zip(fudge.guides, (("plain", "lyrical"), ("calm", "angry", "sad"))):
        predicted = classify(
            guide, fudge.model, [f"yes the tea {MARKERS[aspect]} well" for aspect in aspects]
        )
        assert predicted.argmax(1).tolist() == list(range(len(aspects))) and torch.allclose(
            predicted.exp().sum(1), torch.ones(len(aspects))
        )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_candidates_are_classified_as_if_each_were_written(kind):
    """The one masked pass against its definition: one full forward pass per candidate, over several steps of one cache."""
    torch.manual_seed(0)
    guide = Guide(AutoModelForCausalLM.from_config(config_from(decoder_settings(kind))), 3).eval()
    written, cache = torch.tensor([[5, 6], [5, 6]]), guide.start_cache(2, 4, 5)
    read = written
    with torch.no_grad():
        for step in range(3):
            tokens = torch.tensor([[10, 11, 12, 13], [20, 11, 22, 23]]) + step
            found = guide.candidates(read, tokens, cache)
            for k in range(4):
                whole = torch.cat([written, tokens[:, k : k + 1]], dim=1)
                torch.testing.assert_close(found[:, k], guide(whole, torch.ones_like(whole))[:, -1])
            read = tokens[:, 2:3]
            written = torch.cat([written, read], dim=1)
    assert cache.read.tolist() == [4]


def test_padding_does_not_change_a_verdict(fudge):
    long, short = "yes the bread moon well again yes the bread", "moon"
    torch.testing.assert_close(
        classify(fudge.guides[0], fudge.model, [long, short])[1:],
        classify(fudge.guides[0], fudge.model, [short]),
    )


@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 1}, {"repetition_penalty": 1.4}])
def test_fudge_without_strength_is_plain_decoding(fudge, plain, options):
    asked, how = requests(*BOTH), replace(HOW, **options)
    assert fudge.write(asked, how, 0.0, 0) == plain.write(asked, how, 0.0, 0)


def test_fudge_with_strength_convinces_the_guides(fudge):
    asked = requests(*SINGLE, *BOTH)
    before, after = (fudge.write(asked, HOW, strength, 0) for strength in (0.0, 8.0))
    assert probability(fudge, asked, before) < 0.6 and probability(fudge, asked, after) > 0.9
    own, others = says_marker(requests(*SINGLE), fudge.write(requests(*SINGLE), HOW, 8.0, 0))
    assert own > 0.8 and others < 0.1


def test_fudge_takes_the_sample_that_its_guides_like_best(fudge):
    asked, how = requests(*SINGLE), replace(HOW, decoding="top_p", temperature=2.0)
    one, several = (fudge.write(asked, how, 1.0, 0, n=n) for n in (1, 6))
    assert probability(fudge, asked, several) > probability(fudge, asked, one) and several != one
    with pytest.raises(
        InputError,
        match="fudge: n must be at least 1, and 1 where decoding is not top_p; found 2 with greedy",
    ):
        fudge.write(asked, HOW, 1.0, 0, n=2)


def test_one_candidate_leaves_no_choice(fudge, plain):
    asked = requests(*BOTH)
    assert fudge.write(asked, HOW, 50.0, 0, candidates=1) == plain.write(asked, HOW, 1.0, 0)
    with pytest.raises(InputError, match="fudge: candidates must be at least 1, found 0"):
        fudge.write(asked, HOW, 1.0, 0, candidates=0)


def test_where_all_candidates_are_banned_the_best_other_token_is_written():
    """A random model repeats itself, which an n-gram ban forbids; with one candidate the ban leaves none."""
    torch.manual_seed(0)
    lm, ids = (
        AutoModelForCausalLM.from_config(config_from(decoder_settings("gpt2"))).eval(),
        torch.tensor([[5, 6, 7]]),
    )

    def written(decoder, **options):
        settings = {"eos_token_id": 10**6, "pad_token_id": 319, "max_new_tokens": 20} | options
        return generate(decoder, torch.tensor([0]), ids, torch.ones_like(ids), **settings)[0]

    guided = GuidedDecoder(lm, Guidance([], [5], torch.zeros(1, 0, dtype=torch.long), 1.0, 1))
    assert written(guided) == written(PlainDecoder(lm)) and len(set(written(guided))) < 20
    assert written(guided, no_repeat_ngram_size=1) == written(PlainDecoder(lm), no_repeat_ngram_size=1)


def test_targets_that_name_nothing_are_not_guided(fudge, plain):
    asked = requests({}, {"mood": "sad"})
    replies = fudge.write(asked, HOW, 8.0, 0)
    assert replies[::2] == plain.write(asked, HOW, 1.0, 0)[::2] and all(
        "rain" in reply for reply in replies[1::2]
    )


def test_best_of_one_is_the_sample_and_best_of_many_convinces_the_guides(setting, shared, plain):
    rerank, asked = Rerank.train(setting, shared), requests(*BOTH)
    one, many = (rerank.write(asked, HOW, 1.0, 3, n=n) for n in (1, 12))
    assert one == plain.write(asked, replace(HOW, decoding="top_p"), 1.0, 3)
    assert probability(rerank, asked, many) > probability(rerank, asked, one) + 0.1
    with pytest.raises(InputError, match="rerank: n must be at least 1, found 0"):
        rerank.write(asked, HOW, 1.0, 3, n=0)


def test_an_empty_reply_is_the_last_choice(fudge):
    asked = requests(*BOTH)
    assert fudge.choose(
        asked, [[" "] * len(asked), ["no"] * len(asked), [""] * len(asked)], HOW, 0.5, 0.5
    ) == ["no"] * len(asked)


@pytest.mark.parametrize("name", ["fudge", "rerank"])
def test_cells_that_only_choose_differently_share_their_samples(name, setting, shared, monkeypatch):
    """And their scores: neither what the guides predict nor a likelihood is found twice, or before a cell asks for it."""
    method, asked, how = once_trained(name, setting, shared), requests(*BOTH), replace(HOW, decoding="top_p")
    system, options, done = (
        Trained(method, 3, 1.0, 0.0, torch.device("cpu")),
        asdict(how) | {"strength": 1.0, "n": 4},
        [],
    )
    for owner, work in (
        (LanguageModel, "write"),
        (LanguageModel, "candidate_scores"),
        (Guided, "attribute_scores"),
    ):
        original = getattr(owner, work)
        monkeypatch.setattr(
            owner,
            work,
            lambda *args, work=work, original=original, **named: (
                done.append(work) or original(*args, **named)
            ),
        )

    def cell(**changed):
        done.clear()
        return system.write(asked, options | changed)

    predicted = cell()
    assert done == ["write"] * 4 + ["attribute_scores"] and set(predicted.seconds) == {"decoding", "choosing"}
    fluent = cell(fluency=100.0)
    assert done == ["candidate_scores"]
    assert fluent.seconds["decoding"] == predicted.seconds["decoding"]
    assert cell(relevance=100.0).replies != fluent.replies and done == []
    for change in (
        {"n": 1},
        {"n": 5},
        {"temperature": 0.5},
        *([{"strength": 2.0}] if name == "fudge" else []),
    ):
        found, written = cell(**change), done.count("write")
        assert written == change.get("n", 4) and ("choosing" in found.seconds) == (written > 1)
    monkeypatch.undo()
    assert predicted.replies == method.write(asked, how, 1.0, 3, n=4)
    assert fluent.replies == method.write(asked, how, 1.0, 3, n=4, fluency=100.0) != predicted.replies
    with pytest.raises(InputError, match="relevance: expected a number of 0 or more, found -1"):
        method.write(asked, how, 1.0, 3, n=4, relevance=-1)


@pytest.mark.parametrize("name, wrong", [("fluency", -1), ("relevance", None)])
def test_a_grid_s_weights_of_the_choice_are_checked(name, wrong):
    with pytest.raises(InputError, match=f"^{name}: expected a number of 0 or more, found {wrong}"):
        BaselineKind(Rerank).generation(None, asdict(HOW), {name: wrong})


def test_a_method_that_does_not_choose_is_asked_for_its_replies(plain):
    asked = requests(*BOTH)
    written = Trained(plain, 3, 1.0, 0.0, torch.device("cpu")).write(asked, asdict(HOW) | {"strength": 1.0})
    assert written.replies == plain.write(asked, HOW, 1.0, 3) and set(written.seconds) == {"decoding"}


def test_the_language_model_s_likelihoods_have_their_say_too(setting, shared, plain):
    """Where they weigh much, the likelier reply wins whatever the guides predict, and its weights are those of our own choice."""
    rerank, asked = Rerank.train(setting, shared), requests(*BOTH)
    contexts = [request.context for request in asked]

    def candidate_scores(replies):
        return plain.model.candidate_scores(torch.zeros(len(replies)), contexts, replies, HOW)

    predicted, fluent, relevant = (
        rerank.write(asked, HOW, 1.0, 3, n=8, **options)
        for options in ({}, {"fluency": 100.0}, {"relevance": 100.0})
    )
    samples = [
        plain.model.write(asked, replace(HOW, decoding="top_p"), 3, purpose=sample_name(number))
        for number in range(8)
    ]
    found = [candidate_scores(replies) for replies in samples]
    assert torch.allclose(
        candidate_scores(fluent).fluency, torch.stack([m.fluency for m in found]).amax(0), atol=0.2
    )  # 0.2: the guides' say, a hundredth
    assert (
        candidate_scores(fluent).fluency.mean() > candidate_scores(predicted).fluency.mean()
        and candidate_scores(relevant).relevance.mean() > candidate_scores(predicted).relevance.mean()
    )

    lm, likely = plain.model, []
    for i, request in enumerate(asked):
        row = encode_for_decoder(
            lm.tokenizer, lm.template, [request.context], [fluent[i]], lm.decoder_length
        )[0]
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            chances = torch.log_softmax(lm.lm(ids).logits[0], -1)
        places = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
        likely.append(sum(float(chances[place - 1, ids[0, place]]) for place in places) / len(places))
    torch.testing.assert_close(candidate_scores(fluent).fluency, torch.tensor(likely), atol=1e-4, rtol=1e-4)


# --- steering -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steering(setting, shared):
    return Steering.train(setting, shared)


def test_steering_without_strength_is_plain_decoding(steering, plain):
    asked = requests(*BOTH)
    assert (
        steering.write(asked, HOW, 0.0, 0)
        == plain.write(asked, HOW, 0.0, 0)
        != steering.write(asked, HOW, 30.0, 0)
    )
    assert not any(layer._forward_hooks for layer in layers_of(steering.model.lm))


def test_steering_writes_more_of_the_markers(steering):
    asked = requests(*SINGLE)
    (own, others), (own_steered, others_steered) = (
        says_marker(asked, steering.write(asked, HOW, strength, 0, layer=0)) for strength in (0.0, 8.0)
    )
    assert own_steered > own + 0.15 and own_steered > others_steered + 0.15


def test_directions_by_hand(setting):
    means = torch.tensor([[[1.0], [4.0], [0.0], [3.0], [9.0]]])  # one layer, two and three aspects
    assert directions(means, setting.schema).flatten().tolist() == [-3.0, 3.0, -6.0, -1.5, 7.5]


def test_mean_states_are_of_the_replies_tokens(steering, setting):
    """Against hidden states without padding, one dialogue at a time; the end of the reply does not count."""
    model = steering.model
    rows = [
        {"input_ids": [4, 5, 6, 7, 0], "labels": [-100, -100, 6, 7, 0], "aspect": 1},
        {"input_ids": [8, 9, 10], "labels": [-100, 9, 10], "aspect": 1},
    ]
    found = mean_states(model, rows, 5, 2)
    with torch.no_grad():
        first = model.lm(torch.tensor([[4, 5, 6, 7, 0]]), output_hidden_states=True).hidden_states[1][0, 2:4]
        second = model.lm(torch.tensor([[8, 9, 10]]), output_hidden_states=True).hidden_states[1][0, 1:]
    torch.testing.assert_close(found[0, 1], torch.cat([first, second]).mean(0))
    assert not found[:, [0, 2, 3, 4]].any()


def test_the_vector_is_added_where_the_reply_is_written(steering):
    lm, ids = steering.model.lm, torch.tensor([[5, 6, 7]])
    states = []
    hook = layers_of(lm)[1].register_forward_hook(lambda module, inputs, output: states.append(inputs[0]))
    vector, mask, row = torch.full((1, 32), 0.5), torch.ones_like(ids), torch.tensor([0])
    for decoder in (PlainDecoder(lm), SteeredDecoder(lm, 0, vector)):
        decoder.forward(ids, mask, row)
    hook.remove()
    torch.testing.assert_close(
        states[1] - states[0],
        torch.cat([torch.zeros(1, 2, 32), vector.unsqueeze(1)], dim=1),
        atol=1e-5,
        rtol=0,
    )


def test_a_layer_that_is_not_there_is_refused(steering):
    with pytest.raises(InputError, match="steering: layer must be from 0 to 1, found 2"):
        steering.write(requests({}), HOW, 1.0, 0, layer=2)


# --- all of them ----------------------------------------------------------------------------------------------------------


def make_writer(name, kind="gpt2", device="cpu"):
    """A method's decoder of random weights, for three replies, the last of which names one attribute alone."""
    torch.manual_seed(0)
    lm, guide_lm = (
        AutoModelForCausalLM.from_config(config_from(decoder_settings(kind))).to(device).eval()
        for _ in range(2)
    )
    chosen = torch.tensor([[1, 4], [0, 2], [-1, 3]], device=device)
    prefixes = torch.randn(
        5, 3, 4, 4 if kind == "gpt2" else 2, 8, device=device
    )  # aspects, positions, keys and values of two layers, heads, head size
    if name.endswith("prefixes"):
        return PrefixDecoder(
            lm, lambda: prefixes, chosen, "concatenate" if name.startswith("concatenated") else "average"
        )
    if name == "guided":
        guides = [Guide(guide_lm, 5).to(device).eval() for _ in range(2)]
        return GuidedDecoder(lm, Guidance(guides, [5, 6], chosen, 3.0, 7))
    return SteeredDecoder(lm, 0, torch.randn(3, 32, device=device)) if name == "steered" else PlainDecoder(lm)


WRITERS = ("plain", "averaged prefixes", "concatenated prefixes", "guided", "steered")
PROMPTS = torch.tensor([[1, 1, 5, 6], [7, 8, 9, 10], [1, 11, 12, 13]])


class Operations(TorchDispatchMode):
    """Notes the operations that are run, with shapes in the place of tensors."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = tree_map(
            lambda value: (tuple(value.shape), value.dtype) if torch.is_tensor(value) else value,
            (args, kwargs or {}),
        )
        self.found.append((str(func), str(shapes)))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", WRITERS)
@torch.no_grad()
def test_a_step_can_be_recorded(name, monkeypatch):
    """Step after step the same operations with the same numbers, on tensors that stay where they are; nothing is read back."""
    monkeypatch.setattr(choice, "FEW", ())  # as on a GPU
    rules = Rules(10**6, "top_p", 0.9, 1.0, 2, 1.2, 1.0, 0.0)
    replies = DecodingState(
        make_writer(name), torch.arange(3), None, PROMPTS, (PROMPTS > 1).long(), 8, rules, torch.rand(3, 8)
    )
    caches = [replies.cache, *(getattr(replies.cache, "guides", None) or [])]
    assert len(caches) == (3 if name == "guided" else 1)

    def places():
        tensors = [
            getattr(replies, field)
            for field in (
                "rows",
                "written",
                "ended",
                "used",
                "tokens",
                "count",
                "offset",
                "mask",
                "column",
                "position",
            )
        ]
        tensors += [part for cache in caches for layer in cache.layers for part in (layer.keys, layer.values)]
        return [tensor.data_ptr() for tensor in tensors + [cache.read for cache in caches[1:]]]

    before, steps = places(), []
    for _ in range(3):
        with Operations() as operations:
            replies.step(replies.room)
        steps.append(operations.found)
    assert steps[0] == steps[1] == steps[2] and places() == before
    assert not [
        func
        for func, _ in steps[0]
        if any(word in func for word in ("_local_scalar_dense", "nonzero", "masked_select"))
    ]
    assert (replies.written >= 0).sum(1).tolist() == [4, 4, 4]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", WRITERS)
def test_replies_are_those_of_whole_passes(name, kind):
    """Against decoding by its definition: greedy, one row at a time, without padding, the whole text read anew for every token."""
    decoder, options = (
        make_writer(name, kind),
        {"eos_token_id": 10**6, "pad_token_id": 1, "max_new_tokens": 6},
    )
    found = generate(decoder, torch.arange(3), PROMPTS, (PROMPTS > 1).long(), **options)
    for row, prompt in enumerate(PROMPTS.tolist()):
        reply, prompt = [], [token for token in prompt if token > 1]
        for _ in range(6):
            reply.append(token_of_whole_pass(decoder, prompt, reply, row))
        assert found[row] == reply
    assert len({tuple(reply) for reply in found}) == 3
    end = next(token for token in found[0][1:] if any(token not in reply for reply in found))
    ended = generate(
        decoder, torch.arange(3), PROMPTS, (PROMPTS > 1).long(), **options | {"eos_token_id": end}
    )
    assert ended == [
        reply[: reply.index(end)] if end in reply else reply for reply in found
    ]  # rows that leave take nothing of the others along


@torch.no_grad()
def token_of_whole_pass(decoder, prompt, reply, row):
    """What a method by its definition writes behind a prompt and the reply so far."""
    ids = torch.tensor([prompt + reply])
    if isinstance(decoder, SteeredDecoder):  # at the prompt's last token and at all behind it
        added = torch.zeros(1, ids.shape[1], 32)
        added[:, len(prompt) - 1 :] = decoder.vectors[row]
        hook = decoder.layer.register_forward_hook(lambda module, inputs, output: output + added)
        logits = decoder.lm(ids).logits[0, -1]
        hook.remove()
        return int(logits.argmax())
    if not isinstance(decoder, GuidedDecoder):
        return int(decoder.forward(ids, torch.ones_like(ids), torch.tensor([row]))[0, -1].argmax())
    scores, tokens = decoder.lm(ids).logits[0, -1].topk(7)
    texts = torch.tensor([[5, 6, *reply, token] for token in tokens.tolist()])
    for guide, target in zip(decoder.guidance.guides, decoder.guidance.targets[row].tolist()):
        if target >= 0:
            scores = scores + 3.0 * guide(texts, torch.ones_like(texts))[:, -1, target]
    return int(tokens[scores.argmax()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", WRITERS)
def test_recorded_steps_write_the_same_replies(name, caplog):
    decoder, device = make_writer(name, device="cuda"), torch.device("cuda")
    prompts, rows = PROMPTS.to(device), torch.arange(3, device=device)
    options = {"pad_token_id": 1, "max_new_tokens": 40, "no_repeat_ngram_size": 2}
    plain = generate(
        decoder, rows, prompts, (prompts > 1).long(), eos_token_id=10**6, graphs=False, **options
    )
    for eos in (10**6, plain[0][20]):
        expected, found = (
            generate(decoder, rows, prompts, (prompts > 1).long(), eos_token_id=eos, graphs=graphs, **options)
            for graphs in (False, True)
        )
        assert found == expected
    assert "could not be recorded" not in caplog.text


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"prompted", "persona_vectors"}))  # test_prompting.py
@pytest.mark.parametrize("how", [HOW, SAMPLED], ids=["greedy", "top_p"])
def test_a_reply_does_not_depend_on_its_batch(name, how, setting, shared, request):
    method = (
        request.getfixturevalue("tuned") if name == "prefix_tuning" else once_trained(name, setting, shared)
    )
    options = {"n": 3} if name == "rerank" else {}
    asked = requests(*BOTH, {"style": "plain"}, things=("bread", "tea"))
    asked[2] = replace(
        asked[2], context=("shall I have cake later ?", "yes the cake moon well", "shall I have soup now ?")
    )
    together = method.write(asked, how, 2.0, 5, **options)
    assert method.write(asked[::-1], replace(how, batch_size=2), 2.0, 5, **options)[::-1] == together
    assert method.write(asked[2:3], how, 2.0, 5, **options) == together[2:3]
    if how is SAMPLED:
        assert method.write(asked, how, 2.0, 6, **options) != together


def once_trained(name, setting, shared):
    trained = shared.setdefault("methods", {})
    if name not in trained:
        trained[name] = METHODS[name].train(setting, shared)
    return trained[name]


def test_training_depends_on_the_seed_alone(setting):
    """The same weights whatever was trained before, other ones with another seed, and torch's own randomness untouched."""
    quick = replace(setting, epochs=1, guide_epochs=1, limit=12)
    state = torch.random.get_rng_state()
    first, second, other = {}, {}, {}
    METHODS["control_codes"].train(quick, first)
    for shared, of in ((first, quick), (second, quick), (other, replace(quick, seed=1))):
        guides(of, shared)
    weights = [
        torch.cat([p.flatten() for p in guides(s["setting"], s)[1].parameters()])
        for s in (first, second, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_shared_is_trained_once_and_for_one_setting(setting, shared, plain):
    assert uncontrolled(setting, shared) is plain.model
    with pytest.raises(ValueError, match="`shared` holds what was trained with another setting"):
        uncontrolled(replace(setting, epochs=2), shared)


def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(InputError, match="baselines: epochs must be at least 1, found 0"):
        replace(setting, epochs=0)
    with pytest.raises(
        InputError, match="baselines: decoder_length is 64; the base decoder has 48 positions"
    ):
        replace(setting, decoder_length=64).base()
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    windowed = MistralForCausalLM(MistralConfig(vocab_size=20, sliding_window=4, **sizes))
    with pytest.raises(InputError, match="baselines: decoder of type 'mistral' keeps sliding_window"):
        replace(setting, decoder=(windowed, setting.decoder[1])).base()
