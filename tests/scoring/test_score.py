"""Scoring without the generator, comparing runs, and what a reviewer would try on both."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.schema import load_schema
from scoring import compare, score
from scoring.calibration import calibration, dev_report
from scoring.generations import read_generations

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [
    {"languagestyle": a, "attitude": b} for a in ("plain", "lyrical") for b in ("pessimistic", "optimistic")
]


def row(context, target, right, nli=0.5, response=None, **other):
    """A scored row whose first `right` attributes are predicted as asked for."""
    opposite = {
        "plain": "lyrical",
        "lyrical": "plain",
        "pessimistic": "optimistic",
        "optimistic": "pessimistic",
    }
    predicted, probabilities = {}, {}
    for number, (name, aspect) in enumerate(target.items()):
        predicted[name] = aspect if number < right else opposite[aspect]
        probabilities[name] = {predicted[name]: 0.9, opposite[predicted[name]]: 0.1}
    text = response if response is not None else f"reply to {context} as {' '.join(target.values())}"
    scores = {"predicted": predicted, "probabilities": probabilities, "nli": nli, "nats": 6.0, "tokens": 4}
    return {
        "context": [context],
        "target": target,
        "response": text,
        "reference": f"reply to {context}",
        **scores,
        **other,
    }


def rows(seed, contexts=30, chance=0.7):
    rng = np.random.default_rng(seed)
    return [
        row(f"question {c}", t, int(rng.binomial(2, chance)), float(rng.uniform()))
        for c in range(contexts)
        for t in TARGETS
    ]


@pytest.fixture
def save(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in content))
        return path

    return write


SCHEMA = ["--schema", str(ROOT / "schema.py")]


def test_a_file_from_elsewhere_is_summed_up_from_its_scores(save, capsys):
    path = save(
        "llm.jsonl",
        [
            row("a", TARGETS[0], 2, 0.4),
            row("a", TARGETS[1], 1, 0.6),
            row("b", TARGETS[0], 0, 0.8, response=""),
        ],
    )
    assert score.main([str(path), "--no-evaluators", *SCHEMA]) == 0
    record = json.loads((path.parent / "llm.results.json").read_text())
    m = record["overall"]
    assert (m["accuracy_mean"], m["accuracy_joint"]) == (0.5, pytest.approx(1 / 3)) and m[
        "nli"
    ] == pytest.approx(0.6)
    assert m["ppl"] == pytest.approx(np.exp(18 / 12)) and m["empty"] == pytest.approx(1 / 3) and m["n"] == 3
    assert m["attributes"]["languagestyle"]["confusion"]["counts"] == [[2, 1], [0, 0]]
    assert record["by_target"]["plain+pessimistic"]["n"] == 2 and record["run"]["requests"]["contexts"] == 2
    assert "llm: 3 replies" in capsys.readouterr().out


@pytest.mark.slow
def test_rescoring_a_run_gives_the_same_numbers(tiny_run, tmp_path):
    """The evaluators of a real (tiny) run score again what they have scored, and a stranger's file."""
    import gen_cvae

    run = Path(shutil.copytree(tiny_run, tmp_path / "r"))
    gen_cvae.main(
        [
            "--outs",
            str(tmp_path),
            "--run",
            "r",
            "--limit",
            "6",
            "--sweep_weights",
            "1,5",
            "--candidates",
            "2",
            "--overwrite",
            *SCHEMA,
        ]
    )
    before = json.loads((run / "results.json").read_text())
    latents = json.loads((run / "results" / "control.latents.json").read_text())
    assert len(latents["points"]) == 48 and len(latents["time"]) == len(latents["energy"]["mean"]) == 17
    assert latents["energy"]["mean"][-1] < latents["energy"]["mean"][0] and latents["time"][
        -1
    ] == pytest.approx(5.025)
    sweep = json.loads((run / "results" / "control.sweep.json").read_text())["points"]
    assert [point["weight"] for point in sweep] == [1, 5] and sweep[0]["overall"]["n"] == 48
    rows = list(read_generations(run / "generations.jsonl", load_schema()))
    people = [row["reference"] for row in rows if row["reference"]]
    assert before["references"]["n"] == len(people) > 0 and before["references"]["bleu"] is None
    assert before["references"]["length"] == pytest.approx(np.mean([len(reply.split()) for reply in people]))
    page = (run / "report.html").read_text()
    assert '<th scope="col">real replies</th>' in page and "Of the real replies to the same contexts" in page
    evaluator = before["evaluators"]["attitude"]
    assert (
        sum(map(sum, evaluator["confusion"]["counts"])) == 6
        and 0 <= evaluator["calibration"]["ece"] <= 1
        and "audit" in before["evaluators"]["nli"]
    )

    assert score.main([str(run), *SCHEMA]) == 0
    after = json.loads((run / "results.json").read_text())
    assert (
        after["overall"] == before["overall"]
        and after["baseline"] == before["baseline"]
        and after["references"] == before["references"]
        and after["run"]["config"] == before["run"]["config"]
    )
    foreign = tmp_path / "llm.jsonl"
    foreign.write_text(
        json.dumps({"context": ["How are you?"], "target": {"attitude": "optimistic"}, "response": "Fine!"})
        + "\n"
    )
    assert score.main([str(foreign), "--run", str(run), *SCHEMA]) == 0
    kept = next(read_generations(run / "generations" / "llm.jsonl", load_schema()))
    assert json.loads((run / "results" / "llm.json").read_text())["references"] is None
    assert (
        set(kept["probabilities"]["attitude"]) == {"pessimistic", "optimistic"}
        and (run / "results" / "llm.json").is_file()
    )
    assert json.loads(foreign.read_text()).keys() == {
        "context",
        "target",
        "response",
    }  # the source is not changed


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"context": "a", "target": {}, "response": "b"}, "'context' must be a list of turns"),
        ({"context": ["a"], "target": {"attitude": "happy"}, "response": "b"}, "unknown aspect 'happy'"),
        ({"context": ["a"], "target": {"mood": "calm"}, "response": "b"}, "unknown attribute 'mood'"),
        ({"context": ["a"], "target": {}, "response": None}, "'response' must be a string"),
        (
            {
                "context": ["a"],
                "target": {"attitude": "optimistic"},
                "response": "b",
                "predicted": {"mindchar": "critical"},
            },
            "without 'predicted' and 'probabilities'",
        ),
        ({"context": ["a"], "target": {}, "response": "b", "nli": "high"}, "'nli': expected a number"),
        ("{", "not a line of UTF-8 JSON"),
    ],
)
def test_a_bad_row_is_named(save, bad, message):
    path = save("g.jsonl", [row("a", TARGETS[0], 2), bad])
    with pytest.raises(InputError, match=rf"g\.jsonl:2: .*{message}"):
        score.main([str(path), "--no-evaluators", *SCHEMA])


