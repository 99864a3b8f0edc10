"""The bench does the work that it says, and its floors count what they should."""

import json

import pytest
import torch

from scripts import bench


def test_every_figure_has_a_rate_and_a_floor(capsys, monkeypatch):
    monkeypatch.setattr(bench, "PIPELINE_CONTEXTS", 1)
    monkeypatch.setattr(bench, "NEW_TOKENS", 12)
    assert (
        bench.main(
            [
                "train",
                "encode",
                "ode",
                "generate",
                "pipeline",
                "--size",
                "demo",
                "--batch",
                "2",
                "--repeats",
                "1",
                "--json",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "by dopri5 at 1e-5" in printed.err
    figures = found["figures"]
    assert [figure["what"].split()[0] for figure in figures] == [
        "train",
        "encode",
        "ode",
        "generate",
        "pipeline",
    ]
    for figure in figures:
        if figure["what"] != "pipeline":
            assert (
                figure["floor_rate"] > 0 and figure["share_of_floor"] == figure["rate"] / figure["floor_rate"]
            )
        units = {"generate": 2 * bench.NEW_TOKENS, "pipeline": 8}.get(figure["what"], 2)
        assert figure["rate"] == pytest.approx(units / figure["seconds"])
    assert (
        found["machine"]["precision"] == ("bf16" if torch.cuda.is_available() else "fp32")
        and found["ceilings"]["bytes_per_second"] > 0
    )


def test_a_profile_says_where_the_time_goes(capsys):
    assert bench.main(["encode", "--size", "demo", "--batch", "2", "--repeats", "1", "--profile"]) == 0
    printed = capsys.readouterr()
    assert "s by the clock" in printed.err and "aten::addmm" in printed.err and "contexts/s" in printed.out


def test_operations_by_hand():
    """One layer of width 2, three tokens that see four keys: 12 * 4 weights and 2 * 2 * 4 products of attention, twice each."""
    assert bench.layer_operations(1, 2, 3, 4) == 3 * (2 * 48 + 4 * 2 * 4)


def test_replies_are_written_to_their_full_length():
    size = bench.SIZES["demo"]
    model = bench.build(size, torch.device("cpu"), True).eval()
    rows = bench.example_batch(size, 3, True, torch.device("cpu"))
    assert (rows["labels"] != -100).sum(1).tolist() == [bench.REPLY] * 3 and rows["decoder_ids"].shape[
        1
    ] == bench.CONTEXT + bench.REPLY
    tokens = bench.generate(
        model.decoder,
        torch.zeros(3, size.latent),
        rows["context_ids"],
        rows["context_mask"],
        eos_token_id=-1,
        pad_token_id=-2,
        max_new_tokens=5,
    )
    assert [len(row) for row in tokens] == [5] * 3
