"""Of several replies to the same request the one is kept in which the model itself predicts the aspects best, or that it weighs best."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from dataset.encoding import IGNORED, encode_for_decoder
from experiments.cvae import CachingGenerator
from generation import likelihoods
from generation.choosing import CandidateScores
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from miracle import Miracle
from model.graphs import Recordings

HOW = DecodingArguments(max_new_tokens=6)
CONTROL = ControlArguments(weights=10.0, start="mean", candidates=4, seed=3)
QUESTIONS = ("My bread did not rise.", "Shall we walk to the sea on Sunday?")


@pytest.fixture(scope="module")
def model(tiny_run):
    return Miracle.from_run(tiny_run, "cpu")


def asked(model):
    return [
        Request(str(i), (question,), target)
        for i, question in enumerate(QUESTIONS)
        for target in model.schema.combinations()
    ]


def test_the_best_heard_candidate_is_kept(model):
    """As if every candidate had been asked for by itself, and its text predicted."""
    generator, requests = model.generator, asked(model)
    written = generator.write(requests, CONTROL, HOW)
    texts, scores, latents = [], [], []
    for number in range(4):
        alone = [dataclasses.replace(request, candidate=number) for request in requests]
        sample = generator.latents(alone, CONTROL, 64)
        texts.append(generator.decode(alone, sample, HOW, CONTROL.seed))
        scores.append(generator.attribute_scores(alone, texts[-1], 64))
        latents.append(sample.z)
    best = torch.stack(scores).max(0)
    assert all(
        torch.stack(scores)[number, i] >= best.values[i] - 1e-4 for i, number in enumerate(written.candidates)
    )
    assert written.texts == [texts[number][i] for i, number in enumerate(written.candidates)]
    torch.testing.assert_close(
        written.sample.z,
        torch.stack([latents[number][i] for i, number in enumerate(written.candidates)]),
        atol=1e-3,
        rtol=1e-3,
    )
    assert len(set(written.candidates)) > 1


def test_the_first_candidate_is_the_reply_without_others(model):
    generator, requests = model.generator, asked(model)[:3]
    one = generator.latents(requests, CONTROL, 8)
    other = generator.latents([dataclasses.replace(request, candidate=1) for request in requests], CONTROL, 8)
    priors = generator.problem(requests, CONTROL, 8).prior.mean
    assert torch.equal(
        generator.problem(requests, CONTROL, 8).start, priors
    )  # the mean, though the others start from samples
    assert (
        not torch.allclose(one.z, other.z)
        and len({request.key for request in (*requests, dataclasses.replace(requests[0], candidate=1))}) == 4
    )


def test_heard_follows_the_heads_and_does_not_hear_empty_replies(model):
    generator, requests = model.generator, asked(model)[:2]
    free = dataclasses.replace(requests[0], target={})
    found = generator.attribute_scores(
        [*requests, free, requests[0]], ["Yes, warm bread.", "No.", "No.", " "], 2
    )
    assert found[0] < 0 and found[1] < 0 and found[2] == 0 and found[3] == -torch.inf
    one = (
        dataclasses.replace(requests[0], target={"attitude": "optimistic"}),
        dataclasses.replace(requests[0], target={"attitude": "pessimistic"}),
    )
    assert generator.attribute_scores(list(one), ["Yes, warm bread."] * 2, 2).exp().sum() == pytest.approx(
        1, abs=1e-4
    )


def test_replies_read_by_rounded_shape_have_the_same_aspects(model, monkeypatch):
    """A function that runs the work again, into the same memory, stands for a graph."""
    generator, made = model.generator, []
    requests = [dataclasses.replace(request, context=QUESTIONS[:1] * (1 + i % 3 * 2)) for i, request in enumerate(asked(model))]  # fmt: skip
    requests[4] = dataclasses.replace(requests[4], target={})
    texts = ["Yes, warm bread. " * (1 + i % 5) for i in range(len(requests))]
    texts[2] = " "
    plain, call = generator.attribute_scores(requests, texts, 7), Recordings.__call__
    monkeypatch.setattr(Recordings, "__call__", lambda self, inputs: call(self, inputs, lambda work: (made.append(work), work)[1]))  # fmt: skip
    monkeypatch.setattr(generator._aspects_of, "wanted", True)
    for _ in range(3):
        torch.testing.assert_close(
            generator.attribute_scores(requests, texts, 7), plain, atol=1e-5, rtol=1e-4
        )
    assert made and plain[2] == -torch.inf and plain[4] == 0


def test_what_is_streamed_is_the_first_candidate_and_a_stop_keeps_it(model):
    seen = []
    alone = model.reply(QUESTIONS[0], "lyrical", candidates=1, start="mean", max_new_tokens=8)[0]
    model.reply(
        QUESTIONS[0],
        "lyrical",
        candidates=3,
        start="mean",
        max_new_tokens=8,
        on_text=lambda text: seen.append(text) or True,
    )
    assert seen[-1] == alone.text
    stopped = model.reply(
        QUESTIONS[0], "lyrical", candidates=3, start="mean", max_new_tokens=8, on_text=lambda text: False
    )[0]
    assert not stopped.finished and stopped.candidate == 0 and alone.text.startswith(stopped.text)


def test_the_way_of_a_kept_candidate_is_its_own(model):
    replies = model.all_combinations(QUESTIONS[0], candidates=4, start="mean", weights=10)
    reply = next(reply for reply in replies if reply.candidate > 0)
    way = model.explain(reply)
    assert way.energy[0] == pytest.approx(reply.energy_start, rel=1e-3) and way.energy[-1] == pytest.approx(
        reply.energy, rel=0.02, abs=0.05
    )
    first = model.explain(dataclasses.replace(reply, candidate=0))
    assert way.energy[0] != pytest.approx(first.energy[0], rel=1e-4)


def test_a_run_without_control_does_not_choose(tiny_run):
    configuration = [
        json.loads((tiny_run / "results" / f"{name}.json").read_text())["run"]["config"]["generation"]
        for name in ("control", "none")
    ]
    assert configuration[0]["candidates"] > 1 and configuration[1]["candidates"] == 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ControlArguments, {"candidates": 0}, "candidates: expected a number of at least 1, found 0"),
        (ControlArguments, {"fluency": -0.1}, "fluency: expected a number of 0 or more, found -0.1"),
        (ControlArguments, {"fluency": 1e308}, "fluency: expected a number of at most 1e+30, found 1e+308"),
        (
            ControlArguments,
            {"relevance": float("inf")},
            "relevance: expected a number of 0 or more, found inf",
        ),
        (
            ControlArguments,
            {"langevin_step_size": 0.0},
            "langevin_step_size: expected a number over 0, found 0.0",
        ),
        (DecodingArguments, {"top_p": 0.0}, "top_p: expected a number over 0 and at most 1, found 0.0"),
        (DecodingArguments, {"top_p": 2}, "top_p: "),
        (DecodingArguments, {"temperature": 0}, "temperature: expected a number over 0, found 0"),
        (DecodingArguments, {"temperature": float("nan")}, "temperature: "),
        (
            DecodingArguments,
            {"max_new_tokens": 0},
            "max_new_tokens: expected a number of at least 1, found 0",
        ),
        (DecodingArguments, {"guidance": -1}, "guidance: expected a number of at least 0, found -1"),
        (
            DecodingArguments,
            {"plausibility": 1.0},
            "plausibility: expected a number of 0 or more and less than 1, found 1.0",
        ),
        (
            DecodingArguments,
            {"repetition_penalty": 0.5},
            "repetition_penalty: expected a number of at least 1, found 0.5",
        ),
        (ControlArguments, {"seed": 2**64}, "seed: expected a number that fits into 64 bits"),
        (ControlArguments, {"tolerance": float("nan")}, "tolerance must lie between 0 and 1, got nan"),
        (ControlArguments, {"steps": 0}, "steps must be at least 1"),
        (ControlArguments, {"grading": 0.0}, "grading must be over 0"),
        (ControlArguments, {"max_halvings": -1}, "steps must be at least 1 and max_halvings at least 0"),
        (ControlArguments, {"langevin_step_size": float("inf")}, "langevin_step_size: "),
        (
            DecodingArguments,
            {"temperature": float("inf")},
            "temperature: expected a number over 0, found inf",
        ),
        (DecodingArguments, {"guidance": float("inf")}, "guidance: expected a number of at most 1e+30"),
        (
            DecodingArguments,
            {"repetition_penalty": 1e300},
            "repetition_penalty: expected a number of at most",
        ),
        (DecodingArguments, {"no_repeat_ngram_size": -3}, "no_repeat_ngram_size: "),
        (DecodingArguments, {"batch_size": 0}, "batch_size: "),
    ],
)
def test_options_out_of_range_are_refused(kind, options, message):
    with pytest.raises(InputError) as error:
        kind(**options)
    assert str(error.value).startswith(message)


def test_the_command_line_refuses_them_in_one_line(tiny_run):
    import gen_cvae

    before = (tiny_run / "results.json").read_text()
    with pytest.raises(InputError, match="max_new_tokens: expected a number of at least 1, found 0"):
        gen_cvae.main(["--outs", str(tiny_run.parent), "--run", tiny_run.name, "--max_new_tokens", "0"])
    assert (tiny_run / "results.json").read_text() == before


def direct_merits(generator, request, reply, latent):
    """Fluency and relevance of one reply, token by token, by the decoder's plain forward pass."""
    encoded, decoder = [], generator.model.decoder
    for use_context in (True, False):
        row = encode_for_decoder(
            generator.decoder_tokenizer,
            generator.template,
            [request.context],
            [reply],
            generator.config.decoder_length,
            use_context,
        )[0]
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            chances = torch.log_softmax(decoder(ids, torch.ones_like(ids), latent.unsqueeze(0)), -1)[0]
        places = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
        encoded.append(
            sum(float(chances[place - 1, row["input_ids"][place]]) for place in places) / len(places)
        )
    return encoded[0], encoded[0] - encoded[1]


