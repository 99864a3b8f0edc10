"""model/cvae.py and model/config.py: the joined model, its loss, its weights on disk, and the way from context to reply."""

import pytest
import torch

from generation.decoding import generate
from model.config import MiracleConfig
from model.cvae import MiracleModel
from model.energy import aspect_energy
from model.gaussian import kl_per_dimension
from model.losses import TERMS, LossWeights
from model.noise import generators, normal
from model.prior import combine, of_attribute, of_targets
from model.sampler import SamplerSettings, sample_ode

WEIGHTS = LossWeights(kl=0.5, classification=2.0, distance=0.1, free_bits=0.05)
NOISE = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def terms_of(model, batch, weights=WEIGHTS):
    with torch.no_grad():
        return model(**batch, weights=weights, noise=NOISE)


def test_loss_is_the_weighted_sum_of_its_terms(make_miracle, batch):
    terms = terms_of(make_miracle(), batch)
    expected = (
        terms["reconstruction"] + 0.5 * terms["kl"] + 2.0 * terms["classification"] + 0.1 * terms["distance"]
    )
    torch.testing.assert_close(terms["loss"], expected)
    assert all(
        torch.isfinite(term) and term > 0
        for name, term in terms.items()
        if name not in ("head_accuracy", "context", "flow")
    )


def test_a_further_term_is_a_function_and_a_line(make_miracle, batch, monkeypatch):
    """It is weighed and logged by its name, and what it logs beside is not minimised."""
    model = make_miracle()
    plain = terms_of(model, batch)
    further = lambda given: {"size": given.z.pow(2).mean(), "largest": given.z.abs().max().detach()}  # noqa: E731
    monkeypatch.setitem(TERMS, "size", further)
    with torch.no_grad():
        terms = model(**batch, weights=WEIGHTS.replace(size=3.0), noise=NOISE)
    assert [*terms] == [*plain, "size", "largest"] and terms["size"] > 0
    torch.testing.assert_close(terms["loss"], plain["loss"] + 3.0 * terms["size"])
    assert terms_of(model, batch)["loss"] == plain["loss"]  # without a weight it is only logged


def test_a_weight_of_no_term_is_refused():
    with pytest.raises(ValueError, match="no such term of the loss: klt; there are reconstruction, kl,"):
        LossWeights(0.05, klt=1.0)


def test_terms_are_those_of_the_parts(make_miracle, batch):
    model = make_miracle()
    terms = terms_of(model, batch)
    with torch.no_grad():
        prior = of_attribute(
            model.encode_prior(batch["context_ids"], batch["context_mask"]), batch["targets"].argmax(1)
        )
        posterior = model.encode_posterior(
            batch["posterior_ids"], batch["posterior_mask"], batch["posterior_types"]
        )
        z = posterior.sample(NOISE)
        logits = model.decoder(batch["decoder_ids"], batch["decoder_mask"], z)
    torch.testing.assert_close(terms["kl_unclamped"], kl_per_dimension(posterior, prior).sum(1).mean())
    own = torch.stack(
        [
            torch.log_softmax(model.heads(z)[k][i], -1)[a]
            for i, (k, a) in enumerate(zip(batch["targets"].argmax(1), batch["targets"].amax(1)))
        ]
    )
    torch.testing.assert_close(terms["classification"], -own.mean().detach())
    losses = [
        -torch.log_softmax(logits[i, t - 1], -1)[label]
        for i, row in enumerate(batch["labels"])
        for t, label in enumerate(row)
        if label != -100
    ]
    torch.testing.assert_close(terms["reconstruction"], torch.stack(losses).mean())
    torch.testing.assert_close(
        (terms["prior_std"], terms["posterior_std"]), (prior.std.mean(), posterior.std.mean())
    )


