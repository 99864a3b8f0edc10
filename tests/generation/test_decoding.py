"""generation/decoding.py: cached, batched generation against plain definitions."""

import threading
from collections import Counter

import pytest
import torch

from generation import decoding as decoding_module
from generation.decoding import KEPT, generate
from generation.token_choice import UNDECIDED, ban_said_ngrams, guide, likely_choice, nucleus_choice
from model.noise import generators

KINDS = ("gpt2", "llama")
PROMPTS = [[11, 12, 13, 14, 15], [21, 22], [31], [41, 42, 43, 44], [51, 52, 53]]
LENGTH = 24
NEVER = 10**6  # an end-of-sequence id that no model writes


def left_padded(prompts, pad=1):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    return ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


def latents():
    return torch.randn(len(PROMPTS), 8, generator=torch.Generator().manual_seed(3))


def written(decoder, rows=range(len(PROMPTS)), eos=NEVER, z=None, **options):
    """Replies to the given rows of PROMPTS."""
    rows = list(rows)
    ids, mask = left_padded([PROMPTS[row] for row in rows])
    z = latents()[rows] if z is None else z
    options = {"eos_token_id": eos, "pad_token_id": 319, "max_new_tokens": LENGTH} | options
    return generate(decoder, z, ids, mask, **options)


def bans(reply, size):
    """Tokens that would complete an n-gram which the reply already has."""
    if not size or len(reply) + 1 < size:
        return set()
    grams = {tuple(reply[i : i + size]) for i in range(len(reply) - size + 1)}
    last = tuple(reply[len(reply) - size + 1 :])
    return {gram[-1] for gram in grams if gram[:-1] == last}


@torch.no_grad()
def argmax_step_by_step(decoder, z, prompt, eos=NEVER, ngram=0):
    """Greedy decoding by its definition: no cache, no padding, one row, the full forward at every step."""
    reply = []
    for _ in range(LENGTH):
        ids = torch.tensor([prompt + reply])
        logits = decoder(ids, torch.ones_like(ids), z.unsqueeze(0))[0, -1]
        logits[list(bans(reply, ngram))] = -torch.inf
        token = int(logits.argmax())
        if token == eos:
            break
        reply.append(token)
    return reply