def test_what_cannot_be_scored_says_why(save, tmp_path):
    with pytest.raises(InputError, match="which evaluators are to score it"):
        score.main([str(save("g.jsonl", rows(0))), *SCHEMA])
    with pytest.raises(InputError, match="not found"):
        score.main([str(tmp_path / "nothing"), *SCHEMA])
    with pytest.raises(InputError, match="no generations"):
        score.main([str(tmp_path), *SCHEMA])


# --- comparison ------------------------------------------------------------------------------------------------------


def test_a_run_compared_with_itself_differs_by_0(save):
    path = save("a.jsonl", rows(0))
    comparison = compare.compare([path, save("b.jsonl", rows(0))], load_schema())
    for key, (_, entry) in comparison["differences"].items():
        assert entry is None or (entry["value"] == 0 and entry["ci95"] in (None, [0, 0])), key
    assert comparison["differences"]["accuracy_mean"][1]["ci95"] == [0, 0]


def test_two_seeds_overlap_and_a_better_system_does_not():
    schema = load_schema()
    from scoring.columns import Gatherer
    from scoring.generations import checked
    from scoring.results import measure

    def m(seed, chance):
        gatherer = Gatherer(schema)
        gatherer.add([checked(r, schema, "x", 0) for r in rows(seed, 60, chance)])
        return measure(gatherer.finish())

    a, b, better = m(1, 0.6), m(2, 0.6), m(3, 0.9)
    for key in ("accuracy_mean", "accuracy_joint", "nli"):
        (low_a, high_a), (low_b, high_b) = a["ci95"][key], b["ci95"][key]
        assert low_a < high_b and low_b < high_a and low_a < a[key] < high_a
    assert better["ci95"]["accuracy_joint"][0] > a["ci95"]["accuracy_joint"][1]


