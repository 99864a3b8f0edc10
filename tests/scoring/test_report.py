"""The HTML reports: what they show is what was measured, every text is text, and the reply browser does what it says."""

import copy
import json
import re
from functools import partial
from html.parser import HTMLParser

import pytest

from common.errors import InputError
from scoring.report import __main__ as command
from scoring.report import plots
from scoring.report.comparison_report import verdict, write_comparison_report
from scoring.report.replies import read_replies
from scoring.report.run_report import (
    SECTIONS,
    curves,
    generate_command,
    page_content,
    read_run,
    write_run_report,
)
from scoring.report.wording import chance

ASPECTS = {"style": ["plain", "lyrical"], "mood": ["calm", "angry", "sad"]}
EVIL = "<script>alert(1)</script>"
CLOSING = "</script><b>out</b>"
TARGETS = [{"style": style, "mood": mood} for style in ASPECTS["style"] for mood in ASPECTS["mood"]]


def m(shift=0.0, n=12):
    """An M of the results contract; `shift` makes its numbers tell whose they are."""
    confusion = {
        name: {"labels": labels, "counts": [[4 if i == j else 1 for j in labels] for i in labels]}
        for name, labels in ASPECTS.items()
    }
    return {
        "attributes": {
            "style": {"accuracy": 0.811 - shift, "probability": 0.7, "confusion": confusion["style"]},
            "mood": {"accuracy": 0.622 - shift, "probability": 0.6, "confusion": confusion["mood"]},
        },
        "accuracy_mean": 0.7165 - shift, "accuracy_joint": 0.5432 - shift, "probability_mean": 0.65, "nli": 0.3217 - shift,
        "ppl": None, "bleu": 3.14, "rouge1": 12.5, "rouge2": 2.25, "rougeL": 10.75, "distinct1": 0.4, "distinct2": 0.8, "distinct3": 0.9,
        "self_bleu": 22.2, "repetition": 0.05, "length": 7.7, "empty": 0.0, "n": n,
        "ci95": {
            "accuracy_mean": [0.6011 - shift, 0.8022 - shift], "accuracy_joint": [0.4033 - shift, 0.6044 - shift],
            "style.accuracy": [0.7055 - shift, 0.9066 - shift],
        },
    }  # fmt: skip