def frequent_token(replies):
    """A token that ends some replies early when it is taken for the end of the sequence, and others late or never."""
    return max(
        set(sum(replies, [])) - {319}, key=lambda t: len({r.index(t) if t in r else LENGTH for r in replies})
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ngram", [0, 2])
def test_greedy_is_step_by_step_argmax(kind, ngram, make_decoder):
    decoder = make_decoder(kind)
    expected = [argmax_step_by_step(decoder, z, prompt, ngram=ngram) for z, prompt in zip(latents(), PROMPTS)]
    assert written(decoder, no_repeat_ngram_size=ngram) == expected
    assert len({tuple(reply) for reply in expected}) == len(PROMPTS)  # the prompts and latents do matter


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_finish_early_do_not_disturb_the_others(kind, make_decoder):
    decoder = make_decoder(kind)
    eos = frequent_token(written(decoder, no_repeat_ngram_size=2))
    expected = [
        argmax_step_by_step(decoder, z, prompt, eos, ngram=2) for z, prompt in zip(latents(), PROMPTS)
    ]
    assert len({len(reply) for reply in expected}) > 2  # they do finish at different times
    assert written(decoder, eos=eos, no_repeat_ngram_size=2) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoding", ["greedy", "top_p"])
def test_tokens_do_not_depend_on_batch(kind, decoding, make_decoder):
    decoder, keys = make_decoder(kind), [(str(row), "plain") for row in range(len(PROMPTS))]

    def replies(rows, eos):
        sources = generators(5, [keys[row] for row in rows], "text") if decoding == "top_p" else None
        return dict(
            zip(
                rows,
                written(
                    decoder, rows, eos, decoding=decoding, sources=sources, top_p=0.95, no_repeat_ngram_size=3
                ),
            )
        )

    eos = frequent_token(list(replies(range(5), NEVER).values()))
    together = replies([0, 1, 2, 3, 4], eos)
    for rows in ([0], [1], [2], [3], [4], [4, 2, 0, 3, 1], [3, 1]):
        assert replies(rows, eos) == {row: together[row] for row in rows}


def test_sampling_differs_from_greedy_and_from_seed_to_seed(make_decoder):
    decoder = make_decoder()
    texts = [
        written(
            decoder,
            decoding="top_p",
            sources=generators(seed, [(str(row), "") for row in range(5)], "text"),
            temperature=2.0,
        )
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2] and texts[0] != written(decoder)


def test_tiny_top_p_is_greedy(make_decoder):
    decoder = make_decoder()
    sources = generators(0, [(str(row), "") for row in range(5)], "text")
    assert written(decoder, decoding="top_p", top_p=1e-6, sources=sources) == written(decoder)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(size, make_decoder):
    decoder = make_decoder()

    def most(replies):
        return max(
            Counter(tuple(r[i : i + size]) for i in range(len(r) - size + 1)).most_common(1)[0][1]
            for r in replies
        )

    assert most(written(decoder)) > 1 and most(written(decoder, no_repeat_ngram_size=size)) == 1


@torch.no_grad()
def guided_step_by_step(decoder, z, reference, guidance, prompt):
    """Guidance by its definition: two full forwards at every step."""
    reply = []
    for _ in range(LENGTH):
        ids = torch.tensor([prompt + reply])
        guided, plain = (
            decoder(ids, torch.ones_like(ids), latent.unsqueeze(0))[0, -1] for latent in (z, reference)
        )
        reply.append(int((plain + guidance * (guided - plain)).argmax()))
    return reply


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_exaggerates_what_the_latent_changes(kind, make_decoder):
    decoder, reference = (
        make_decoder(kind),
        torch.randn(len(PROMPTS), 8, generator=torch.Generator().manual_seed(4)),
    )
    found = {g: written(decoder, reference=reference, guidance=g) for g in (1.0, 2.5, 0.0)}
    assert found[2.5] == [
        guided_step_by_step(decoder, z, r, 2.5, prompt) for z, r, prompt in zip(latents(), reference, PROMPTS)
    ]
    assert found[1.0] == written(decoder) != found[2.5] and found[0.0] == written(decoder, z=reference)
    eos = frequent_token(found[2.5])  # rows that end leave both readings
    assert written(decoder, reference=reference, guidance=2.5, eos=eos) == [
        r[: r.index(eos)] if eos in r else r for r in found[2.5]
    ]


def test_guidance_chooses_among_plausible_tokens():
    """By hand: the third token gains most by the latent, but is a hundredth as likely as the first."""
    logits, plain = torch.tensor([[0.0, -1.0, -4.6]]), torch.tensor([[1.0, -1.5, -9.0]])
    free = guide(logits, plain, 3.0, 0.0)
    torch.testing.assert_close(free, torch.tensor([[-2.0, 0.0, 4.2]]))
    assert free.argmax() == 2
    kept = guide(logits, plain, 3.0, 0.1)
    assert kept.argmax() == 1 and kept[0, 2] < -9_000 and torch.equal(kept[:, :2], free[:, :2])
    assert torch.equal(guide(logits, plain, 1.0, 0.0), logits)


def test_plausibility_of_one_is_greedy_without_guidance(make_decoder):
    decoder, reference = (
        make_decoder(),
        torch.randn(len(PROMPTS), 8, generator=torch.Generator().manual_seed(4)),
    )
    assert written(decoder, reference=reference, guidance=4.0, plausibility=1.0) == written(decoder)


def test_ngrams_of_the_prompt_are_allowed(make_decoder):
    """Only the reply counts: a word of the question may be said again."""
    decoder = make_decoder()
    first = written(decoder, [1])[0][0]
    prompt = torch.tensor([[21, 22, first, 21, 22]])
    reply = generate(
        decoder,
        latents()[1:2],
        prompt,
        torch.ones_like(prompt),
        eos_token_id=NEVER,
        pad_token_id=319,
        max_new_tokens=4,
        no_repeat_ngram_size=1,
    )[0]
    assert reply == argmax_step_by_step(decoder, latents()[1], prompt[0].tolist(), ngram=1)[:4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3])
@torch.no_grad()
def test_what_was_said_before_is_not_said_again(kind, size, make_decoder):
    """Against the definition, a row at a time; the prompts hold what the replies would begin with."""
    decoder, z = make_decoder(kind), latents()
    prompts = [prompt + reply[2:9] + [5] for prompt, reply in zip(PROMPTS, written(decoder))]
    ids, mask = left_padded(prompts)
    options = {"eos_token_id": NEVER, "pad_token_id": 319, "max_new_tokens": 10}
    found = generate(decoder, z, ids, mask, context_block_ngram=size, **options)
    assert found != generate(decoder, z, ids, mask, **options)
    for latent, prompt, reply in zip(z, prompts, found):
        said = {tuple(prompt[i : i + size]) for i in range(len(prompt) - size + 1)}
        own = []
        while len(own) < 10:
            whole = torch.tensor([prompt + own])
            logits = decoder(whole, torch.ones_like(whole), latent.unsqueeze(0))[0, -1]
            last = tuple(own[len(own) - size + 1 :]) if len(own) >= size - 1 else None
            logits[[gram[-1] for gram in said if gram[:-1] == last]] = -torch.inf
            own.append(int(logits.argmax()))
        assert reply == own
        assert not said & {tuple(reply[i : i + size]) for i in range(len(reply) - size + 1)}


