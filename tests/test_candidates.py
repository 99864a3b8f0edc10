"""Of several replies to the same request the one is kept in which the model itself hears the aspects best."""

import dataclasses
import json

import pytest
import torch

from miracle import Miracle
from schema import InputError
from scripts.generation import ControlArguments, DecodingArguments, Request

HOW = DecodingArguments(max_new_tokens=6)
CONTROL = ControlArguments(weights="10", start="mean", candidates=4, seed=3)
QUESTIONS = ("My bread did not rise.", "Shall we walk to the sea on Sunday?")


@pytest.fixture(scope="module")
def model(tiny_run):
    return Miracle.from_run(tiny_run, "cpu")


def asked(model):
    return [Request(str(i), (question,), target) for i, question in enumerate(QUESTIONS) for target in model.schema.combinations()]


def test_the_best_heard_candidate_is_kept(model):
    """As if every candidate had been asked for by itself, and its text heard."""
    generator, requests = model.generator, asked(model)
    written = generator.write(requests, CONTROL, HOW)
    texts, scores, latents = [], [], []
    for number in range(4):
        alone = [dataclasses.replace(request, candidate=number) for request in requests]
        sample = generator.latents(alone, CONTROL, 64)
        texts.append(generator.decode(alone, sample, HOW, CONTROL.seed))
        scores.append(generator.heard(alone, texts[-1], 64))
        latents.append(sample.z)
    best = torch.stack(scores).max(0)
    assert all(torch.stack(scores)[number, i] >= best.values[i] - 1e-4 for i, number in enumerate(written.candidates))
    assert written.texts == [texts[number][i] for i, number in enumerate(written.candidates)]
    torch.testing.assert_close(written.sample.z, torch.stack([latents[number][i] for i, number in enumerate(written.candidates)]), atol=1e-3, rtol=1e-3)
    assert len(set(written.candidates)) > 1


def test_the_first_candidate_is_the_reply_without_others(model):
    generator, requests = model.generator, asked(model)[:3]
    one = generator.latents(requests, CONTROL, 8)
    other = generator.latents([dataclasses.replace(request, candidate=1) for request in requests], CONTROL, 8)
    priors = generator.problem(requests, CONTROL, 8).prior.mean
    assert torch.equal(generator.problem(requests, CONTROL, 8).start, priors)  # the mean, though the others start from samples
    assert not torch.allclose(one.z, other.z) and len({request.key for request in (*requests, dataclasses.replace(requests[0], candidate=1))}) == 4


def test_heard_follows_the_heads_and_does_not_hear_empty_replies(model):
    generator, requests = model.generator, asked(model)[:2]
    free = dataclasses.replace(requests[0], target={})
    found = generator.heard([*requests, free, requests[0]], ["Yes, warm bread.", "No.", "No.", " "], 2)
    assert found[0] < 0 and found[1] < 0 and found[2] == 0 and found[3] == -torch.inf
    one = dataclasses.replace(requests[0], target={"attitude": "optimistic"}), dataclasses.replace(requests[0], target={"attitude": "pessimistic"})
    assert generator.heard(list(one), ["Yes, warm bread."] * 2, 2).exp().sum() == pytest.approx(1, abs=1e-4)


def test_what_is_streamed_is_the_first_candidate_and_a_stop_keeps_it(model):
    seen = []
    alone = model.reply(QUESTIONS[0], "lyrical", candidates=1, start="mean", max_new_tokens=8)[0]
    model.reply(QUESTIONS[0], "lyrical", candidates=3, start="mean", max_new_tokens=8, on_text=lambda text: seen.append(text) or True)
    assert seen[-1] == alone.text
    stopped = model.reply(QUESTIONS[0], "lyrical", candidates=3, start="mean", max_new_tokens=8, on_text=lambda text: False)[0]
    assert not stopped.finished and stopped.candidate == 0 and alone.text.startswith(stopped.text)


def test_the_way_of_a_kept_candidate_is_its_own(model):
    replies = model.all_combinations(QUESTIONS[0], candidates=4, start="mean", weights=10)
    reply = next(reply for reply in replies if reply.candidate > 0)
    way = model.explain(reply)
    assert way.energy[0] == pytest.approx(reply.energy_start, rel=1e-3) and way.energy[-1] == pytest.approx(reply.energy, rel=0.02, abs=0.05)
    first = model.explain(dataclasses.replace(reply, candidate=0))
    assert way.energy[0] != pytest.approx(first.energy[0], rel=1e-4)


def test_a_run_without_control_does_not_choose(tiny_run):
    configuration = [json.loads((tiny_run / "results" / f"{name}.json").read_text())["run"]["config"]["generation"] for name in ("control", "none")]
    assert configuration[0]["candidates"] > 1 and configuration[1]["candidates"] == 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ControlArguments, {"candidates": 0}, "candidates: expected a number at least 1, found 0"),
        (ControlArguments, {"langevin_step_size": 0.0}, "langevin_step_size: expected a number over 0, found 0.0"),
        (DecodingArguments, {"top_p": 0.0}, "top_p: expected a number over 0 and at most 1, found 0.0"),
        (DecodingArguments, {"top_p": 2}, "top_p: "),
        (DecodingArguments, {"temperature": 0}, "temperature: expected a number over 0, found 0"),
        (DecodingArguments, {"temperature": float("nan")}, "temperature: "),
        (DecodingArguments, {"max_new_tokens": 0}, "max_new_tokens: expected a number at least 1, found 0"),
        (DecodingArguments, {"guidance": -1}, "guidance: expected a number 0 or more, found -1"),
        (DecodingArguments, {"plausibility": 1.0}, "plausibility: expected a number 0 or more and less than 1, found 1.0"),
        (DecodingArguments, {"repetition_penalty": 0.5}, "repetition_penalty: expected a number at least 1, found 0.5"),
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
    with pytest.raises(InputError, match="max_new_tokens: expected a number at least 1, found 0"):
        gen_cvae.main(["--outs", str(tiny_run.parent), "--run", tiny_run.name, "--max_new_tokens", "0"])
    assert (tiny_run / "results.json").read_text() == before