def test_logits_of_the_responses_alone_give_the_loss_of_all(make_miracle, batch):
    model = make_miracle()
    assert (
        batch["response_length"]
        == max((row != -100).sum() for row in batch["labels"])
        < batch["labels"].shape[1]
    )
    everything = {key: value for key, value in batch.items() if key != "response_length"}
    torch.testing.assert_close(terms_of(model, everything), terms_of(model, batch), atol=1e-6, rtol=1e-6)
    with_context = WEIGHTS.replace(context=1.0)  # which needs the context's logits
    with torch.no_grad():
        full, short = (model(**rows, weights=with_context, noise=NOISE) for rows in (everything, batch))
    torch.testing.assert_close(full, short)
    assert short["context"] > 0


def test_loss_does_not_depend_on_padding(make_miracle, batch):
    model, fill = make_miracle(), {"labels": -100}
    wider = {}
    for key, value in batch.items():
        sides = (
            (5, 0) if key.startswith("decoder") or key == "labels" else (0, 5)
        )  # the decoder's columns are padded on the left
        wider[key] = (
            torch.nn.functional.pad(value, sides, value=fill.get(key, 0))
            if torch.is_tensor(value) and value.dim() == 2 and key != "targets"
            else value
        )
    torch.testing.assert_close(terms_of(model, wider), terms_of(model, batch), atol=1e-5, rtol=1e-5)


def test_latents_of_an_example_do_not_depend_on_its_batch(make_miracle, batch):
    model = make_miracle()
    with torch.no_grad():
        priors = model.encode_prior(batch["context_ids"], batch["context_mask"])
        posteriors = model.encode_posterior(
            batch["posterior_ids"], batch["posterior_mask"], batch["posterior_types"]
        )
    for row in range(5):
        one = {key: value[row : row + 1] for key, value in batch.items() if torch.is_tensor(value)}
        ids, mask, types = (
            one[f"posterior_{name}"][:, : one["posterior_mask"].sum()] for name in ("ids", "mask", "types")
        )
        context = (one[f"context_{name}"][:, : one["context_mask"].sum()] for name in ("ids", "mask"))
        with torch.no_grad():
            prior, posterior = model.encode_prior(*context), model.encode_posterior(ids, mask, types)
        for alone, together in zip((*prior, *posterior), (*priors, *posteriors)):
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_noise_decides_the_posterior_sample(make_miracle, batch):
    model = make_miracle()
    assert terms_of(model, batch)["loss"] == terms_of(model, batch)["loss"]
    torch.manual_seed(0)
    first, second = (model(**batch, weights=WEIGHTS)["loss"].item() for _ in range(2))
    assert first != second  # drawn anew where none is given