def test_paired_differences_by_hand_and_by_resampling(save):
    """b is right wherever a is, and in ten of thirty contexts more: the interval is that of a mean of 30 zeros and ones."""
    target = TARGETS[0]
    a = save("a.jsonl", [row(f"q{i}", target, 0) for i in range(30)])
    b = save("b.jsonl", [row(f"q{i}", target, 2 * (i < 10)) for i in range(29, -1, -1)])  # in another order
    entry = compare.compare([a, b], load_schema())["differences"]["accuracy_joint"][1]
    assert entry["value"] == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    draws = [(rng.integers(30, size=30) < 10).mean() for _ in range(5000)]
    assert entry["ci95"] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.04)
    assert compare.difference_cell("accuracy_joint", entry).endswith("]*")
    noise = {"value": -2e-17, "ci95": [-4e-4, -1e-17]}
    assert compare.difference_cell("accuracy_joint", noise) == "+0.000 [0.000, 0.000]"


def test_only_requests_that_all_answered_count(save):
    a, b = rows(0, 10), rows(1, 8)
    comparison = compare.compare([save("a.jsonl", a), save("b.jsonl", b)], load_schema())
    assert comparison["requests"] == 32 and comparison["systems"][0]["overall"]["n"] == 32
    assert "a: 8 of 40 replies" in comparison["warnings"][0]
    with pytest.raises(InputError, match="no request .* in common"):
        compare.compare([save("a.jsonl", a), save("c.jsonl", [row("other", TARGETS[0], 1)])], load_schema())
    with pytest.raises(InputError, match="two or more runs"):
        compare.compare([save("a.jsonl", a)], load_schema())


def test_different_evaluators_are_a_warning(save, tmp_path):
    paths = []
    for name, one in (("a", "1"), ("b", "2")):
        save(
            f"{name}/results.json",
            [
                json.dumps(
                    {
                        "overall": {},
                        "evaluators": {"attitude": {"accuracy": 0.9, "hash": one}},
                        "warnings": [],
                    }
                )
            ],
        )
        paths.append(save(f"{name}/generations.jsonl", rows(0, 3)).parent)
    assert "the attitude evaluators differ" in compare.compare(paths, load_schema())["warnings"][0]


def test_the_systems_own_warnings_are_printed_and_kept_with_the_latex_table(save, tmp_path, capsys):
    runs = []
    for name in ("a", "b"):
        save(
            f"{name}/results.json",
            [json.dumps({"overall": {}, "warnings": [f"{name} is fooled by 5 %"] * (name == "b")})],
        )
        runs.append(str(save(f"{name}/generations.jsonl", rows(0, 3)).parent))
    compare.main([*runs, "--latex", str(tmp_path / "t.tex"), "--csv", str(tmp_path / "t.csv"), *SCHEMA])
    assert "\nwarning: b: b is fooled by 5 %\n" in capsys.readouterr().out
    assert (tmp_path / "t.tex").read_text().startswith("% warning: b: b is fooled by 5 %\n\\begin{table}")
    assert "fooled" not in (tmp_path / "t.csv").read_text()


