"""The benchmarks of processes and of large decoders do the work that they say, and their arithmetic is right by hand."""

import csv

import pytest
import torch

from scripts import bench, bench_decoders, bench_processes
from scripts.bench_processes import PER_PROCESS, TOTAL, ProcessFigure
from scripts.shapes import SETUPS, build, decoders


def test_one_process_measures_everything(tmp_path, monkeypatch):
    monkeypatch.setitem(bench_processes.LOADS, "tiny", bench_processes.Load(2, 1, 2, 2, 16))
    monkeypatch.setattr(bench_processes, "NEW_TOKENS", 4)
    out = tmp_path / "figures.jsonl"
    bench_processes.measure(out, ["tiny"], ["train", "generate", "score"])
    found = [ProcessFigure(**bench_processes.json.loads(line)) for line in out.read_text().splitlines()]
    assert [(f.what, f.variant, f.kind, f.work) for f in found] == [
        *(
            ("train", variant, kind, 2)
            for variant in ("as usual", "recorded")
            for kind in (PER_PROCESS, TOTAL)
        ),
        *(("generate", "as usual", kind, 2) for kind in (PER_PROCESS, TOTAL)),
        *(("score", "as usual", kind, 16) for kind in (PER_PROCESS, TOTAL)),
    ]
    assert all(f.seconds > 0 and f.communication is None for f in found)


def test_efficiency_is_against_the_faster_of_one_process(tmp_path):
    def figure(count, variant, seconds):
        return ProcessFigure(
            "train", "chat", variant, TOTAL, count, 100, "examples/s", seconds, None, 1.0, "a card"
        )

    figures = [figure(1, "as usual", 20.0), figure(1, "recorded", 10.0), figure(4, "recorded", 3.125)]
    assert [bench_processes.efficiency(f, figures) for f in figures] == [0.5, 1.0, 0.8]
    assert bench_processes.efficiency(figures[2], figures[2:]) is None
    bench_processes.write_csv(tmp_path / "x.csv", figures)
    rows = list(csv.DictReader(open(tmp_path / "x.csv", newline="")))
    assert rows[2]["rate"] == "32.0" and rows[2]["efficiency"] == "0.8" and rows[0]["communication"] == ""
    assert "80%" in bench_processes.table(figures)


@pytest.mark.slow
def test_two_processes_measure(tmp_path, capfd):
    place = tmp_path / "processes.csv"
    words = ["--processes", "2", "--sizes", "tiny", "--what", "train", "score", "--csv", str(place)]
    assert bench_processes.main(words) == 0
    rows = list(csv.DictReader(open(place, newline="")))
    assert len(rows) == 6 and {row["processes"] for row in rows} == {"2"}
    assert all(float(row["communication"]) > 0 for row in rows if row["what"] == "train")
    assert bench_processes.main([*words, "--minutes", "0.001"]) == 1
    assert "2 processes: no time left" in capfd.readouterr().out


def test_decoders_are_measured_and_what_does_not_fit_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_decoders, "NEW_TOKENS", 4)
    place, none = tmp_path / "decoders.csv", bench_decoders.training_step
    words = [
        "--decoders",
        "tiny",
        "--examples",
        "4",
        "--batch",
        "1",
        "3",
        "--repeats",
        "1",
        "--csv",
        str(place),
    ]
    assert bench_decoders.main([*words, "--modes", "adapters", "all weights"]) == 0
    rows = list(csv.DictReader(open(place, newline="")))
    assert [(row["what"], row["batch"]) for row in rows] == [
        ("train, adapters", "4"),
        ("train, all weights", "4"),
        ("decode", "1"),
        ("decode", "3"),
    ]
    assert all(float(row["rate"]) > 0 and float(row["floor"]) > 0 for row in rows)

    def full(decoder, mode, examples, machine, recomputed):
        step = none(decoder, mode, examples, machine, recomputed)

        def try_it(batch):
            if batch > 1:
                raise torch.OutOfMemoryError
            step(batch)

        return try_it

    monkeypatch.setattr(bench_decoders, "training_step", full)
    machine = bench_decoders.Machine(32)
    assert bench_decoders.train("tiny", "adapters", 4, machine, 1).batch == 1
    machine.room = 1e5
    assert "tiny: all weights does not fit" in bench_decoders.train("tiny", "all weights", 4, machine, 1)
    line = bench_decoders.does_not_fit("Qwen2.5-1.5B", "all weights")
    assert "1.54 B parameters take 24.7 GB before any batch; what would fit: --lora_rank 16" in line
    line = bench_decoders.does_not_fit("Llama-3.2-3B", "all weights, 8-bit moments")
    assert "take 32.1 GB before any batch; what would fit: --lora_rank 16, or --bf16_decoder true" in line
    assert "take 19.3 GB" in bench_decoders.does_not_fit("Llama-3.2-3B", "all weights, bf16, 8-bit moments")
    assert "--load_4bit" in bench_decoders.does_not_fit("Llama-3.2-3B", "adapters")


def test_all_weights_are_trained_in_bf16():
    pytest.importorskip("bitsandbytes")
    machine = bench_decoders.Machine(32)
    step = bench_decoders.training_step("tiny", "all weights, bf16, 8-bit moments", 4, machine, True)
    step(4)
    step(2)  # two batches a step, as where memory asks for it
    figure = bench_decoders.train("tiny", "all weights, bf16, 8-bit moments", 4, machine, 1)
    assert (figure.what, figure.batch) == ("train, all weights, bf16, 8-bit moments", 4) and figure.rate > 0


def test_weights_are_counted_as_they_are():
    """Layers and embedding; norms and biases, a thousandth, are left out."""
    config = decoders()["tiny"]
    lm = build(SETUPS["tiny"], torch.device("cpu")).decoder.lm
    products = sum(p.numel() for p in lm.parameters() if p.dim() == 2)
    assert sum(bench_decoders.numbers_of(config)) == products
    sizes = {
        name: sum(bench_decoders.numbers_of(one)) / 1e9
        for name, one in decoders().items()
        if name in bench_decoders.LARGE
    }
    assert {name: round(size, 2) for name, size in sizes.items()} == {
        "Qwen2.5-0.5B": 0.49,
        "Qwen2.5-1.5B": 1.54,
        "Llama-3.2-1B": 1.24,
        "Llama-3.2-3B": 3.21,
    }


def test_sixteen_candidates_are_written_and_one_is_chosen(monkeypatch):
    monkeypatch.setattr(bench, "PIPELINE_CONTEXTS", 1)
    monkeypatch.setattr(bench, "NEW_TOKENS", 4)
    chosen, choose = [], bench.Bench.choose
    monkeypatch.setattr(bench.Bench, "choose", lambda *args: chosen.append(choose(*args)))
    measuring = bench.Bench(torch.device("cpu"), torch.float32, "demo", True, 1, candidates=3)
    figure = measuring.pipeline(8)
    assert figure.rate == pytest.approx(8 / figure.seconds)
    assert all(len(best) == 8 and set(best) <= {0, 1, 2} for best in chosen) and chosen