def test_a_reply_may_end_as_an_earlier_one_did():
    logits, said = torch.zeros(1, 9), torch.tensor([[7, 3]])
    kept = ban_said_ngrams(logits, said, torch.full((1, 4), -1), torch.tensor([0]), 1, eos_token_id=7)
    assert kept[0, 3] == -torch.inf and kept[0, 7] == 0


def test_length_is_bounded_and_an_immediate_end_is_an_empty_reply(make_decoder):
    decoder = make_decoder()
    assert [len(reply) for reply in written(decoder, max_new_tokens=3)] == [3] * 5
    first = written(decoder, [0])[0][0]
    assert written(decoder, [0], eos=first) == [[]]


def test_padding_may_be_the_end_of_sequence(make_decoder):
    decoder = make_decoder()
    eos = frequent_token(written(decoder))
    assert written(decoder, eos=eos, pad_token_id=eos) == written(decoder, eos=eos)


# --- nucleus_choice ----------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().unsqueeze(0)  # in order: token 1, 3, 0, 2


@pytest.mark.parametrize(
    ("top_p", "uniform", "token"),
    [
        (0.7, 0.0, 1),  # kept: 0.5 and 0.3 of 0.8
        (0.7, 0.62, 1),
        (0.7, 0.63, 3),
        (0.7, 0.999999, 3),
        (0.45, 0.999999, 1),  # the first alone reaches it
        (0.9, 0.52, 1),  # kept: 0.5, 0.3 and 0.15 of 0.95
        (0.9, 0.54, 3),
        (0.9, 0.85, 0),
        (1.0, 0.49, 1),
        (1.0, 0.51, 3),
        (1.0, 0.81, 0),
        (1.0, 0.949, 0),
        (1.0, 0.951, 2),
    ],
)
def test_nucleus_by_hand(top_p, uniform, token):
    assert nucleus_choice(LOGITS, torch.tensor([uniform]), top_p, 1.0).tolist() == [token]


@pytest.mark.parametrize(("top_p", "temperature"), [(5e-324, 1.0), (1.0, 5e-324), (5e-324, 5e-324)])
def test_numbers_under_those_of_32_bits_keep_the_likeliest_token(top_p, temperature):
    assert nucleus_choice(LOGITS, torch.tensor([0.9]), top_p, temperature).tolist() == [1]


def test_temperature_divides_the_logits():
    flat = torch.tensor([0.15, 0.5, 0.05, 0.3]).sqrt()  # temperature 2
    flat = flat / flat.sum()
    for uniform in (flat[1] - 0.01, flat[1] + 0.01):
        expected = 1 if uniform < flat[1] else 3
        assert nucleus_choice(LOGITS, uniform.view(1), 1.0, 2.0).tolist() == [expected]


def test_frequencies_are_the_renormalised_probabilities():
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    tokens = nucleus_choice(LOGITS.expand(10_000, -1), uniforms, 0.9, 1.0)
    shares = torch.bincount(tokens, minlength=4) / 10_000
    torch.testing.assert_close(shares, torch.tensor([0.15, 0.5, 0.0, 0.3]) / 0.95, atol=2e-4, rtol=0)


def test_largest_uniform_stays_inside_the_nucleus():
    """torch.rand's largest value times the kept sum must not round up to it: no token is left beyond."""
    torch.manual_seed(0)
    logits, largest = torch.randn(500, 100) * 3, torch.full((500,), 1 - 2**-24)
    for top_p in (0.3, 0.9, 1.0):
        probabilities, order = torch.softmax(logits, -1).sort(descending=True)
        kept = (probabilities.cumsum(-1) - probabilities < top_p).sum(1)
        chosen = nucleus_choice(logits, largest, top_p, 1.0)
        assert ((order == chosen.unsqueeze(1)).long().argmax(1) < kept).all()


