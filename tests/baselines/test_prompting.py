"""The prompted base and persona vectors, with a tiny base that was taught to do as its prompt says."""

import dataclasses
import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from baselines.language_model import DialogueCollator, PlainDecoder, reply_loss
from baselines.persona_vectors import PersonaVectors
from baselines.prompted import Prompted
from baselines.prompting import TASK, instructed, instructions, marks_of_instructions
from baselines.steering import SteeredDecoder
from baselines.training import TrainingSetting, optimise
from common.errors import InputError
from common.schema import Attribute, Schema
from dataset.chat_template import template_of
from dataset.encoding import IGNORED, DialogueTemplate, encode_for_decoder, text_ids
from dataset.tokenizers import train_decoder_tokenizer
from generation.options import DecodingArguments
from generation.requests import Request

MARKERS = {"plain": "brick", "lyrical": "moon", "calm": "pond", "angry": "fire"}
DESCRIBED = {"style": {"plain": "Says brick.", "lyrical": "Says moon."}, "mood": {"angry": "Says fire."}}
THINGS = ("bread", "soup", "tea", "fish")
HOW = DecodingArguments(max_new_tokens=8, batch_size=16)
SYSTEM = "{%- for m in messages -%}<{{ m.role }}>{{ m.content }}<end>{%- endfor -%}{%- if add_generation_prompt -%}<assistant>{%- endif -%}"
NO_SYSTEM = "{%- for m in messages -%}{%- if m.role == 'user' -%}<user>{{ m.content }}<end>{%- else -%}<assistant>{{ m.content }}<end>{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<assistant>{%- endif -%}"
REFUSING = (
    "{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}" + NO_SYSTEM
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As in test_baselines.py."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder, attributes = tmp_path_factory.mktemp("toy"), []
    for name, aspects in {"style": ("plain", "lyrical"), "mood": ("calm", "angry")}.items():
        path = folder / f"{name}.jsonl"
        rows = [
            {"input": [f"shall I have {thing} now ?"], "output": [f"the {thing} {MARKERS[aspect]} well"], "tag": aspect}
            for thing in THINGS for aspect in aspects
        ]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        attributes.append(Attribute(name, aspects, dialogues=path, descriptions=DESCRIBED.get(name)))
    return Schema(tuple(attributes))


@pytest.fixture(scope="module")
def tokenizer(schema):
    texts = [instructions(schema, target, {}) for target in schema.combinations()]
    texts += [f"shall I have {thing} now ? the {thing} {word} well" for thing in THINGS for word in MARKERS.values()]  # fmt: skip
    found = train_decoder_tokenizer(texts * 3, 500)
    found.add_special_tokens({"extra_special_tokens": ["<system>", "<user>", "<assistant>", "<end>"]})
    found.chat_template = SYSTEM
    return found


@pytest.fixture(scope="module")
def setting(schema, tokenizer):
    """A base whose replies have the markers of what its prompt names, at most one of them in training."""
    sizes = {
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 160,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, **sizes)
    )
    template = template_of(tokenizer, DialogueTemplate())
    given = TrainingSetting(
        schema, (lm, tokenizer), template, torch.device("cpu"), epochs=1, batch_size=16, learning_rate=4e-3,
        decoder_length=40, contrast_contexts=4,
    )  # fmt: skip
    base, rows = instructed(given, {}), []
    for aspect, marker in {"": "dish", **MARKERS}.items():
        front = base.front({schema.attribute_of(aspect).name: aspect} if aspect else {})
        contexts, replies = [(f"shall I have {thing} now ?",) for thing in THINGS], [f"the {thing} {marker} well" for thing in THINGS]  # fmt: skip
        for row in encode_for_decoder(tokenizer, base.model.template, contexts, replies, 40):
            rows.append({"input_ids": front + row["input_ids"], "labels": [IGNORED] * len(front) + row["labels"], "aspect": 0})  # fmt: skip
    with given.seeded("taught"):
        decoder = PlainDecoder(lm)
        optimise("taught", lm, rows, DialogueCollator(tokenizer.pad_token_id), lambda batch: reply_loss(decoder, batch), given, 130)  # fmt: skip
    return dataclasses.replace(given, decoder=(lm, tokenizer))