def generation(number, target, response="A quiet reply."):
    predicted = {"style": ASPECTS["style"][number % 2], "mood": ASPECTS["mood"][number // 2 % 3]}
    chances = {
        name: {aspect: 0.8 if aspect == predicted[name] else 0.2 / (len(known) - 1) for aspect in known}
        for name, known in ASPECTS.items()
    }
    return {
        "id": str(number), "context": ["Is it late?", "Not very.", f"What about number {number // 6}?"], "target": target,
        "response": response, "reference": None if number % 2 else "A reference.", "predicted": predicted, "probabilities": chances,
        "nli": round(number % 100 / 100, 2), "seed": 0,
    }  # fmt: skip


def evaluator(name):
    labels = ASPECTS[name]
    counts = [[9 if i == j else 2 for j in labels] for i in labels]
    bins = [
        {"confidence": 0.55, "accuracy": 0.5, "n": 3},
        {"confidence": 0.93, "accuracy": 0.9, "n": 20},
        {"confidence": None, "accuracy": None, "n": 0},
    ]
    return {
        "accuracy": 0.8765,
        "base": "scratch",
        "hash": "0" * 16,
        "confusion": {"labels": labels, "counts": counts},
        "calibration": {"ece": 0.0456, "bins": bins},
    }


def results():
    return {
        "format": 1,
        "overall": m(),
        "by_target": {"+".join(target.values()): m(number / 100, 2) for number, target in enumerate(TARGETS)},
        "baseline": m(0.3),
        "evaluators": {
            "style": evaluator("style"),
            "mood": evaluator("mood"),
            "nli": {"accuracy": 0.7654, "base": "scratch", "hash": "1" * 16, "audit": {"real": 0.9, "random": 0.1, "shuffled": 0.85}},
        },
        "warnings": [f"coherence: {EVIL} is fooled"],
        "run": {
            "command": "bash pipeline.sh", "seed": 0, "date": "2026-11-22", "device": "cpu",
            "config": {
                "generation": {"attributes": ASPECTS, "name": f"{CLOSING} & more", "limit": None, "score": True, EVIL: 1}, "empty": {},
            },
        },
    }  # fmt: skip


def latents():
    band = {"mean": [300.0, 20.0, 1.0], "low": [100.0, 5.0, 0.1], "high": [500.0, 50.0, 3.0]}
    share = {"mean": [0.4, 0.7, 0.9], "low": [0.1, 0.4, 0.8], "high": [0.8, 0.9, 1.0]}
    points = [
        {"target": target, "start": [0.1 * i, 0.0], "end": [1.0 + i, -0.5 * i]}
        for i, target in enumerate(TARGETS)
    ]
    return {
        "attributes": ASPECTS, "axes": {"explained": [0.31, 0.12]}, "prior": [[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6]], "points": points,
        "time": [0.0, 2.5, 5.025], "energy": band, "probability": {"style": share, "mood": share},
    }  # fmt: skip


def history():
    keys = (
        "loss",
        "reconstruction",
        "kl",
        "kl_unclamped",
        "classification",
        "distance",
        "head_accuracy",
        "prior_std",
        "posterior_std",
        "context",
    )
    train = [
        dict.fromkeys(keys, 3.0 / step) | {"kl_weight": 0.1, "step": step, "epoch": step}
        for step in (1, 2, 3)
    ]
    dev = [
        {f"eval_{key}": 0.0 if key == "context" else 2.0 / step for key in keys} | {"step": step}
        for step in (1, 3)
    ]
    return [*train, *dev, {"train_runtime": 3.0, "step": 3}]


def build(folder):
    """A run's folder with every file that the report can use."""
    rows = [generation(number, target) for number, target in enumerate(TARGETS * 2)]
    rows[0]["response"] = f"First {EVIL}"
    rows[1]["context"] = [f"Say {CLOSING}"]
    (folder / "results").mkdir(parents=True)
    (folder / "cvae").mkdir()
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(folder / "results.json", results())
    save(folder / "results" / "control.latents.json", latents())
    points = [
        {
            "weight": weight,
            "overall": m(0.1 / weight),
            "warnings": ["halve the step"] if weight == 100 else [],
        }
        for weight in (1, 10, 100)
    ]
    save(folder / "results" / "control.sweep.json", {"points": points})
    save(folder / "cvae" / "stage.json", {"metrics": {"history": history()}})
    return folder


@pytest.fixture
def run(tmp_path):
    """A run's folder that a test may change."""
    return build(tmp_path / "my run")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of an unchanged run; its pictures take seconds, so it is written once."""
    return write_run_report(build(tmp_path_factory.mktemp("report") / "my run"))


@pytest.fixture(scope="module")
def page(report):
    return Page(report)


def without_pictures(run):
    """Leave the replies and the numbers, for a report that is written at once."""
    bare = results() | {"by_target": {}, "evaluators": {}}
    for own in bare["overall"]["attributes"].values():
        del own["confusion"]
    save(run / "results.json", bare)
    for path in ("results/control.latents.json", "results/control.sweep.json", "cvae/stage.json"):
        (run / path).unlink(missing_ok=True)
    return run


def save(path, content):
    path.write_text(json.dumps(content))


class Page(HTMLParser):
    """What a browser sees: tags with attributes, text, and the cells of table rows by their ``data-key``."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.cells, self.open = [], [], {}, []
        self.key = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "tr":
            self.key = dict(attributes).get("data-key")
        if tag == "td" and self.key:
            self.cells.setdefault(self.key, []).append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)
            if self.key and "td" in self.open:
                self.cells[self.key][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def cell(self, key, column):
        return " ".join(self.cells[key][column].split())

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def replies_data(page):
    return json.loads(re.search(r'id="reply-data">(.*?)</script>', page.source, re.DOTALL).group(1))


# --- the page of a run ---------------------------------------------------------------------------------------------


def test_all_sections_are_there_and_none_is_missing(page):
    assert {section.get("id") for section in page.all("section")} >= set(SECTIONS)
    assert {link["href"] for link in page.all("a")} >= {f"#{name}" for name in SECTIONS}
    assert "Not in this run" not in page.text
    assert "2026-11-22" in page.text and "cpu" in page.text and "Run my run" in page.text
    # 1 heat map, 2 + 2 confusions, 2 reliability diagrams, audit, 2 latent spaces, energy + 2 probabilities, 2 of the dial, 11 curves
    assert len(page.all("svg")) == 1 + 4 + 2 + 1 + 2 + 3 + 2 + 11
    assert "weight 100: halve the step" in page.text


def test_the_first_paragraph_compares_with_no_control_and_chance(page):
    text = page.text
    assert (
        "mean accuracy of 0.717 [0.601, 0.802]" in text and "joint accuracy of 0.543 [0.403, 0.604]" in text
    )
    assert "Without control they predict them with 0.417 and 0.243." in text
    assert "A blind guess has 0.417 and 0.167. The interval of the joint accuracy lies above chance." in text


def test_the_numbers_in_the_table_are_the_inputs(page):
    assert page.cell("accuracy_joint", 0) == "0.543 [0.403, 0.604]"
    assert page.cell("accuracy_joint", 1) == "0.243 [0.103, 0.304]"
    assert page.cell("accuracy of style", 0) == "0.811 [0.706, 0.907]"
    assert page.cell("accuracy of mood", 0) == "0.622"
    assert page.cell("nli", 0) == "0.322" and page.cell("nli", 2) == "0.765"
    assert page.cell("bleu", 1) == "3.14" and page.cell("n", 0) == "12"
    assert page.cell("accuracy of style", 2) == "0.876"  # 0.8765 is a little less in binary
    assert (
        page.text.count("style 0.876, mood 0.876, coherence (NLI) 0.765") >= 5
    )  # beside every number that rests on them


def test_every_text_is_escaped(page):
    assert EVIL not in page.source and CLOSING not in page.source
    assert EVIL in page.text and f"{CLOSING} & more" in page.text  # but it is shown, as text
    data = replies_data(page)
    assert data["rows"][0]["r"] == f"First {EVIL}" and data["contexts"][data["rows"][1]["c"]] == [
        f"Say {CLOSING}"
    ]
    assert "<" not in re.search(r'id="reply-data">(.*?)</script>', page.source, re.DOTALL).group(1)


def test_the_page_reaches_for_nothing_outside(page):
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)
    assert "default-src 'none'" in page.source
    names = {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # of the pictures' language, never fetched
    assert set(re.findall(r"https?://[^\"'\s<]+", page.source)) == names


def test_every_picture_says_what_it_shows(page):
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in page.all("svg"))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for used in re.findall(r"url\(#([^)]+)\)", page.source):
        assert used in identifiers
    for words in (
        "PC 1 (31 % of the prior's variance)",
        "energy (nats, weighted)",
        "nats per token",
        "nats per example",
        "style on dev: ECE 0.046",
    ):
        assert words in page.text


def test_missing_files_leave_sections_out_and_say_how_to_get_them(run):
    (without_pictures(run) / "generations.jsonl").unlink()
    save(
        run / "results.json",
        json.loads((run / "results.json").read_text()) | {"baseline": None, "warnings": [], "run": {}},
    )
    page = Page(write_run_report(run))
    assert page.all("svg") == [] and page.text.count("Not in this run") == 10
    for how in (
        "--name none --algorithm none",
        "--trace",
        "--sweep_weights",
        "train_cvae.sh",
        "train_classifier.sh",
        "gen_cvae.sh",
    ):
        assert how in page.text
    assert (
        "No warnings were recorded." in page.text and page.cell("accuracy_joint", 0) == "0.543 [0.403, 0.604]"
    )


def test_results_of_an_older_version_are_read(run):
    old = results()
    for own in [old["overall"], old["baseline"], *old["by_target"].values()]:
        del own["ci95"], own["rouge1"], own["distinct3"]
    for record in old["evaluators"].values():
        record.pop("confusion", None), record.pop("calibration", None), record.pop("audit", None)
    (run / "cvae" / "stage.json").unlink()
    save(run / "results.json", old)
    page = Page(write_run_report(run))
    assert page.cell("accuracy_joint", 0) == "0.543" and "rouge1" not in page.cells


def test_what_has_no_value_anywhere_is_neither_in_the_table_nor_among_the_definitions(page):
    """Of a run without references, eight rows were dashes, and MAUVE was defined that no row had."""
    assert not {"ppl", "mauve", "bleu1"} & set(page.cells)
    assert "perplexity" not in page.text and "MAUVE" not in page.text and "was not computed" not in page.text
    assert "corpus BLEU" in page.text


def test_a_run_of_few_rows_says_so_and_its_advice_names_run_and_schema(run):
    few = json.loads((without_pictures(run) / "results.json").read_text())
    assert "limit" not in Page(write_run_report(run)).text.split("What this says")[0]
    few["run"]["command"] = "python scripts/pipeline.py --preset scratch --run r --limit 20"
    few["run"]["config"]["generation"] |= {"schema": "my_schema.py", "limit": 20}
    few["run"]["config"]["cvae"] = {"limit": 20}
    save(run / "results.json", few)
    text = Page(write_run_report(run)).text
    assert "trained with limit 20 (rows per file)" in text.split("What this says")[0]
    command = "PRESET=scratch SCHEMA=my_schema.py RUN='my run' bash gen_cvae.sh --limit 20"
    assert f"{command} --sweep_weights 1,10,100,1000 writes it" in text
    few["run"] = {"config": {"generation": {"schema": "schema.py"}}}
    assert generate_command("r", few) == "RUN=r bash gen_cvae.sh"


def test_five_replies_stand_under_the_summary(page):
    top = page.source[: page.source.index('class="contents"')]
    assert top.count('<article class="reply">') == 5 and "5 of 12 replies" in top
    assert top.count('class="turn"') == 5 and "What about number" in top and "✓" in top and "✗" in top
    assert top.index('class="abstract"') < top.index('class="samples"') < top.index('class="warnings"')


def test_a_heat_map_of_many_rows_and_columns_keeps_to_the_page():
    """Of 24 combinations of four attributes the colour bar was cut at 1200 pixels."""
    names = [f"lyrical, optimistic, emotional, playful {number:02}" for number in range(24)]
    columns = ["languagestyle", "attitude", "mindchar", "manner", "joint", "coherence"]
    for headings in (columns, ["languagestyle"] * 8):
        values = [[0.5] * len(headings)] * len(names)
        picture = str(plots.heat_map(values, names, headings, "Accuracy", "share", "aspects asked for"))
        assert float(re.search(r"width:(\d+)px", picture).group(1)) <= 930
        assert picture.count(">languagestyle<") == headings.count("languagestyle")


def test_chance_is_the_product_over_the_attributes_named():
    by_target = {"plain+calm": {"n": 3}, "lyrical": {"n": 1}, "(none)": {"n": 9}}
    assert chance(by_target, ASPECTS) == pytest.approx(
        ((3 * (1 / 2 + 1 / 3) / 2 + 1 / 2) / 4, (3 / 6 + 1 / 2) / 4)
    )
    assert chance({"plain+happy": {"n": 1}}, ASPECTS) is None and chance({}, ASPECTS) is None


def test_a_term_that_dev_does_not_compute_has_no_dev_curve():
    pictures = {
        re.match(r'.*?aria-label="([^,]*), ([^"]*)"', picture, re.DOTALL).group(1): str(picture)
        for picture in curves(history())
    }
    assert (
        "dev from" not in pictures["context"].split(">")[0]
        and "dev from" in pictures["reconstruction"].split(">")[0]
    )


def test_a_single_weight_is_drawn_inside_its_picture():
    """A log axis that spans nothing put the points of a sweep with one weight beside the picture."""
    picture = str(plots.dial([{"weight": 5.0, "overall": m()}]))
    width = float(re.search(r'viewBox="0 0 ([0-9.]+)', picture).group(1))
    places = [float(x) for x in re.findall(r'<use [^>]*?x="([-0-9.]+)"', picture)]
    most = max(
        set(places), key=places.count
    )  # dots and the ends of their intervals; 0 when they were beside it
    assert 0.3 * width < most < width


def test_a_name_is_never_set_as_mathematics():
    picture = plots.dots(["$x^$", "_hidden"], [0.1, 0.2], [None, [0.1, 0.3]], "$y_$", "share")
    assert "1 $x^$" in picture and "2 _hidden" in picture and ">$y_$<" in picture


def test_without_results_one_line_says_so(tmp_path):
    with pytest.raises(InputError, match="no results.json; generate and score replies first") as error:
        write_run_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("results.json", "{", r"results\.json: not UTF-8 JSON"),
        ("results.json", "[1]", r"results\.json: expected a JSON object, found list"),
        ("results.json", "{}", "results.json: no 'overall' in it"),
        (
            "generations.jsonl",
            '{"context": ["a"], "target": {}}\n',
            r"generations\.jsonl:1: expected 'response' of type str, found None",
        ),
        ("cvae/stage.json", "nonsense", r"stage\.json: not UTF-8 JSON"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, message):
    (run / name).write_text(content)
    with pytest.raises(InputError, match=message):
        write_run_report(run)
    assert not (run / "report.html").exists()


def test_the_command_writes_where_it_is_told(run, tmp_path, capsys):
    without_pictures(run)
    assert command.main([str(run)]) == 0 and (run / "report.html").is_file()
    assert command.main([str(run), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == (
        run / "report.html"
    ).read_bytes()  # and the same bytes twice
    assert capsys.readouterr().out.endswith(f"-> {tmp_path / 'new' / 'page.html'}\n")


# --- the replies in the page -----------------------------------------------------------------------------------------


def test_rows_are_compact_and_complete(run):
    replies = read_replies(run / "generations.jsonl", ASPECTS)
    row = replies.rows[4]  # target lyrical, angry; predicted plain, sad
    assert row == {
        "c": row["c"],
        "t": [1, 1],
        "r": "A quiet reply.",
        "f": "A reference.",
        "h": [[0, 0.8, 0.2], [2, 0.8, 0.1]],
        "n": 0.04,
    }
    assert len(replies.contexts) == 3 and replies.total == 12


def test_unscored_rows_unknown_aspects_and_broken_text_are_shown(tmp_path):
    path = tmp_path / "generations.jsonl"
    rows = [
        {"context": ["Hello"], "target": {"mood": "wry"}, "response": "\ud800 Hi", "nli": float("nan")},
        {"context": ["Hello"], "target": {}, "response": ""},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    replies = read_replies(path, ASPECTS)
    assert replies.attributes[1] == ["mood", ["calm", "angry", "sad", "wry"]]
    assert (
        replies.rows[0]["t"] == [-1, 3]
        and replies.rows[0]["h"] == [None, None]
        and replies.rows[0]["n"] is None
    )
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder / "results.json", results())
    path.rename(folder / "generations.jsonl")
    assert replies_data(Page(write_run_report(folder)))["rows"][0]["r"] == "? Hi"


def test_only_the_first_rows_are_embedded_and_the_page_says_so(run, monkeypatch):
    monkeypatch.setattr(
        "scoring.report.run_report.read_replies", lambda path, aspects: read_replies(path, aspects, limit=5)
    )
    page = Page(write_run_report(without_pictures(run)))
    assert (
        len(replies_data(page)["rows"]) == 5
        and "Only the first 5 of 12 replies are in this page" in page.text
    )


# --- the page of a comparison ----------------------------------------------------------------------------------------


def comparison():
    second = copy.deepcopy(m(0.2))
    second["self_bleu"], second["length"] = 12.2, 9.7
    names = ("first", f"second {EVIL} $x_$")
    systems = [
        {
            "name": name,
            "overall": own,
            "by_target": {"plain+calm": own, "plain+sad": own},
            "evaluators": results()["evaluators"],
            "warnings": [f"{name} warns"],
        }
        for name, own in zip(names, (m(), second))
    ]
    differences = {
        "accuracy_joint": [None, {"value": -0.2, "ci95": [-0.25, -0.15]}],
        "nli": [None, {"value": -0.2, "ci95": [-0.5, 0.1]}],
        "self_bleu": [None, {"value": -10.0, "ci95": [-12.0, -8.0]}],
        "length": [None, {"value": 2.0, "ci95": [1.0, 3.0]}],
        "bleu": [None, None],
        "rougeL": [None, {"value": 0.5, "ci95": None}],
        "ppl": [None, None],
    }
    return {
        "systems": systems,
        "requests": 12,
        "warnings": ["evaluators differ"],
        "metrics": list(differences),
        "differences": differences,
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The report of `comparison`."""
    return write_comparison_report(comparison(), tmp_path_factory.mktemp("comparison") / "comparison.html")


def test_differences_are_marked_where_their_interval_excludes_0(compared):
    page = Page(compared)
    assert page.cell("accuracy_joint", 0) == "0.543 [0.403, 0.604]"
    assert page.cell("accuracy_joint", 1) == "0.343 [0.203, 0.404] ▼ worse −0.200 [−0.250, −0.150]"
    assert page.cell("nli", 1) == "0.122 −0.200 [−0.500, 0.100]"
    assert page.cell("self_bleu", 1) == "12.2 ▲ better −10.0 [−12.0, −8.0]"
    assert page.cell("length", 1) == "9.7 ◆ differs +2.0 [1.0, 3.0]"
    assert page.cell("rougeL", 1) == "10.75 +0.50" and page.cell("bleu", 1) == "3.14"
    assert "ppl" not in page.cells  # no system has one
    assert (
        "evaluators differ" in page.text and "first: first warns" in page.text and "12 requests" in page.text
    )
    assert len(page.all("svg")) == 6 + 1 and all(svg["aria-label"] for svg in page.all("svg"))


def test_a_comparison_escapes_names(compared):
    page = Page(compared)
    assert EVIL not in page.source and f"second {EVIL} $x_$" in page.text


def test_evaluators_that_differ_are_named_per_system(tmp_path):
    found = comparison()
    found["systems"][1]["evaluators"] = {"style": {"accuracy": 0.5}}
    text = Page(write_comparison_report(found, tmp_path / "comparison.html")).text
    assert "differs between the systems" in text and "style 0.500" in text


def test_the_direction_of_a_difference():
    assert verdict("nli", [0.1, 0.2]) == verdict("empty", [-0.2, -0.1]) == "better"
    assert verdict("nli", [-0.2, -0.1]) == verdict("empty", [0.1, 0.2]) == "worse"
    assert verdict("nli", [0.0, 0.2]) == verdict("nli", None) == "" and verdict("length", [1, 2]) == "differs"
    assert verdict("nli", [-4e-4, -1e-17]) == "" and verdict("ppl", [0.04, 0.04]) == ""  # written as 0


def test_a_comparison_of_nothing_or_of_unknown_metrics_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one system"):
        write_comparison_report({"systems": []}, tmp_path / "comparison.html")
    with pytest.raises(InputError, match=r"unknown metrics \['charm'\]"):
        write_comparison_report(comparison() | {"metrics": ["charm"]}, tmp_path / "comparison.html")


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(open_chromium):
    """One browser for all tests here."""
    running = open_chromium()
    yield running
    running.quit()


def resized(browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def arrived(browser, address):
    return browser.execute_script(
        "return location.href === arguments[0] && document.readyState === 'complete'", address
    )


def opened(browser, page, width=1280):
    from selenium.webdriver.support.wait import WebDriverWait

    resized(browser, width)
    for address in (
        "about:blank",
        page.resolve().as_uri(),
    ):  # once in twenty runs the page before was still there after get()
        browser.get(address)
        WebDriverWait(browser, 10).until(partial(arrived, address=address))


def chosen(browser, **values):
    """Set the form's fields, named as in it (``wanted0`` is the first attribute's), and return the rows' indices."""
    script = """
        const form = document.getElementById("filters");
        form.reset();
        for (const [name, value] of Object.entries(arguments[0])) {
          const [, field, k] = name.match(/^([a-z]+)([0-9]*)$/);
          form.querySelector(k ? `[name=${field}][data-attribute="${k}"]` : `[name=${field}]`).value = value;
        }
        form.dispatchEvent(new Event("input"));
        return Array.from(document.querySelectorAll("#rows article"), row => Number(row.dataset.index));
    """
    return browser.execute_script(script, values)


def test_a_run_in_a_browser_has_no_errors_and_shows_text_as_text(browser, report):
    opened(browser, report)
    assert browser.get_log("browser") == []
    first = browser.find_element("css selector", "#rows article").text
    assert f"First {EVIL}" in first and "U:" in first and "Reference: A reference." in first
    assert "✓ plain: predicted 0.80" in first and "coherence 0.00, joint probability 0.64" in first
    assert browser.find_elements("css selector", "#rows b b, #rows script") == []


def test_filters_do_what_they_say(browser, report):
    opened(browser, report)
    rows = [json.loads(line) for line in (report.parent / "generations.jsonl").read_text().splitlines()]
    right = [{name: row["predicted"][name] == row["target"][name] for name in ASPECTS} for row in rows]
    everyone = range(len(rows))
    assert chosen(browser) == list(everyone)
    assert chosen(browser, wanted0="1") == [i for i in everyone if rows[i]["target"]["style"] == "lyrical"]
    assert chosen(browser, wanted0="0", wanted1="2") == [
        i for i in everyone if rows[i]["target"] == {"style": "plain", "mood": "sad"}
    ]
    assert chosen(browser, predicted1="right") == [i for i in everyone if right[i]["mood"]]
    wrong = [i for i in everyone if not right[i]["style"]]
    assert chosen(browser, predicted0="wrong") == wrong and 0 < len(wrong) < len(rows)
    assert chosen(browser, joint="right") == [i for i in everyone if all(right[i].values())]
    assert chosen(browser, joint="wrong") == [i for i in everyone if not all(right[i].values())]
    assert chosen(browser, coherence="0.09") == [9, 10, 11]
    assert chosen(browser, words="NUMBER 1") == [6, 7, 8, 9, 10, 11] and chosen(
        browser, words="first <script>"
    ) == [0]
    assert chosen(browser, order="coherence,-1") == list(reversed(everyone))
    products = [
        row["probabilities"]["style"][row["target"]["style"]]
        * row["probabilities"]["mood"][row["target"]["mood"]]
        for row in rows
    ]
    assert chosen(browser, order="probability,1") == sorted(everyone, key=lambda i: round(products[i], 6))
    assert browser.find_element("id", "count").text == "12 of 12 replies"
    assert (
        chosen(browser, words="nowhere") == []
        and browser.find_element("id", "count").text == "No reply fits these filters."
    )
    browser.find_element("css selector", "button[type=reset]").click()
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert browser.find_element("id", "count").text == "12 of 12 replies"


def test_rows_without_scores_come_last_and_fit_no_score_filter(browser, run):
    rows = [generation(i, TARGETS[i]) for i in range(4)]
    rows[0] |= {"nli": None, "predicted": None, "probabilities": None}
    (run / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(browser, write_run_report(without_pictures(run)))
    assert chosen(browser, order="coherence,1") == [1, 2, 3, 0] and chosen(browser, order="coherence,-1") == [
        3,
        2,
        1,
        0,
    ]
    assert 0 not in chosen(browser, predicted0="wrong") + chosen(browser, predicted0="right") + chosen(
        browser, joint="wrong"
    ) + chosen(browser, coherence="0.01")
    assert browser.get_log("browser") == []


def test_ten_thousand_rows_are_filtered_in_under_100_ms(browser, run):
    words = ("harbour", "window", "kettle", "grey", "lantern", "walk", "bread", "river", "letter", "quiet")
    with open(run / "generations.jsonl", "w") as out:
        for i in range(10_050):
            text = " ".join(words[(i * 7 + j * j) % 10] for j in range(25)) + f" {i}."
            out.write(json.dumps(generation(i, TARGETS[i % 6], text)) + "\n")
    opened(browser, write_run_report(without_pictures(run)))
    times = []
    for values in (
        {"words": "river letter"},
        {"words": "q"},
        {"order": "probability,-1"},
        {"predicted0": "right", "joint": "wrong", "order": "coherence,1", "coherence": "0.3"},
        {},
    ):
        assert len(chosen(browser, **values)) == 50
        times.append(browser.execute_script("return window.__lastFilterMs"))
    assert max(times) < 100, times
    assert "10000 of 10000 replies, the first 50 shown" in browser.find_element("id", "count").text
    browser.find_element("id", "more").click()
    assert len(browser.find_elements("css selector", "#rows article")) == 100
    assert "Only the first 10,000 of 10,050 replies" in browser.find_element("id", "replies").text


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser, report, compared, width):
    for path in (report, compared):
        opened(browser, path, width)
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_no_text_of_a_picture_is_clipped(browser, report, compared):
    """Every label lies inside its picture, whatever font the page puts in the place of Matplotlib's."""
    script = """
        return Array.from(document.querySelectorAll("svg text")).filter(text => {
          const a = text.getBoundingClientRect(), b = text.closest("svg").getBoundingClientRect();
          return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
        }).map(text => text.textContent);
    """
    for path in (report, compared):
        opened(browser, path)
        assert browser.execute_script(script) == []


def test_printing_opens_what_is_folded(browser, report):
    opened(browser, report)
    count = "return document.querySelectorAll('details:not([open])').length"
    folded = browser.execute_script(count)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert folded > 0 and browser.execute_script(count) == 0
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(count) == folded


def test_pictures_of_other_weights_are_left_out_with_a_warning(run):
    content = results() | {"run": results()["run"] | {"cvae": "c1"}}
    save(run / "results.json", content)
    save(run / "cvae" / "stage.json", {"metrics": {"hash": "c2"}})
    save(run / "results" / "control.sweep.json", {"points": [], "cvae": "c2"})
    files = read_run(run)
    assert files.latents and files.sweep is None
    assert [line.partition(" and is")[0] for line in files.stale] == [
        "stale: results.json was measured with another CVAE than my run holds now; measure again: bash gen_cvae.sh",
        "stale: results/control.sweep.json was made with another CVAE than results.json",
    ]
    assert set(files.stale) <= set(page_content(files)["warnings"])
