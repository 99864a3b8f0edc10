"""The sheet for human evaluation: blinded, balanced and drawn by a seed; answers come back as hand-counted win rates."""

import csv
import io
import itertools
import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from common.entry import run_main
from common.errors import InputError
from scoring import sheet

ASPECTS = list(itertools.product(("plain", "lyrical"), ("pessimistic", "optimistic")))


def row(context, aspects, response):
    context = [context] if isinstance(context, str) else context
    return {
        "id": "0",
        "context": context,
        "target": dict(zip(("style", "attitude"), aspects)),
        "response": response,
    }


def rows_of(system, contexts=12, targets=4):
    """A reply per context and target; it carries a word of its own per system, which is not the system's name."""
    word = {"zebra": "stripes", "quokka": "pouch", "walrus": "tusks"}[system]
    return [
        row(f"Question {c}?", aspects, f"{word} {c} {' '.join(aspects)}")
        for c in range(contexts)
        for aspects in ASPECTS[:targets]
    ]


@pytest.fixture
def runs(tmp_path):
    """Writes runs' folders from ``name=rows`` (default: `rows_of`), and returns their paths as the command line takes them."""

    def write(*names, **given):
        for name in (*names, *given):
            folder = tmp_path / "outs" / name
            folder.mkdir(parents=True, exist_ok=True)
            rows = given.get(name) or rows_of(name)
            (folder / "generations.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
            )
        return [str(tmp_path / "outs" / name) for name in (*names, *given)]

    return write


@pytest.fixture
def export(tmp_path):
    """Exports into a new folder, and returns the folder, the CSV's rows and the key."""
    numbers = itertools.count()

    def run(systems, items=20, seed=0):
        folder = tmp_path / f"sheet{next(numbers)}"
        assert (
            sheet.main(
                ["export", *systems, "--items", str(items), "--seed", str(seed), "--output-dir", str(folder)]
            )
            == 0
        )
        text = (folder / "for_annotators" / "sheet.csv").read_bytes().decode("utf-8-sig")
        return (
            folder,
            list(csv.DictReader(io.StringIO(text, newline=""))),
            json.loads((folder / "key.json").read_text(encoding="utf-8")),
        )

    return run


@pytest.fixture
def hand_made(tmp_path):
    """A sheet's folder with four items, of which the second and the fourth show the second system as A; three contexts."""
    sides = [
        ("zebra", "quokka", "one"),
        ("quokka", "zebra", "one"),
        ("zebra", "quokka", "two"),
        ("quokka", "zebra", "three"),
    ]
    items = {
        f"sabcdef-{n}": {"A": a, "B": b, "context": [c], "target": {}} for n, (a, b, c) in enumerate(sides, 1)
    }
    key = {
        "format": 1,
        "sha256": "abcdef",
        "seed": 0,
        "systems": ["zebra", "quokka"],
        "equal_comparisons_left_out": 0,
        "items": items,
    }
    folder = tmp_path / "hand"
    folder.mkdir()
    (folder / "key.json").write_text(json.dumps(key))
    return folder


@pytest.fixture
def answers(tmp_path):
    """Writes a file of answers from lines such as ``1,A,=,B``: item, personality, coherence, fluency."""

    def write(name, *lines, heading="item,personality,coherence,fluency"):
        path = tmp_path / name
        path.write_text("\n".join([heading, *(f"sabcdef-{line}" for line in lines)]) + "\n", encoding="utf-8")
        return str(path)

    return write


def read(folder, *paths):
    return sheet.read(Path(folder), [Path(path) for path in paths])


# --- export ----------------------------------------------------------------------------------------------------------


def test_annotators_files_name_no_system(runs, export, tmp_path):
    folder, rows, key = export(runs("zebra", "quokka"))
    shown = (folder / "for_annotators" / "sheet.csv").read_text("utf-8-sig") + (
        folder / "for_annotators" / "sheet.html"
    ).read_text("utf-8")
    assert not re.search("zebra|quokka|outs|generations", shown) and str(tmp_path) not in shown
    assert key["systems"] == ["zebra", "quokka"] and list(key["items"]) == [r["item"] for r in rows]