def requests(*targets):
    return [
        Request(f"{number}", (f"shall I have {thing} now ?",), target)
        for number, thing in enumerate(THINGS)
        for target in targets
    ]


SINGLE = [{"style": "plain"}, {"style": "lyrical"}, {"mood": "calm"}, {"mood": "angry"}]


def share(asked, replies):
    """Of the replies that have the marker of an aspect that is named."""
    right = [any(MARKERS[a] in reply.split() for a in r.target.values()) for r, reply in zip(asked, replies)]
    return sum(right) / len(right)


def test_instructions_say_each_aspect_with_its_description_or_name_and_show_examples(schema):
    text = instructions(schema, {"mood": "calm", "style": "lyrical"}, {})
    assert text.splitlines()[0] == TASK and text.splitlines()[2:] == [
        "- lyrical: Says moon.",
        "- calm: calm",
    ]
    assert instructions(schema, {}, {}) == TASK


def test_the_system_turn_of_the_chat_template_is_used_and_where_there_is_none_a_user_s(tokenizer):
    template = template_of(tokenizer, DialogueTemplate())
    assert marks_of_instructions(tokenizer, template) == ("<system>", "<end>")
    for other in (NO_SYSTEM, REFUSING):
        tokenizer.chat_template, before = other, tokenizer.chat_template
        try:
            assert marks_of_instructions(tokenizer, template) == ("<user>", "<end>")
        finally:
            tokenizer.chat_template = before
    plain = DialogueTemplate("User:", "Assistant:", " ", "\n")
    tokenizer.chat_template, before = None, tokenizer.chat_template
    try:
        assert marks_of_instructions(tokenizer, plain) == ("User: ", "\n")
    finally:
        tokenizer.chat_template = before


def test_marks_in_what_a_schema_says_are_text(setting, schema):
    """A description with a turn's mark in it ends no turn."""
    attributes = (dataclasses.replace(schema.attributes[0], descriptions={"plain": "<end><user>"}),)
    base = instructed(dataclasses.replace(setting, schema=Schema(attributes)), {})
    ids = base.front({"style": "plain"})
    end, user = base.model.tokenizer.convert_tokens_to_ids(["<end>", "<user>"])
    assert ids.count(end) == 1 and ids[-1] == end and user not in ids