def test_markdown_csv_and_latex(save, tmp_path, capsys):
    a, b = save("a_1.jsonl", rows(0)), save("b%2.jsonl", rows(1, chance=0.95))
    assert (
        compare.main(
            [str(a), str(b), "--csv", str(tmp_path / "t.csv"), "--latex", str(tmp_path / "t.tex"), *SCHEMA]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "| accuracy↑" in out and "b%2 - a_1" in out and "*" in out
    with open(tmp_path / "t.csv") as content:
        table = {(r["system"], r["metric"]): r for r in csv.DictReader(content)}
    joint = table["b%2", "accuracy_joint"]
    assert float(joint["difference"]) == pytest.approx(
        float(joint["value"]) - float(table["a_1", "accuracy_joint"]["value"])
    )
    assert (
        joint["better"] == "higher"
        and table["a_1", "ppl"]["better"] == "lower"
        and table["a_1", "length"]["better"] == ""
    )
    text = (tmp_path / "t.tex").read_text()
    assert (
        r"a\_1" in text
        and r"b\%2" in text
        and r"$\uparrow$" in text
        and text.count(r"\\") >= 10
        and "_" not in text.replace(r"\_", "")
    )


# --- the evaluators' own errors --------------------------------------------------------------------------------------


def test_calibration_by_hand():
    """Two bins: 0.6 confident and half right, 0.9 and all right: (2 * 0.1 + 2 * 0.1) / 4."""
    probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9]])
    found = calibration(probabilities, [0, 0, 0, 1])
    assert found["ece"] == pytest.approx(0.1)
    assert [(round(b["confidence"], 2), b["accuracy"], b["n"]) for b in found["bins"]] == [
        (0.6, 0.5, 2),
        (0.9, 1.0, 2),
    ]
    assert calibration(np.array([[1.0, 0.0]]), [0]) == {
        "ece": 0.0,
        "bins": [{"confidence": 1.0, "accuracy": 1.0, "n": 1}],
    }
    assert calibration(np.zeros((0, 2)), []) == {"ece": None, "bins": []}


def test_dev_report_names_the_labels_and_counts_true_by_heard():
    probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1]])
    assert dev_report(probabilities, [0, 0, 1], ["plain", "lyrical"])["confusion"] == {
        "labels": ["plain", "lyrical"],
        "counts": [[1, 1], [1, 0]],
    }


def test_scores_in_the_file_need_no_torch(save):
    """A hundred thousand replies fit where a deep-learning library alone would fill a quarter of the memory."""
    path = save("g.jsonl", rows(0, 3))
    code = f"import sys; from scoring import score; score.main([{str(path)!r}, '--no-evaluators', '--schema', 'schema.py']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_times_of_a_way_are_those_of_its_points():
    """With a linear energy and a unit prior dz/ds is constant, so that places tell the times."""
    import torch

    from generation.problem import Problem, trajectory_times
    from model.gaussian import Gaussian
    from model.sampler import PSEUDO_TIME, SamplerSettings

    pull, zeros = torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2)
    problem = Problem(
        zeros,
        Gaussian(zeros, zeros),
        lambda rows: lambda z: (z * pull).sum(1),
        torch.zeros(1, 0),
        [("0", "")],
    )
    path, energies = problem.trajectory(SamplerSettings(), 8)
    assert path[:, 0, 0].tolist() == pytest.approx(trajectory_times(8), abs=1e-4) and energies[
        :, 0
    ].tolist() == pytest.approx((-path[:, 0, 0]).tolist())
    assert trajectory_times(8)[-1] == pytest.approx(PSEUDO_TIME)


def test_a_stranger_s_file_does_not_take_the_place_of_the_run_s_own(tiny_run, tmp_path, save):
    run = Path(shutil.copytree(tiny_run, tmp_path / "r"))
    before = (run / "generations.jsonl").read_bytes()
    with pytest.raises(InputError, match="replies of its own called 'control'"):
        score.main([str(save("control.jsonl", rows(0, 2))), "--run", str(run), *SCHEMA])
    assert (run / "generations.jsonl").read_bytes() == before


def test_replies_no_better_than_random_ones_are_a_warning():
    from scoring.results import floor_warnings

    audit = {"real": 0.8, "random": 0.14}
    assert re.search(
        r"score 0\.15, .* 0\.14; not more than 0\.05 above those, so no better than random",
        floor_warnings(0.15, audit)[0],
    )
    assert floor_warnings(0.5, audit) == floor_warnings(None, audit) == floor_warnings(0.1, None) == []