def test_fluency_and_relevance_are_the_decoders_likelihoods_behind_the_prior_mean(model, monkeypatch):
    generator, requests = model.generator, asked(model)[:5]
    replies = ["Yes, warm bread.", "No.", "", "The sea is far, and the road is long.", "Walk."]
    sample = generator.latents(requests, CONTROL, 64)
    found = generator.candidate_scores(requests, replies, sample, dataclasses.replace(HOW, batch_size=2))
    for i, request in enumerate(requests):
        fluency, relevance = direct_merits(generator, request, replies[i], sample.reference[i])
        assert float(found.fluency[i]) == pytest.approx(fluency, abs=1e-4) and float(
            found.relevance[i]
        ) == pytest.approx(relevance, abs=1e-4)
    assert found.fluency.max() < 0 and found.relevance.abs().max() > 1e-3
    monkeypatch.setattr(
        likelihoods, "LARGEST", 20
    )  # so few positions at once that the replies are looked at in more parts
    again = generator.candidate_scores(requests, replies, sample, HOW)
    torch.testing.assert_close(
        torch.stack([again.fluency, again.relevance]),
        torch.stack([found.fluency, found.relevance]),
        atol=1e-4,
        rtol=1e-4,
    )
    assert generator.candidate_scores(requests, replies, sample, HOW, likelihoods=False).fluency is None