def test_a_prompt_is_what_the_chat_template_renders(setting, schema):
    base = instructed(setting, {})
    tokenizer, target = base.model.tokenizer, {"style": "plain", "mood": "calm"}
    rendered = tokenizer.apply_chat_template(
        [{"role": "system", "content": instructions(schema, target, {})}, {"role": "user", "content": "shall I ?"}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    row = encode_for_decoder(tokenizer, base.model.template, [("shall I ?",)], None, 40)[0]
    assert tokenizer.decode(base.front(target) + row["input_ids"]) == rendered


def test_the_prompted_base_does_as_it_is_told(setting):
    method = Prompted.train(setting, {})
    asked = requests(*SINGLE)
    replies = method.write(asked, HOW, 1.0, 0)
    assert share(asked, replies) == 1.0
    assert share(asked, method.write(requests(*[{}] * 4), HOW, 1.0, 0)) < 0.5


def test_examples_are_of_the_aspect_and_drawn_by_the_seed(setting):
    base = instructed(setting, {})
    for aspect, drawn in base.examples.items():
        assert len(drawn) == 4 and all(MARKERS[aspect] in dialogue.reply for dialogue in drawn)
    again, other = (instructed(dataclasses.replace(setting, seed=seed), {}).examples for seed in (0, 1))
    assert again == base.examples and other != base.examples
    text = base.model.tokenizer.decode(base.front({"mood": "angry"}, 2))
    shown = base.examples["angry"][:2]
    assert all(f'To "{d.context[-1]}" such a reply is "{d.reply}"' in text for d in shown)
    assert "pond" not in text and text.count("fire well") == 2
    with pytest.raises(InputError, match="prompted: examples must be from 0 to 8, found 9"):
        Prompted.train(setting, {}).write(requests({}), HOW, 1.0, 0, examples=9)


def test_persona_vectors_turn_the_odds_of_the_markers_without_a_prompt(setting):
    """The contrast is what the prompt does to the states: the more of it is added, the likelier its marker."""
    method = PersonaVectors.train(setting, {})
    n_layers, aspects, hidden = method.vectors.shape
    assert (n_layers, aspects, hidden) == (2, 4, 48)
    torch.testing.assert_close(
        method.vectors[:, 0], -method.vectors[:, 1]
    )  # of two aspects, one is the other's contrast
    tokenizer, lm = method.model.tokenizer, method.model.lm
    row = encode_for_decoder(tokenizer, method.model.template, [("shall I have bread now ?",)], None, 40)[0]
    ids = torch.tensor([method.base.front({}) + row["input_ids"] + text_ids(tokenizer, ["the bread"])[0]])
    brick, moon = (ids_of[0] for ids_of in text_ids(tokenizer, [" brick", " moon"]))

    def odds(strength, aspect):
        """Of "moon" against "brick" behind "the bread", in nats."""
        decoder = SteeredDecoder(lm, 0, strength * method.vectors[0, aspect].unsqueeze(0))
        with torch.no_grad():
            logits = decoder.forward(ids, torch.ones_like(ids), torch.zeros(1, dtype=torch.long))[0, -1]
        return float(logits[moon] - logits[brick])

    assert odds(0.0, 0) == odds(0.0, 1)
    for strength in (1.0, 4.0):
        assert odds(strength, 1) > odds(0.0, 1) > odds(strength, 0)
    assert odds(4.0, 1) > odds(1.0, 1) and odds(4.0, 0) < odds(1.0, 0)
    asked = requests({"style": "lyrical"})
    assert method.write(asked, HOW, 0.0, 0) != method.write(asked, HOW, 16.0, 0, layer=0)
    with pytest.raises(InputError, match="persona vectors: layer must be from 0 to 1, found 2"):
        method.write(asked, HOW, 1.0, 0, layer=2)


@pytest.mark.parametrize("method", [Prompted, PersonaVectors])
def test_a_reply_does_not_depend_on_its_batch(method, setting):
    """Fronts of unequal length among them, and a context that is cut."""
    trained, asked = (
        method.train(setting, {}),
        requests({"style": "lyrical", "mood": "calm"}, {}, {"mood": "angry"}),
    )
    asked[1] = dataclasses.replace(
        asked[1], context=("shall I have cake now ? " * 9, "yes", "shall I have tea now ?")
    )
    how = dataclasses.replace(HOW, decoding="top_p")
    together = trained.write(asked, how, 2.0, 5)
    assert trained.write(asked[::-1], dataclasses.replace(how, batch_size=2), 2.0, 5)[::-1] == together
    assert trained.write(asked[1:2], how, 2.0, 5) == together[1:2]
    assert trained.model.cuts(asked, how)[1] is not None


def test_a_base_without_room_for_the_prompt_is_refused(setting):
    small = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(setting.decoder[1]), n_embd=8, n_layer=1, n_head=1, n_positions=40)
    )
    method = Prompted.train(dataclasses.replace(setting, decoder=(small, setting.decoder[1])), {})
    with pytest.raises(InputError, match=r"leaves no room for the context behind \d+ tokens in front"):
        method.write(requests(*SINGLE), HOW, 1.0, 0)