@pytest.mark.parametrize(
    ("kind", "tie_encoders", "prior"), [("gpt2", False, "per_attribute"), ("llama", True, "per_attribute")]
)
def test_every_parameter_learns(kind, tie_encoders, prior, make_miracle, batch):
    """A parameter without a gradient would stop distributed training, or be dead weight in every checkpoint."""
    model = make_miracle(kind, tie_encoders=tie_encoders, prior=prior).train()
    model(**batch, weights=WEIGHTS)["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("term", ["kl", "classification", "distance"])
def test_every_term_reaches_the_posterior(term, make_miracle, batch):
    model, gradients = make_miracle(), []
    for weights in (WEIGHTS, WEIGHTS.replace(**{term: 0.0})):
        model.zero_grad()
        model(**batch, weights=weights, noise=NOISE)["loss"].backward()
        gradients.append(model.posterior.weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-5


def test_training_lowers_the_loss(make_miracle, batch):
    model = make_miracle().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = terms_of(model.eval(), batch)
    for _ in range(25):
        optimizer.zero_grad()
        model.train()(**batch, weights=WEIGHTS)["loss"].backward()
        optimizer.step()
    after = terms_of(model.eval(), batch)
    assert (
        after["reconstruction"] < 0.7 * before["reconstruction"]
        and after["classification"] < before["classification"]
    )


# --- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_encoders", [False, True])
@pytest.mark.parametrize(("kind", "tied"), [("gpt2", True), ("llama", False), ("llama", True)])
def test_saved_model_has_the_same_loss(kind, tied, tie_encoders, make_miracle, batch, tmp_path):
    model = make_miracle(kind, tie_encoders=tie_encoders, decoder={"tie_word_embeddings": tied})
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in files and not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    torch.manual_seed(99)  # a weight that is not read would be drawn anew
    loaded = MiracleModel.from_pretrained(tmp_path).eval()
    assert terms_of(loaded, batch) == terms_of(model, batch)
    head, embeddings = loaded.decoder.lm.get_output_embeddings(), loaded.decoder.lm.get_input_embeddings()
    assert (head.weight is embeddings.weight) == tied and (loaded.posterior_encoder is None) == tie_encoders


def test_attribute_order_survives_saving(make_miracle, three, tmp_path):
    """The order is the index order of heads, priors and targets; JSON written with sorted keys would lose it."""
    model = make_miracle()
    model.save_pretrained(tmp_path)
    assert (
        list(MiracleConfig.from_pretrained(tmp_path).attributes)
        == three.names
        == ["style", "attitude", "mood"]
    )


def test_settings_survive_saving(make_miracle, tmp_path):
    options = {
        "prior": "shared",
        "use_context": False,
        "template": {"user_prefix": "<u>", "turn_end": "\n"},
        "decoder_length": 77,
    }
    model = make_miracle(**options)
    model.save_pretrained(tmp_path)
    loaded = MiracleConfig.from_pretrained(tmp_path)
    assert (
        {key: getattr(loaded, key) for key in options} == options
        and loaded.latent_size == 8
        and loaded.n_prefix == 3
    )


def test_same_seed_builds_the_same_model(make_miracle):
    first, second, other = (make_miracle(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["posterior.weight"], other["posterior.weight"])


def test_new_layers_start_at_unit_scale_and_bases_at_their_own(make_miracle):
    model = make_miracle().requires_grad_(False)
    assert model.posterior.weight.std() == pytest.approx(32**-0.5, rel=0.1)
    assert model.prior.project.weight.std() == pytest.approx(32**-0.5, rel=0.1)
    for small in (model.decoder.to_prefix, model.decoder.to_offset):  # beside what they join
        assert 0 < small.weight.std() < 0.15 * 8**-0.5
    assert model.posterior.bias.abs().max() == model.decoder.to_prefix.bias.abs().max() == 0
    assert model.prior_encoder.transformer.embeddings.word_embeddings.weight.std() == pytest.approx(
        0.2, rel=0.1
    )
    assert model.decoder.lm.get_input_embeddings().weight.std() == pytest.approx(0.3, rel=0.1)


def test_base_parameters_are_those_of_the_bases_alone(make_miracle):
    for tie_encoders in (False, True):
        model = make_miracle(tie_encoders=tie_encoders)
        base = model.base_parameters()
        ours = {
            name.split(".")[0] + "." + name.split(".")[1]
            for name, p in model.named_parameters()
            if id(p) not in base
        }
        assert ours == {
            "prior.project",
            "posterior.weight",
            "posterior.bias",
            "heads.heads",
            "decoder.to_prefix",
            "decoder.to_offset",
            "decoder.to_logits",
        }


def test_prior_heads_follow_the_setting(make_miracle, batch):
    for setting, equal in (("per_attribute", False), ("shared", True)):
        priors = make_miracle(prior=setting).encode_prior(batch["context_ids"], batch["context_mask"])
        assert priors.mean.shape == (5, 3, 8) and torch.equal(priors.mean[:, 0], priors.mean[:, 2]) == equal
    with pytest.raises(
        ValueError, match=r"prior must be one of \('per_attribute', 'shared'\), got 'standard'"
    ):
        MiracleConfig(prior="standard")


def test_an_example_of_several_labels_is_held_against_their_combined_prior(make_miracle, batch):
    """And a batch whose examples name one each gives, to the bit, what it gives beside such an example."""
    model = make_miracle()
    targets = batch["targets"].clone()
    targets[1] = torch.tensor([1, 0, 2])
    for combination in ("average", "product"):
        weights = LossWeights(prior_combination=combination, kl=1.0)
        several = terms_of(model, batch | {"targets": targets}, weights)
        with torch.no_grad():
            priors = model.encode_prior(batch["context_ids"], batch["context_mask"])
            own = of_targets(priors, batch["targets"], combination)
            together = combine(priors, targets >= 0, combination)
            prior = of_targets(priors, targets, combination)
            posterior = model.encode_posterior(
                batch["posterior_ids"], batch["posterior_mask"], batch["posterior_types"]
            )
        assert torch.equal(own.mean, of_attribute(priors, batch["targets"].argmax(1)).mean)
        torch.testing.assert_close((prior.mean[1], prior.logvar[1]), (together.mean[1], together.logvar[1]))
        assert torch.equal(prior.mean[[0, 2, 3, 4]], own.mean[[0, 2, 3, 4]])
        torch.testing.assert_close(several["kl_unclamped"], kl_per_dimension(posterior, prior).sum(1).mean())


def test_one_attribute_with_three_aspects(make_miracle, batch):
    model = make_miracle(attributes={"mood": ["calm", "angry", "sad"]})
    terms = terms_of(model, batch | {"targets": torch.tensor([[0], [1], [2], [1], [0]])})
    assert terms["distance"] == 0 and torch.isfinite(terms["loss"])


# --- from context to reply ------------------------------------------------------------------------------------------------


@torch.no_grad()
def replies(model, batch, targets, rows, decoding):
    """What generation does: prior, combination, sampler, decoder; for some rows of a batch."""
    targets = torch.tensor(targets)[rows]
    prior = combine(
        model.encode_prior(batch["context_ids"][rows], batch["context_mask"][rows]), targets >= 0, "product"
    )
    keys = [(str(row), "target") for row in rows]
    start = prior.sample(normal(generators(0, keys, "start"), 8))
    energy = lambda part: aspect_energy(model.heads, targets[part], torch.tensor([1.0, 30.0, 128.0]))  # noqa: E731
    z = sample_ode(SamplerSettings(steps=8, max_halvings=2), start, prior, energy).z
    prompts = [
        row[row_labels == -100][:12]
        for row, row_labels in zip(batch["decoder_ids"][rows], batch["labels"][rows])
    ]
    width = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0), value=1) for p in prompts])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(p), (width - len(p), 0)) for p in prompts])
    options = {
        "eos_token_id": 0,
        "pad_token_id": 1,
        "max_new_tokens": 16,
        "decoding": decoding,
        "no_repeat_ngram_size": 3,
    }
    return generate(model.decoder, z, ids, mask, sources=generators(0, keys, "text"), **options)