def test_a_few_tokens_give_what_all_would():
    """Whether a row's neighbours let a part of the vocabulary do or not, its token is the same, and the one by hand."""
    torch.manual_seed(0)
    logits, uniforms = torch.randn(300, 1000) * 6, torch.rand(300)
    flat = torch.zeros(1, 1000)  # 0.9 of it is more than any of the parts that are tried first
    wide = torch.randn(1, 1000)  # more than the first, less than the second
    alone = [
        nucleus_choice(row.unsqueeze(0), uniform.view(1), 0.9, 1.0).item()
        for row, uniform in zip(logits, uniforms)
    ]
    for neighbour in (flat, wide):
        together = nucleus_choice(
            torch.cat([logits, neighbour]), torch.cat([uniforms, torch.tensor([0.5])]), 0.9, 1.0
        )
        assert together[:-1].tolist() == alone
    largest = torch.full((300,), 1 - 2**-24)
    alone_whole = [nucleus_choice(row.unsqueeze(0), largest[:1], 1.0, 1.0).item() for row in logits]
    assert (
        nucleus_choice(torch.cat([logits, flat]), torch.cat([largest, largest[:1]]), 1.0, 1.0)[:-1].tolist()
        == alone_whole
    )
    for row, uniform, token in zip(logits[:50], uniforms, alone):
        chances, order = torch.softmax(row, -1).sort(descending=True)
        kept = chances[: int((chances.cumsum(0) < 0.9).sum()) + 1]
        assert token == order[int((kept.cumsum(0) <= uniform * kept.sum()).sum())]


def test_a_choice_that_asks_nothing_is_the_same_or_says_that_it_is_none():
    torch.manual_seed(0)
    sharp, uniforms = torch.randn(300, 1000) * 6, torch.rand(300)
    logits = torch.cat([sharp, torch.zeros(2, 1000)])  # the last two have their mass in 900 tokens
    uniforms = torch.cat([uniforms, torch.rand(2)])
    likely = likely_choice(logits, uniforms, 0.9, 1.0)
    expected = nucleus_choice(logits, uniforms, 0.9, 1.0)
    decided = likely != UNDECIDED
    assert decided.sum() > 250 and not decided[-2:].any()
    assert torch.equal(likely[decided], expected[decided])
    assert torch.equal(likely_choice(logits, uniforms, 1.0, 1.0), nucleus_choice(logits, uniforms, 1.0, 1.0))
    few = logits[:, :20]  # fewer than are tried
    assert torch.equal(likely_choice(few, uniforms, 0.9, 1.0), nucleus_choice(few, uniforms, 0.9, 1.0))


def test_banned_tokens_are_never_chosen():
    logits = torch.full((1, 6), -torch.inf)
    logits[0, 4] = 0.0
    for uniform in (0.0, 0.5, 0.9999999):
        assert nucleus_choice(logits, torch.tensor([uniform]), 1.0, 1.0).tolist() == [4]


def test_bad_options_are_refused(make_decoder):
    with pytest.raises(ValueError, match=r"decoding must be one of \('greedy', 'top_p'\), got 'beam'"):
        written(make_decoder(), decoding="beam")
    with pytest.raises(ValueError, match="top_p decoding needs one generator per row in `sources`"):
        written(make_decoder(), decoding="top_p")
    with pytest.raises(ValueError, match="guidance 2.0 needs the latents without control in `reference`"):
        written(make_decoder(), guidance=2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"decoding": "top_p", "repetition_penalty": 1.3, "context_block_ngram": 3}]
)
def test_a_step_that_is_kept_writes_a_later_calls_replies(make_decoder, kind, options, monkeypatch):
    """On a GPU a step is a graph that knows its tensors alone; here a function that runs the work again stands for it."""
    decoder, made = make_decoder(kind), []

    def reply(rows, z=None):
        sources = generators(5, [(str(row), "") for row in rows], "text") if options else None
        return written(decoder, rows, z=z, eos=5, sources=sources, **options)

    other = torch.randn(len(PROMPTS), 8, generator=torch.Generator().manual_seed(4))
    calls = [(range(5), None), (range(5), other), (range(2), None), (range(5), None), (range(2), other[:2])]
    plain = [reply(*call) for call in calls]
    monkeypatch.setattr(decoding_module, "can_record", lambda z: True)
    monkeypatch.setattr(decoding_module, "recorded", lambda work: made.append(work) or work)
    assert [reply(*call) for call in calls] == plain
    assert len(made) == 2  # for five replies and for two
    with torch.no_grad():
        next(decoder.parameters()).data = next(decoder.parameters()).data.clone()
    assert reply(*calls[0]) == plain[0] and len(made) == 3  # its weights lie elsewhere
    assert sum(map(len, decoder.kept_steps.values())) == KEPT
    other_thread = threading.Thread(target=reply, args=calls[2])
    other_thread.start()
    other_thread.join()
    assert len(decoder.kept_steps) == 2
    decoder.kept_steps.pop(threading.get_ident())
    reply(*calls[2])
    assert list(decoder.kept_steps) == [threading.get_ident()]  # what the ended thread held is given up