def test_csv_and_form_show_the_same_and_the_key_says_whose_it_is(runs, export):
    folder, rows, key = export(runs("zebra", "quokka"))
    assert list(rows[0]) == [
        "item",
        "context",
        "wanted",
        "reply_A",
        "reply_B",
        "personality",
        "coherence",
        "fluency",
        "comment",
    ]
    assert (folder / "for_annotators" / "sheet.csv").read_bytes().startswith(b"\xef\xbb\xbfitem,")
    form = (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    word = {"zebra": "stripes", "quokka": "pouch"}
    for r in rows:
        assert [r[name] for name in ("personality", "coherence", "fluency", "comment")] == [""] * 4
        item = key["items"][r["item"]]
        assert (
            r["reply_A"].startswith(word[item["A"]])
            and r["reply_B"].startswith(word[item["B"]])
            and item["A"] != item["B"]
        )
        number = re.fullmatch(r"User: Question (\d+)\?", r["context"])[1]
        assert item["context"] == [f"Question {number}?"]
        assert r["wanted"] == f"{item['target']['style']}, {item['target']['attitude']}"
        assert (
            r["reply_A"].split(" ", 1)[1]
            == r["reply_B"].split(" ", 1)[1]
            == f"{number} {r['wanted'].replace(',', '')}"
        )
        section = form.split(f'data-item="{r["item"]}"')[1].split("</section>")[0]
        shown = re.findall(r"(Reply [AB])</h3>\s*<p dir=\"auto\">(.*)</p>", section)
        assert shown == [("Reply A", r["reply_A"]), ("Reply B", r["reply_B"])]
        assert f"<strong>{r['wanted']}</strong>?" in section


def test_context_turns_are_told_apart(runs, export):
    talk = ["Will it rain?", "It may.", "Shall I stay?"]
    systems = runs(zebra=[row(talk, ASPECTS[0], "Stay.")], quokka=[row(talk, ASPECTS[0], "Go.")])
    folder, rows, _ = export(systems)
    assert rows[0]["context"] == "User: Will it rain?\nAssistant: It may.\nUser: Shall I stay?"
    assert "<strong>Assistant:</strong> It may.</p>" in (folder / "for_annotators" / "sheet.html").read_text(
        "utf-8"
    )


def test_a_seed_fixes_the_sheet(runs, export):
    systems = runs("zebra", "quokka")
    one, other, third = (export(systems, seed=seed)[0] for seed in (3, 3, 4))
    for name in ("for_annotators/sheet.csv", "for_annotators/sheet.html", "key.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
        assert (one / name).read_bytes() != (third / name).read_bytes()


def test_the_folder_that_is_sent_holds_no_key(runs, export):
    folder, _, _ = export(runs("zebra", "quokka"))
    assert {path.name for path in (folder / "for_annotators").iterdir()} == {"sheet.csv", "sheet.html"}
    assert {path.name for path in folder.iterdir()} == {"for_annotators", "key.json"}


def test_a_sheet_that_nobody_has_filled_in_ends_with_status_1(runs, export, capsys):
    folder, _, _ = export(runs("zebra", "quokka"))
    capsys.readouterr()
    assert sheet.main(["read", str(folder), str(folder / "for_annotators" / "sheet.csv")]) == 1
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err
        == f"no answers yet: every cell of personality, coherence, fluency is empty in {folder / 'for_annotators' / 'sheet.csv'}\n"
    )
    assert not (folder / "win_rates.json").exists()


@pytest.mark.parametrize("seed", range(5))
def test_each_system_is_a_in_half_of_the_items_in_no_fixed_order(runs, export, seed):
    _, _, key = export(runs("zebra", "quokka"), items=20, seed=seed)
    first = [item["A"] for item in key["items"].values()]
    assert Counter(first) == {"zebra": 10, "quokka": 10}
    assert (
        first != ["zebra", "quokka"] * 10
        and first != ["quokka", "zebra"] * 10
        and sorted(first) not in (first, first[::-1])
    )


def test_targets_are_even_and_contexts_distinct(runs, export):
    _, _, key = export(runs("zebra", "quokka"), items=12)
    targets = Counter(tuple(item["target"].values()) for item in key["items"].values())
    contexts = Counter(item["context"][0] for item in key["items"].values())
    assert sorted(targets.values()) == [3, 3, 3, 3] and len(contexts) == 12
    _, _, key = export(runs("zebra", "quokka"), items=18)
    targets = Counter(tuple(item["target"].values()) for item in key["items"].values())
    contexts = Counter(item["context"][0] for item in key["items"].values())
    assert sorted(targets.values()) == [4, 4, 5, 5] and sorted(contexts.values()) == [1] * 6 + [2] * 6


def test_the_order_of_the_draw_gives_nothing_away():
    """Targets are drawn in turns and pairs too: neither the items' order nor the side may follow that."""
    requests = [
        sheet.SheetRequest((f"Question {c}?",), frozenset(enumerate(aspects)), "")
        for c in range(12)
        for aspects in ASPECTS
    ]
    systems = {name: dict.fromkeys(requests, name) for name in ("zebra", "quokka")}
    rng = sheet.random.Random(0)
    drawn = sheet.draw(sheet.different_pairs(systems, requests), 20, rng)
    items = sheet.blinded(drawn, systems, rng)
    assert [item.request for item in items] != [request for request, _ in drawn]
    first = {item.request: item.systems[0] for item in items}
    in_turn = [first[request] for request, _ in drawn]
    assert in_turn not in (["zebra", "quokka"] * 10, ["quokka", "zebra"] * 10)


@pytest.mark.parametrize("seed", range(6))
def test_a_target_with_one_context_gets_it(runs, export, seed):
    """Drawn in random order, the other target took the only context of the first one in every second sheet."""
    rows = [("one", ASPECTS[0]), ("one", ASPECTS[1]), ("two", ASPECTS[1])]
    systems = runs(zebra=[row(*r, "yes") for r in rows], quokka=[row(*r, "no") for r in rows])
    _, _, key = export(systems, items=2, seed=seed)
    assert {item["context"][0] for item in key["items"].values()} == {"one", "two"}


def test_more_than_two_systems_are_compared_pair_by_pair(runs, export):
    _, rows, key = export(runs("zebra", "quokka", "walrus"), items=30)
    pairs = Counter(tuple(sorted((item["A"], item["B"]))) for item in key["items"].values())
    assert pairs == {("quokka", "zebra"): 10, ("walrus", "zebra"): 10, ("quokka", "walrus"): 10}
    sides = Counter((item["A"], item["B"]) for item in key["items"].values())
    assert set(sides.values()) == {5} and len(sides) == 6
    word = {"zebra": "stripes", "quokka": "pouch", "walrus": "tusks"}
    for r in rows:
        assert all(r[f"reply_{side}"].startswith(word[key["items"][r["item"]][side]]) for side in "AB")
    assert len({(r["context"], r["wanted"]) for r in rows}) == 30


def test_equal_replies_are_left_out_and_counted(runs, export, capsys):
    other = rows_of("quokka")
    for equal in (0, 5, 7):
        other[equal]["response"] = "  " + rows_of("zebra")[equal]["response"].replace(
            " ", "  "
        )  # other spaces, equal words
    _, rows, key = export(runs("zebra", quokka=other), items=48)
    assert len(rows) == 45 and key["equal_comparisons_left_out"] == 3
    assert all(r["reply_A"].split() != r["reply_B"].split() for r in rows)
    printed = capsys.readouterr().out
    assert "45 items (48 were asked for) from 48 requests that all 2 systems answered" in printed
    assert "equal word for word: 3 of 48 comparisons" in printed


def test_of_three_systems_an_equal_pair_is_not_drawn(runs, export):
    _, _, key = export(runs("quokka", zebra=rows_of("zebra"), walrus=rows_of("zebra")), items=48)
    assert len(key["items"]) == 48 and key["equal_comparisons_left_out"] == 48
    assert {"".join(sorted((item["A"], item["B"]))) for item in key["items"].values()} == {
        "quokkazebra",
        "quokkawalrus",
    }


def test_only_requests_that_all_answered_in_whatever_order(runs, export):
    shuffled = [
        r | {"target": dict(reversed(r["target"].items()))} for r in reversed(rows_of("quokka")[10:30])
    ]
    _, rows, _ = export(runs("zebra", quokka=shuffled), items=100)
    expected = {
        (f"User: {r['context'][0]}", ", ".join(r["target"].values())) for r in rows_of("zebra")[10:30]
    }
    assert {(r["context"], r["wanted"]) for r in rows} == expected and len(rows) == 20


def test_of_several_replies_to_a_request_the_first_counts(runs, export):
    systems = runs(
        zebra=[row("Why?", ASPECTS[0], "first"), row("Why?", ASPECTS[0], "second")],
        quokka=[row("Why?", ASPECTS[0], "third")],
    )
    _, rows, _ = export(systems)
    assert {rows[0]["reply_A"], rows[0]["reply_B"]} == {"first", "third"} and len(rows) == 1


def test_systems_are_named_after_folders_and_files(runs, export, tmp_path, monkeypatch):
    folder = Path(runs("zebra", "quokka")[0])
    (folder / "generations").mkdir()
    for name in ("control", "none"):
        (folder / "generations" / f"{name}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows_of("walrus"))
        )
    shutil.copy(folder / "generations.jsonl", tmp_path / "other.jsonl")
    monkeypatch.chdir(folder)
    _, _, key = export(
        [
            ".",
            "../quokka/",
            "generations/control.jsonl",
            str(folder / "generations" / "none.jsonl"),
            "../../other.jsonl",
        ]
    )
    assert key["systems"] == ["zebra", "quokka", "zebra/control", "zebra/none", "other"]


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_is_a_formula(runs, export, start):
    replies = [row("Why?", ASPECTS[0], start)], [row("Why?", ASPECTS[0], "a = b")]
    folder, rows, _ = export(runs(zebra=replies[0], quokka=replies[1]))
    assert {rows[0]["reply_A"], rows[0]["reply_B"]} == {"'" + start, "a = b"}
    assert f">{start.strip()}<" in re.sub(
        r"(?<=>)\s+", "", (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    )


def test_markup_in_a_reply_is_text(runs, export):
    nasty = "</p><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" & 'single'"
    systems = runs(
        zebra=[row(nasty, ("<b>bold</b>", "x"), nasty)], quokka=[row(nasty, ("<b>bold</b>", "x"), "No.")]
    )
    folder, rows, _ = export(systems)
    form = (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    assert nasty in (rows[0]["reply_A"], rows[0]["reply_B"])
    assert "<script>alert" not in form and "<img" not in form and "<b>" not in form
    assert form.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2 and form.count("<script") == 1


def test_the_form_needs_no_network(runs, export):
    folder, _, _ = export(runs("zebra", "quokka"))
    form = (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", form)
    assert re.findall(r'(?:src|href)="([^"]*)"', form) == ["data:,"] and "default-src 'none'" in form


def test_what_the_form_shows_lies_in_its_main_landmark(runs, export):
    folder, _, _ = export(runs("zebra", "quokka"))
    form = (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    assert form.index("<main>") < form.index("<h1>") < form.index("</form>") < form.index("</main>")


def test_every_radio_button_has_a_label_and_a_group(runs, export):
    folder, rows, _ = export(runs("zebra", "quokka"), items=5)
    form = (folder / "for_annotators" / "sheet.html").read_text("utf-8")
    buttons = re.findall(
        r'<label><input type="radio" name="([^"]+)" value="([AB=])"> (Reply A|Equal|Reply B)</label>', form
    )
    choices = (("A", "Reply A"), ("=", "Equal"), ("B", "Reply B"))
    expected = [
        (f"{r['item']}-{criterion}", *choice)
        for r in rows
        for criterion in sheet.CRITERIA
        for choice in choices
    ]
    assert (
        buttons == expected and form.count('type="radio"') == len(expected) and form.count("<legend>") == 15
    )


def test_an_empty_reply_is_said_to_be_empty(runs, export):
    folder, _, _ = export(runs(zebra=[row("Why?", ASPECTS[0], " ")], quokka=[row("Why?", ASPECTS[0], "So.")]))
    assert (folder / "for_annotators" / "sheet.html").read_text("utf-8").count("(an empty reply)") == 1


# --- export: what cannot be done -------------------------------------------------------------------------------------


def test_a_system_alone_or_twice_is_refused(runs, export):
    zebra, quokka = runs("zebra", "quokka")
    with pytest.raises(InputError, match="needs two systems or more, found 1"):
        export([zebra])
    with pytest.raises(InputError, match="two systems are called 'zebra'.*names must differ"):
        export([zebra, quokka, zebra + "/"])


def test_no_common_request_is_refused_with_counts(runs, export):
    with pytest.raises(InputError, match=r"no request .* zebra answered 48, quokka answered 2;"):
        export(runs("zebra", quokka=[row("Elsewhere?", aspects, "pouch") for aspects in ASPECTS[:2]]))


def test_nothing_but_equal_replies_is_refused(runs, export):
    with pytest.raises(InputError, match="nothing to compare: in all 48 comparisons"):
        export(runs("zebra", quokka=rows_of("zebra")))


def test_a_sheet_is_never_overwritten(runs, export):
    folder, _, _ = export(runs("zebra", "quokka"))
    before = (folder / "key.json").read_bytes()
    with pytest.raises(InputError, match="already holds a sheet.*another folder"):
        sheet.main(["export", *runs("zebra", "quokka"), "--seed", "9", "--output-dir", str(folder)])
    assert (folder / "key.json").read_bytes() == before


def test_no_items_are_refused(runs, export):
    with pytest.raises(InputError, match="--items must be 1 or more, found 0"):
        export(runs("zebra", "quokka"), items=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": []}, r"generations\.jsonl:2: 'context' must be a list of turns, found \[\]"),
        ({"context": "Why?"}, r":2: 'context' must be a list of turns, found 'Why\?'"),
        ({"context": [1]}, r":2: 'context' must be a list of turns"),
        ({"target": ["plain"]}, r":2: 'target' must name an aspect per attribute, found \['plain'\]"),
        ({"target": {"style": 1}}, r":2: 'target' must name an aspect per attribute"),
        ({"response": None}, r":2: 'response' must be a text, found None"),
    ],
)
def test_an_unusable_row_is_named(runs, export, change, message):
    rows = rows_of("zebra")
    rows[1] |= change
    with pytest.raises(InputError, match=message):
        export(runs("quokka", zebra=rows))


def test_missing_generations_are_named(runs, export, tmp_path):
    (tmp_path / "outs" / "empty").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty: no generations\.jsonl"):
        export([*runs("zebra"), str(tmp_path / "outs" / "empty")])
    with pytest.raises(InputError, match=r"not found: .*nowhere"):
        export([*runs("zebra"), str(tmp_path / "nowhere")])


def test_mistakes_on_the_command_line_are_input_errors(runs):
    many = ["export", "a", "b", "--items", "many", "--output-dir", "x"]
    for arguments in ([], ["import"], ["export", *runs("zebra", "quokka")], ["read", "sheet"], many):
        with pytest.raises(InputError, match="see --help"):
            sheet.main(arguments)


def test_an_input_error_is_one_line_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sheet", "read", "nowhere", "answers.csv"])
    with pytest.raises(SystemExit) as end:
        run_main(sheet.main)
    assert (
        end.value.code == 2
        and capsys.readouterr().err
        == "error: file not found: nowhere/key.json; name the folder that export wrote\n"
    )


# --- read ------------------------------------------------------------------------------------------------------------


def test_win_rates_by_hand(hand_made, answers):
    """Unblinded for zebra: personality won, won, tied, lost; coherence lost, won, -, -; fluency -, tied, tied, -."""
    results = read(hand_made, answers("a.csv", "1,A,B,", "2,B,b,=", "3,=,,tie", "4,a,,"))
    rates = {criterion: pairs[0] for criterion, pairs in results["win_rates"].items()}
    counts = {
        c: tuple(r[name] for name in ("first", "second", "wins", "ties", "losses", "answered", "contexts"))
        for c, r in rates.items()
    }
    assert counts == {
        "personality": ("zebra", "quokka", 2, 1, 1, 4, 3),
        "coherence": ("zebra", "quokka", 1, 0, 1, 2, 1),
        "fluency": ("zebra", "quokka", 0, 2, 0, 2, 2),
    }
    assert [rates[c]["win_rate"] for c in sheet.CRITERIA] == [2.5 / 4, 0.5, 0.5]
    assert (
        rates["coherence"]["ci95"] is None and rates["coherence"]["differs"] is None
    )  # one context: no interval
    assert rates["fluency"]["ci95"] == [0.5, 0.5] and rates["fluency"]["differs"] is False
    low, high = rates["personality"]["ci95"]  # contexts: one 2 wins of 2, two a tie, three a loss
    assert low == 0.0 and high == 1.0 and rates["personality"]["differs"] is False
    assert json.loads((hand_made / "win_rates.json").read_text()) == results


def test_the_interval_is_the_bootstrap_s_over_contexts(hand_made, answers):
    """With items as groups the interval would be another one: the first context holds two of the four items."""
    from scoring.bootstrap import Bootstrap, mean_of

    rate = read(hand_made, answers("a.csv", "1,A,,", "2,B,,", "3,A,,", "4,=,,"))["win_rates"]["personality"][
        0
    ]
    values = sheet.np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.5, 1.0]])
    expected = Bootstrap(["one", "one", "two", "three"]).intervals(values, {"x": mean_of(0, 1)})["x"]
    assert rate["ci95"] == expected != Bootstrap([1, 2, 3, 4]).intervals(values, {"x": mean_of(0, 1)})["x"]


def test_an_interval_that_excludes_a_half_is_marked(hand_made, answers, capsys):
    path = answers("a.csv", "1,A,A,B", "2,B,A,A", "3,A,B,B", "4,B,A,A")
    assert sheet.main(["read", str(hand_made), path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "* the interval, a bootstrap over contexts, excludes 0.5" in lines
    table = {line.split()[0]: line.split() for line in lines[1:4]}
    assert table["personality"] == [
        "personality",
        "zebra",
        "quokka",
        "4",
        "0",
        "0",
        "1.000",
        "[1.000,",
        "1.000]",
        "*",
        "3",
    ]
    assert table["fluency"] == [
        "fluency",
        "zebra",
        "quokka",
        "0",
        "0",
        "4",
        "0.000",
        "[0.000,",
        "0.000]",
        "*",
        "3",
    ]
    assert "*" not in table["coherence"] and table["coherence"][3:7] == ["1", "0", "3", "0.250"]
    assert any(line.startswith("warning: intervals over fewer than 10 contexts") for line in lines)
    assert not any(line.startswith("agreement") for line in lines)  # of one annotator with nobody


def test_json_is_what_is_written(hand_made, answers, capsys):
    sheet.main(["read", str(hand_made), answers("a.csv", "1,A,A,B"), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((hand_made / "win_rates.json").read_text())


def test_agreement_and_kappa_by_hand(hand_made, answers, capsys):
    """Personality: equal in 3 of 4. Chance: A 2/4 * 1/4, B 1/4 * 2/4, = 1/4 * 1/4, so 5/16; kappa (3/4 - 5/16) / (11/16) = 7/11."""
    one = answers("one.csv", "1,A,A,A", "2,A,A,", "3,B,B,", "4,=,B,")
    two = answers("two.csv", "1,A,A,", "2,B,A,B", "3,B,A,", "4,=,,")
    results = read(hand_made, one, two)
    agreed = results["agreement"]
    assert agreed["personality"] == {
        "raw": 0.75,
        "kappa": pytest.approx(7 / 11),
        "annotator_pairs": 1,
        "items": 4,
    }
    assert agreed["coherence"] == {
        "raw": pytest.approx(2 / 3),
        "kappa": pytest.approx(0.0),
        "annotator_pairs": 1,
        "items": 3,
    }
    assert agreed["fluency"] == {"raw": None, "kappa": None, "annotator_pairs": 0, "items": 0}
    assert results["annotators"] == ["one.csv", "two.csv"]
    # zebra: one says won, lost, lost, tied and two says won, won, lost, tied
    rate = results["win_rates"]["personality"][0]
    assert (rate["wins"], rate["ties"], rate["losses"], rate["win_rate"]) == (3, 2, 3, 0.5)
    sheet.main(["read", str(hand_made), one, two])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["personality", "0.750", "0.636", "4", "1"] in lines and ["fluency", "-", "-", "0", "0"] in lines


def test_kappa_is_the_mean_over_the_pairs_where_it_is_defined(hand_made, answers):
    """One and two agree on A throughout, which leaves no kappa; three against each has 1/2 by chance as by count, so 0."""
    one, two = (answers(f"{n}.csv", "1,A,,", "2,A,,") for n in ("one", "two"))
    three = answers("three.csv", "1,A,,", "2,B,,")
    agreed = read(hand_made, one, two)["agreement"]["personality"]
    assert agreed == {"raw": 1.0, "kappa": None, "annotator_pairs": 1, "items": 2}
    agreed = read(hand_made, one, two, three)["agreement"]["personality"]
    assert agreed == {
        "raw": pytest.approx(2 / 3),
        "kappa": pytest.approx(0.0),
        "annotator_pairs": 3,
        "items": 2,
    }


def test_annotators_are_known_by_name_and_their_files_are_joined(hand_made, answers):
    heading = "item,personality,coherence,fluency,comment,annotator"
    phone = answers("phone.csv", "1,A,,,,Ann", "2,,,,,Ann", heading=heading)
    laptop = answers("laptop.csv", "1,,,,,Ann", "2,B,,,,Ann", heading=heading)
    other = answers("other.csv", "2,B,,,,", heading=heading)
    results = read(hand_made, phone, laptop, other)
    assert (
        results["annotators"] == ["Ann", "other.csv"] and results["win_rates"]["personality"][0]["wins"] == 3
    )


def test_files_of_one_name_in_two_folders_are_two_annotators(hand_made, answers, tmp_path):
    paths = []
    for person in ("ann", "bob"):
        (tmp_path / person).mkdir()
        paths.append(answers(f"{person}/sheet.csv", "1,A,,"))
    assert read(hand_made, *paths)["annotators"] == ["ann/sheet.csv", "bob/sheet.csv"]


def test_what_spreadsheets_save_is_read(hand_made, tmp_path):
    """A semicolon for a comma, a byte order mark, CRLF, columns in another order, line breaks and delimiters in cells, empty rows."""
    path = tmp_path / "saved.csv"
    heading, filled = (
        '"comment";"fluency";"item";"coherence";"personality"',
        '"two\r\nlines; and ""more"", so";B;sabcdef-1; = ;A',
    )
    lines = [heading, filled, ";;;;", ";;sabcdef-2;;b"]
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    rates = read(hand_made, path)["win_rates"]
    assert [(rates[c][0]["wins"], rates[c][0]["ties"], rates[c][0]["losses"]) for c in sheet.CRITERIA] == [
        (2, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]


def test_a_sheet_filled_by_someone_who_likes_one_system(runs, export):
    """Export and read together: whoever wrote "stripes" wins, on whichever side; tusks win over the pouch."""
    folder, rows, _ = export(runs("quokka", "zebra", "walrus"), items=30)
    rank = ["pouch", "tusks", "stripes"]
    path = folder / "filled.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, sheet.COLUMNS)
        writer.writeheader()
        for r in rows:
            a, b = (rank.index(r[side].split()[0]) for side in ("reply_A", "reply_B"))
            writer.writerow(
                r | {"personality": "A" if a > b else "B", "coherence": "=", "comment": "line\nbreak"}
            )
    results = read(folder, path)
    rates = {
        (r["first"], r["second"]): (r["wins"], r["losses"], r["differs"])
        for r in results["win_rates"]["personality"]
    }
    assert rates == {
        ("quokka", "zebra"): (0, 10, True),
        ("quokka", "walrus"): (0, 10, True),
        ("zebra", "walrus"): (10, 0, True),
    }
    assert all(
        r["win_rate"] == 0.5 and r["ties"] == 10 and r["differs"] is False
        for r in results["win_rates"]["coherence"]
    )


# --- read: what cannot be read ---------------------------------------------------------------------------------------


def test_an_unknown_choice_is_named_with_its_line(hand_made, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(
        'item,personality,coherence,fluency,comment\nsabcdef-1,A,A,A,"two\nlines"\nsabcdef-2,A,better,B,"two\nlines"\n'
    )
    with pytest.raises(
        InputError, match=r"bad\.csv:4: coherence is 'better'; expected A, B, = \(or tie\), or nothing"
    ):
        read(hand_made, path)


def test_items_of_another_sheet_or_of_none_are_refused(hand_made, answers, tmp_path):
    with pytest.raises(
        InputError, match=r"a\.csv:3: unknown item 'sabcdef-9'; expected one of sabcdef-1 to sabcdef-4"
    ):
        read(hand_made, answers("a.csv", "1,A,A,A", "9,A,A,A"))
    (tmp_path / "b.csv").write_text("item,personality,coherence,fluency\ns123456-1,A,A,A\n")
    with pytest.raises(
        InputError,
        match=r"b\.csv:2: item 's123456-1' is of a different sheet; this sheet's items start with 'sabcdef-'",
    ):
        read(hand_made, tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("item,personality,coherence,fluency\n1,A,A,A\n")
    with pytest.raises(InputError, match=r"c\.csv:2: unknown item '1'"):
        read(hand_made, tmp_path / "c.csv")


def test_answers_to_a_sheet_of_another_seed_are_refused(runs, export):
    systems = runs("zebra", "quokka")
    one, other = export(systems, seed=1)[0], export(systems, seed=2)[0]
    with pytest.raises(InputError, match="of a different sheet"):
        read(one, other / "for_annotators" / "sheet.csv")


def test_an_answer_given_twice_is_refused(hand_made, answers):
    with pytest.raises(
        InputError, match=r"a\.csv:3: .* answers personality of sabcdef-1 again, first in .*a\.csv:2"
    ):
        read(hand_made, answers("a.csv", "1,A,,", "1,B,,"))
    path = answers("b.csv", "1,A,,")
    with pytest.raises(InputError, match="again"):
        read(hand_made, path, path)


def test_unusable_answer_files_are_named(hand_made, tmp_path):
    with pytest.raises(InputError, match=r"file not found: .*none\.csv"):
        read(hand_made, tmp_path / "none.csv")
    path = tmp_path / "bad.csv"
    path.write_text("item,personality\nsabcdef-1,A\n")
    with pytest.raises(
        InputError,
        match=r"bad\.csv:1: columns \['coherence', 'fluency'\] are missing, found \['item', 'personality'\]",
    ):
        read(hand_made, path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"bad\.csv:1: columns .* are missing, found \[\]"):
        read(hand_made, path)
    path.write_bytes(
        "item,personality,coherence,fluency,comment\nsabcdef-1,A,A,A,très bien\n".encode("cp1252")
    )
    with pytest.raises(InputError, match=r"bad\.csv: not UTF-8 text .*save it as CSV UTF-8"):
        read(hand_made, path)
    path.write_text("item,personality,coherence,fluency,comment\nsabcdef-1,A,A,A," + "x" * 200000)
    with pytest.raises(InputError, match=r"bad\.csv:\d: not CSV \(field larger"):
        read(hand_made, path)
    assert not (hand_made / "win_rates.json").exists()


def test_unusable_keys_are_named(tmp_path, answers):
    path = answers("a.csv", "1,A,A,A")
    with pytest.raises(InputError, match=r"file not found: .*key\.json; name the folder that export wrote"):
        read(tmp_path, path)
    (tmp_path / "key.json").write_text("{broken")
    with pytest.raises(InputError, match=r"key\.json: not UTF-8 JSON"):
        read(tmp_path, path)
    (tmp_path / "key.json").write_text("[]")
    with pytest.raises(InputError, match=r"key\.json: expected a JSON object, found list"):
        read(tmp_path, path)
    for content in ("{}", '{"format": 2, "systems": ["a"], "items": {"b": {}}}'):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(InputError, match=r"key\.json: (not the key of a sheet|'items\.b' has no 'A')"):
            read(tmp_path, path)


# --- the form in a browser -------------------------------------------------------------------------------------------


@pytest.fixture
def browser(open_chromium, tmp_path):
    """A browser that downloads into ``tmp_path/downloads``."""
    started = open_chromium({"download.default_directory": str(tmp_path / "downloads")})
    yield started
    started.quit()


def downloaded(path, seconds=15):
    """A file's bytes, once the browser has written it."""
    end = time.monotonic() + seconds
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    return path.read_bytes()


def test_the_form_is_filled_kept_and_downloaded(runs, export, browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    nasty = "<script>document.title = 'broken'</script>"
    replies = {"zebra": f"stripes {nasty}", "quokka": "pouch"}
    systems = runs(
        **{
            name: [row(f"Question {n}?", ASPECTS[n], reply) for n in range(3)]
            for name, reply in replies.items()
        }
    )
    folder, rows, key = export(systems, items=3)
    names = [r["item"] for r in rows]

    def find(selector):
        return browser.find_element("css selector", selector)

    def text(selector):
        return find(selector).text

    def shown():
        return [
            s.get_attribute("data-item")
            for s in browser.find_elements("css selector", ".item")
            if s.is_displayed()
        ]

    browser.set_window_size(500, 900)
    browser.get((folder / "for_annotators" / "sheet.html").as_uri())
    assert browser.title == "Which reply is better?" and nasty in text(".item .replies")
    assert shown() == names[:1] and text("#position") == "1 of 3" and not find("#previous").is_enabled()
    assert text("#done") == "0 of 3 answered"
    find("#annotator").send_keys("=Ann")
    for criterion in sheet.CRITERIA:
        find(f'input[name="{names[0]}-{criterion}"][value="A"]').click()
    assert text("#done") == "1 of 3 answered"
    find(f'textarea[name="{names[0]}-comment"]').send_keys('say "so", é')
    find("#next").send_keys(
        Keys.ENTER
    )  # the keyboard alone: a button, then arrows within a group of radio buttons
    assert (
        shown() == names[1:2]
        and text("#position") == "2 of 3"
        and browser.switch_to.active_element.get_attribute("id") == "position"
    )
    find(f'input[name="{names[1]}-personality"][value="A"]').send_keys(Keys.SPACE, Keys.ARROW_RIGHT)

    browser.refresh()
    assert (
        shown() == names[1:2]
        and text("#done") == "1 of 3 answered"
        and find("#annotator").get_attribute("value") == "=Ann"
    )
    assert find(f'input[name="{names[1]}-personality"][value="="]').is_selected()
    assert any(
        s.startswith("miracle-sheet-" + key["sha256"])
        for s in browser.execute_script("return Object.keys(localStorage)")
    )

    find("#download").click()
    content = downloaded(tmp_path / "downloads" / "answers-Ann.csv").decode("utf-8-sig")
    assert text("#status") == "answers-Ann.csv was written; not fully answered yet: item 2, 3."
    assert content.splitlines() == [
        "item,personality,coherence,fluency,comment,annotator",
        f'{names[0]},A,A,A,"say ""so"", é","\'=Ann"',
        f'{names[1]},=,,,"","\'=Ann"',
        f'{names[2]},,,,"","\'=Ann"',
    ]
    results = read(folder, tmp_path / "downloads" / "answers-Ann.csv")
    rate = results["win_rates"]["personality"][0]
    first_is_a = key["items"][names[0]]["A"] == rate["first"]
    assert (rate["wins"], rate["ties"], rate["losses"]) == (
        int(first_is_a),
        1,
        int(not first_is_a),
    ) and results["annotators"] == ["'=Ann"]

    find("#unanswered").click()
    assert shown() == names[2:] and not find("#next").is_enabled()
    find("#clear").click()
    browser.switch_to.alert.accept()
    assert shown() == names[:1] and text("#done") == "0 of 3 answered"
    browser.refresh()
    assert text("#done") == "0 of 3 answered" and not browser.find_elements("css selector", "input:checked")
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_the_form_fits_the_screen(runs, export, browser, width):
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverleihungsurkunde" * 3
    folder, _, _ = export(
        runs(zebra=[row(long, (long, long), long)], quokka=[row(long, (long, long), "pouch")])
    )
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((folder / "for_annotators" / "sheet.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = [label.size for label in browser.find_elements("css selector", ".choices label")]
    assert len(sizes) == 9 and all(size["height"] >= 44 and size["width"] >= 44 for size in sizes)