@pytest.mark.parametrize("decoding", ["greedy", "top_p"])
def test_replies_do_not_depend_on_batch(decoding, make_miracle, batch):
    model, targets = make_miracle(), [[0, 1, 2], [1, -1, -1], [-1, 0, 0], [0, 0, -1], [1, 1, 1]]
    together = replies(model, batch, targets, [0, 1, 2, 3, 4], decoding)
    assert len({tuple(reply) for reply in together}) == 5
    assert [replies(model, batch, targets, [row], decoding)[0] for row in range(5)] == together
    assert replies(model, batch, targets, [4, 2, 0, 1, 3], decoding) == [
        together[row] for row in (4, 2, 0, 1, 3)
    ]


def test_a_checkpoint_without_the_tied_weight_is_whole_to_the_trainer(make_miracle, tmp_path, monkeypatch):
    from safetensors.torch import load_file
    from transformers import Trainer, TrainingArguments

    model, said = make_miracle(), []
    model.save_pretrained(tmp_path)
    assert set(model.state_dict()) - set(load_file(tmp_path / "model.safetensors")) == {
        "decoder.lm.lm_head.weight"
    }
    monkeypatch.setattr("transformers.trainer.logger.warning", said.append)
    other = make_miracle(seed=1)
    Trainer(other, TrainingArguments(str(tmp_path), report_to="none"))._load_from_checkpoint(str(tmp_path))
    assert said == [] and other.decoder.lm.lm_head.weight is other.decoder.lm.transformer.wte.weight
    torch.testing.assert_close(other.state_dict(), model.state_dict())