def test_the_weights_of_the_merits_decide():
    found = CandidateScores(
        torch.tensor([-1.0, -2.0, -3.0, -1.0, -torch.inf, -9.0]),
        torch.tensor([-3.0, -1.0, -2.0, -1.0, -0.1, -1.0]),
        torch.tensor([0.0, 0.1, 2.0, 0.0, 5.0, 9.0]),
    )
    assert found.best(3, 0, 0) == [0, 0] and found.best(3, 1, 0) == [1, 0] and found.best(3, 0, 2) == [2, 2]
    assert CandidateScores(torch.full((4,), -torch.inf)).best(2, 0, 0) == [0, 0]  # nothing but empty replies


def test_what_is_kept_has_the_greatest_weighed_sum(model):
    generator, requests = model.generator, asked(model)
    control, how = (
        dataclasses.replace(CONTROL, fluency=2.0, relevance=1.0),
        dataclasses.replace(HOW, decoding="top_p", temperature=0.7),
    )
    seconds = {}
    drafts = generator.drafts(requests, control, how, seconds)
    total = drafts.scores.attributes + 2 * drafts.scores.fluency + drafts.scores.relevance
    kept = generator.write(requests, control, how)
    assert kept.candidates == total.view(-1, 4).argmax(1).tolist() and set(seconds) == {
        "latents",
        "decoding",
        "choosing",
    }
    assert kept.texts == [drafts.texts[4 * i + number] for i, number in enumerate(kept.candidates)]
    assert (
        kept.texts
        != generator.write(requests, dataclasses.replace(control, fluency=0.0, relevance=0.0), how).texts
    )


def test_cells_that_choose_differently_share_their_candidates(tiny_run, model, monkeypatch):
    """An experiment writes once for them, and what it keeps is what each would keep by itself."""
    generator, requests = (
        CachingGenerator(tiny_run / "cvae", torch.device("cpu"), model.schema),
        asked(model)[:6],
    )
    decoded = []
    decode = generator.decode
    monkeypatch.setattr(generator, "decode", lambda *args: decoded.append(1) or decode(*args))
    for fluency, relevance, times in ((0.0, 0.0, 1), (3.0, 0.0, 1), (0.0, 2.0, 1)):
        control, seconds = dataclasses.replace(CONTROL, fluency=fluency, relevance=relevance), {}
        found, alone = (
            generator.write(requests, control, HOW, seconds),
            model.generator.write(requests, control, HOW),
        )
        assert found.texts == alone.texts and found.candidates == alone.candidates and len(decoded) == times
        assert set(seconds) == {"latents", "decoding", "choosing"}
    for control, how in (
        (dataclasses.replace(CONTROL, weights=20.0), HOW),
        (CONTROL, dataclasses.replace(HOW, max_new_tokens=5)),
    ):
        times = len(decoded)
        assert (
            generator.write(requests, control, how).texts
            == model.generator.write(requests, control, how).texts
            and len(decoded) == times + 1
        )


@pytest.mark.parametrize("batch_size", [64, 3])
def test_replies_to_one_context_read_it_once(model, monkeypatch, batch_size):
    """Prompts as often as there are batches that need them; the likelihoods are those of each reply alone."""
    generator, one = model.generator, asked(model)[0]
    other = next(request for request in asked(model) if request.context != one.context)
    requests = [one, one, other, one, other, one]
    replies = ["Yes.", "The sea is far, and the road is long.", "No.", "", "Walk to the old mill.", "Yes."]
    sample = generator.latents([one, other], CONTROL, 64).take([0, 0, 1, 0, 1, 0])
    read, call = [], generator.model.decoder.call

    def counted(embeddings, *rest, **options):
        if options.get("logits_to_keep"):
            read.append(len(embeddings))
        return call(embeddings, *rest, **options)

    monkeypatch.setattr(generator.model.decoder, "call", counted)
    how = dataclasses.replace(HOW, batch_size=batch_size)
    found = generator.candidate_scores(requests, replies, sample, how)
    assert sum(read) == (4 if batch_size == 64 else 6)  # of two contexts, and of none behind two latents
    monkeypatch.undo()
    for i, request in enumerate(requests):
        merits = direct_merits(generator, request, replies[i], sample.reference[i])
        assert (float(found.fluency[i]), float(found.relevance[i])) == pytest.approx(merits, abs=1e-4)


def test_padding_behind_a_long_prompt_needs_no_position_of_its_own(model):
    """A short reply behind the longest prompt, beside a long one behind a short prompt."""
    generator = model.generator
    full = generator.config.decoder_length
    assert generator.positions < full + 30, "else no padding goes beyond the table"
    rows = [(full - 2, 2), (3, 40)]
    rows = [
        {"input_ids": [7] * (prompt + reply), "labels": [IGNORED] * prompt + [7] * reply}
        for prompt, reply in rows
    ]
    z = torch.zeros(2, generator.config.latent_size)
    found, counts = likelihoods.log_likelihoods(rows, generator.model.decoder, z, 0, 8)
    alone = [likelihoods.log_likelihoods([row], generator.model.decoder, z[:1], 0, 8)[0] for row in rows]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert counts.tolist() == [2, 40]


@pytest.mark.parametrize(("gigabytes", "positions"), [(8, 4096), (24, 7629), (80, 16384)])
def test_positions_at_once_are_what_a_gpu_has_room_for(monkeypatch, gigabytes, positions):
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert likelihoods.positions_at_once(torch.device("cuda"), 49152) == positions
    assert likelihoods.positions_at_once(torch.device("cpu"), 49152) == likelihoods.LARGEST
