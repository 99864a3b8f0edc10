"""A blinded sheet on which people compare two systems' replies, and the win rates that come back.

    python -m scoring.sheet export outs/a outs/b --items 50 --seed 0 --output-dir sheet/
    python -m scoring.sheet read sheet/ answers1.csv answers2.csv

`export` writes the same items as ``for_annotators/sheet.csv`` (for a spreadsheet) and ``for_annotators/sheet.html`` (a form
in one file, which needs no network), of which annotators get one, and outside that folder ``key.json``, which says whose
reply is A and whose is B: that one stays with you. `read` unblinds the answers.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.entry import Parser, run_main
from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_json
from scoring.bootstrap import FEW_CONTEXTS, Bootstrap, mean_of
from scoring.systems import system_at

FORMAT = 1
SENT = "for_annotators"  # the part of a sheet's folder that is sent; the key lies outside it
CRITERIA = ("personality", "coherence", "fluency")
COLUMNS = ("item", "context", "wanted", "reply_A", "reply_B", *CRITERIA, "comment")
CHOICES = {
    "a": "A",
    "b": "B",
    "=": "=",
    "tie": "=",
    "": None,
}  # what a cell may hold, in lower case; None: unanswered
WORTH_OF_A = {"A": 1.0, "=": 0.5, "B": 0.0}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that starts so for a formula, or may
SPEAKERS = ("User", "Assistant")

Pair = tuple[str, str]


@dataclass(frozen=True)
class SheetRequest:
    """What was asked of the systems; two are equal when context and target are, in whatever order the target stands."""

    context: tuple[str, ...]
    target: frozenset[tuple[str, str]]
    wanted: str = field(compare=False)


@dataclass(frozen=True)
class Comparison:
    """One comparison: the reply of ``systems[0]`` is shown as A, that of ``systems[1]`` as B."""

    request: SheetRequest
    systems: Pair
    replies: tuple[str, str]

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """What an annotator sees: context, wanted, reply_A, reply_B."""
        turns = [f"{SPEAKERS[number % 2]}: {turn}" for number, turn in enumerate(self.request.context)]
        return "\n".join(turns), self.request.wanted, *self.replies


@dataclass(frozen=True)
class Rating:
    """One cell that an annotator filled in; `choice` is A, B or =, still blinded, and `where` is its file and line."""

    annotator: str
    item: str
    criterion: str
    choice: str
    where: str


# --- export ----------------------------------------------------------------------------------------------------------


def read_systems(arguments: list[str]) -> dict[str, dict[SheetRequest, str]]:
    """Every system's replies.

    Args:
        arguments: runs' folders and generations files.

    Returns:
        name -> request -> reply, in the order given.

    Raises:
        InputError: for fewer than two systems, two of one name, and files that cannot be used.
    """
    if len(arguments) < 2:
        raise InputError(f"a comparison needs two systems or more, found {len(arguments)}")
    places: dict[str, Path] = {}
    for system in map(system_at, map(Path, arguments)):
        name, path = system.name, system.generations
        if name in places:
            raise InputError(
                f"two systems are called {name!r}: {places[name]} and {path}; names must differ, so rename a folder or a file"
            )
        places[name] = path
    return {name: read_replies(path) for name, path in places.items()}


def read_replies(path: Path) -> dict[SheetRequest, str]:
    """request -> reply of a generations file; of several replies to one request the first one counts.

    Raises `InputError` for a row without a usable context, target or response.
    """
    replies: dict[SheetRequest, str] = {}
    for where, row in read_jsonl(path):
        context, target, response = (row.get(key) for key in ("context", "target", "response"))
        if not isinstance(context, list) or not context or not all(isinstance(turn, str) for turn in context):
            raise InputError(f"{where}: 'context' must be a list of turns, found {context!r:.80}")
        if not isinstance(target, dict) or not all(isinstance(aspect, str) for aspect in target.values()):
            raise InputError(f"{where}: 'target' must name an aspect per attribute, found {target!r:.80}")
        if not isinstance(response, str):
            raise InputError(f"{where}: 'response' must be a text, found {response!r:.80}")
        request = SheetRequest(
            tuple(context), frozenset(target.items()), ", ".join(target.values()) or "(none)"
        )
        replies.setdefault(request, response)
    return replies


def common_requests(systems: dict[str, dict[SheetRequest, str]]) -> list[SheetRequest]:
    """The requests that all systems answered, in the first one's order; raises `InputError` where there is none."""
    first, *others = systems.values()
    common = [request for request in first if all(request in other for other in others)]
    if not common:
        counts = ", ".join(f"{name} answered {len(replies)}" for name, replies in systems.items())
        raise InputError(
            f"no request (context and target) was answered by all systems: {counts}; generate for equal contexts and targets"
        )
    return common


def different_pairs(
    systems: dict[str, dict[SheetRequest, str]], requests: list[SheetRequest]
) -> dict[SheetRequest, list[Pair]]:
    """For every request the pairs of systems whose replies are not equal word for word; no request without such a pair."""
    words = {
        name: {request: replies[request].split() for request in requests} for name, replies in systems.items()
    }
    pairs = list(itertools.combinations(systems, 2))
    different = {
        r: [(one, other) for one, other in pairs if words[one][r] != words[other][r]] for r in requests
    }
    return {request: usable for request, usable in different.items() if usable}


def draw(
    candidates: dict[SheetRequest, list[Pair]], count: int, rng: random.Random
) -> list[tuple[SheetRequest, Pair]]:
    """Requests, and for each the pair of systems to compare, all drawn without replacement.

    Each draw takes a target that was drawn least, then a context that was drawn least, then the pair that was; what is
    left equal is decided at random. Of equal targets the one with fewest requests goes first, as it has least choice.
    """
    left = rng.sample(list(candidates), len(candidates))
    size = Counter(request.target for request in left)
    targets, contexts, pairs = Counter(), Counter(), Counter()
    drawn = []
    while left and len(drawn) < count:
        request = min(left, key=lambda r: (targets[r.target], contexts[r.context], size[r.target]))
        left.remove(request)
        pair = min(rng.sample(candidates[request], len(candidates[request])), key=pairs.__getitem__)
        for counter, key in ((targets, request.target), (contexts, request.context), (pairs, pair)):
            counter[key] += 1
        drawn.append((request, pair))
    return drawn


def blinded(
    drawn: list[tuple[SheetRequest, Pair]], systems: dict[str, dict[SheetRequest, str]], rng: random.Random
) -> list[Comparison]:
    """Items in random order; of every pair each system is A as often as the other, to within one."""
    by_pair: dict[Pair, list[SheetRequest]] = defaultdict(list)
    for request, pair in drawn:
        by_pair[pair].append(request)
    items = []
    for pair, requests in by_pair.items():
        start = rng.randrange(2)
        turned = [(number + start) % 2 for number in range(len(requests))]
        rng.shuffle(turned)
        for request, turn in zip(requests, turned):
            order = pair[::-1] if turn else pair
            items.append(Comparison(request, order, (systems[order[0]][request], systems[order[1]][request])))
    rng.shuffle(items)
    return items


def guarded(text: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return "'" + text if text.startswith(FORMULA) else text


def fingerprint(items: list[Comparison]) -> str:
    """sha256 of everything that annotators see, in its order."""
    return hashlib.sha256(json.dumps([item.texts for item in items]).encode()).hexdigest()


def item_names(items: list[Comparison]) -> list[str]:
    """``s1f0c9a-07``: they carry the sheet's hash, so that answers to another sheet are noticed (a letter first: no number or date)."""
    sheet, width = fingerprint(items)[:6], len(str(len(items)))
    return [f"s{sheet}-{number:0{width}d}" for number in range(1, len(items) + 1)]


def sheet_csv(items: list[Comparison]) -> bytes:
    """The sheet for a spreadsheet, which takes it for UTF-8 by its byte order mark; criteria and comment are empty."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for name, item in zip(item_names(items), items):
        writer.writerow([name, *map(guarded, item.texts), *[""] * (len(CRITERIA) + 1)])
    return out.getvalue().encode("utf-8-sig")


def sheet_html(items: list[Comparison]) -> str:
    """The sheet as a form in one file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("sheet.html.jinja")
    return template.render(
        items=list(zip(item_names(items), items)),
        sha256=fingerprint(items),
        criteria=CRITERIA,
        speakers=SPEAKERS,
    )


def key_of(items: list[Comparison], systems: list[str], seed: int, equal: int) -> dict:
    """What `read` needs and annotators must not see."""
    return {
        "format": FORMAT, "sha256": fingerprint(items), "seed": seed, "systems": systems, "equal_comparisons_left_out": equal,
        "items": {
            name: dict(zip("AB", item.systems)) | {"context": list(item.request.context), "target": dict(sorted(item.request.target))}
            for name, item in zip(item_names(items), items)
        },
    }  # fmt: skip


def export(arguments: list[str], count: int, seed: int, folder: Path) -> str:
    """Write a sheet.

    Args:
        arguments: runs' folders and generations files, two or more.
        count: how many items; fewer are written where there are not that many.
        seed: of the draw, the sides and the order.
        folder: where to; it must not hold a sheet, whose key would be lost.

    Returns:
        What was done, for the terminal.

    Raises:
        InputError: for systems that cannot be compared, and an unusable `count` or `folder`.
    """
    if count < 1:
        raise InputError(f"--items must be 1 or more, found {count}")
    if (folder / "key.json").exists():
        raise InputError(
            f"{folder} already holds a sheet, and answers to it could not be read without its key; name another folder"
        )
    systems = read_systems(arguments)
    requests = common_requests(systems)
    candidates = different_pairs(systems, requests)
    comparisons = len(requests) * len(list(itertools.combinations(systems, 2)))
    equal = comparisons - sum(map(len, candidates.values()))
    if not candidates:
        raise InputError(
            f"nothing to compare: in all {comparisons} comparisons the two replies are equal word for word"
        )
    rng = random.Random(seed)
    items = blinded(draw(candidates, count, rng), systems, rng)
    sent = folder / SENT
    sent.mkdir(parents=True, exist_ok=True)
    (sent / "sheet.csv").write_bytes(sheet_csv(items))
    (sent / "sheet.html").write_text(sheet_html(items), encoding="utf-8")
    write_json(
        folder / "key.json", key_of(items, list(systems), seed, equal)
    )  # last: with it the sheet is complete
    short = f" ({count} were asked for)" if len(items) < count else ""
    return "\n".join((
        f"{len(items)} items{short} from {len(requests)} requests that all {len(systems)} systems answered",
        f"left out because both replies are equal word for word: {equal} of {comparisons} comparisons",
        f"for annotators: {sent / 'sheet.html'} or {sent / 'sheet.csv'}; not for them: {folder / 'key.json'}",
    ))  # fmt: skip


# --- read ------------------------------------------------------------------------------------------------------------


def read_key(folder: Path) -> dict:
    """The key of a sheet's folder; raises `InputError` where there is none, or no usable one."""
    path = folder / "key.json"
    key = read_json(path)
    if key is None:
        raise InputError(f"file not found: {path}; name the folder that export wrote")
    if key.get("format") != FORMAT or not key.get("items") or not key.get("systems"):
        raise InputError(f"{path}: not the key of a sheet (format {FORMAT}, with systems and items)")
    return key


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``("answers.csv:12", row)`` for every row with something in it; commas, semicolons or tabs divide the columns.

    Raises `InputError` for a missing file, one that is no UTF-8 text, and missing columns.
    """
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); save it as CSV UTF-8") from error
    heading = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count)
    )  # as the country's spreadsheets write
    try:
        found = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise InputError(f"{path}:1: not CSV ({error})") from error
    if missing := [name for name in ("item", *CRITERIA) if name not in found]:
        raise InputError(
            f"{path}:1: columns {missing} are missing, found {found!r:.200}; expected those of sheet.csv or of the form's download"
        )
    reader.fieldnames = found
    before = reader.line_num
    try:
        for row in reader:
            where, before = (
                f"{path}:{before + 1}",
                reader.line_num,
            )  # a row's first line: cells may hold line breaks
            cells = {name: (cell or "").strip() for name, cell in row.items() if isinstance(name, str)}
            if any(cells.values()):
                yield where, cells
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def unknown_item(item: str, names: list[str]) -> str:
    """What is wrong with an item that the key does not have."""
    sheet = names[0].rpartition("-")[0]
    if item.rpartition("-")[0] not in ("", sheet):
        return f"item {item!r:.80} is of a different sheet; this sheet's items start with {sheet + '-'!r}"
    return f"unknown item {item!r:.80}; expected one of {names[0]} to {names[-1]}"


def read_answers(paths: Sequence[Path], key: dict) -> list[Rating]:
    """All filled cells of all files.

    An annotator is the name in the column ``annotator``, else the file's (with its folder's where two files have one name;
    no whole paths, as they are saved). Files of one annotator are joined.

    Raises:
        InputError: for a file that cannot be read, an item that the key does not have, a cell that is no choice, and
            an answer given twice.
    """
    answers: dict[tuple[str, str, str], Rating] = {}
    names, files = list(key["items"]), Counter(path.name for path in paths)
    for path in paths:
        file = path.name if files[path.name] == 1 else f"{path.resolve().parent.name}/{path.name}"
        for where, row in read_table(path):
            item, annotator = row["item"], row.get("annotator") or file
            if item not in key["items"]:
                raise InputError(f"{where}: {unknown_item(item, names)}")
            for criterion in CRITERIA:
                if row[criterion].lower() not in CHOICES:
                    raise InputError(
                        f"{where}: {criterion} is {row[criterion]!r:.80}; expected A, B, = (or tie), or nothing"
                    )
                if (choice := CHOICES[row[criterion].lower()]) is None:
                    continue
                answer = Rating(annotator, item, criterion, choice, where)
                if (earlier := answers.setdefault((annotator, item, criterion), answer)) is not answer:
                    raise InputError(
                        f"{where}: {annotator!r:.80} answers {criterion} of {item} again, first in {earlier.where}; expected one"
                    )
    return list(answers.values())


def win_rate(answers: list[Rating], pair: Pair, key: dict) -> dict:
    """How often the first of a pair was preferred.

    Args:
        answers: to one criterion; those on other pairs are passed over.
        pair: first and second system.

    Returns:
        Counts; ``win_rate``, (wins + ties / 2) / answered; ``ci95``, its bootstrap interval over contexts, so that neither
        the targets of a context nor the annotators of an item count as independent; ``differs``: it excludes 0.5.
        None for what cannot be computed.
    """
    worths, contexts = [], []
    for answer in answers:
        item = key["items"][answer.item]
        if {item["A"], item["B"]} == set(pair):
            worth = WORTH_OF_A[answer.choice]
            worths.append(worth if item["A"] == pair[0] else 1 - worth)
            contexts.append(tuple(item["context"]))
    counts = Counter(worths)
    values = np.array([[worth, 1.0] for worth in worths]).reshape(-1, 2)
    interval = Bootstrap(contexts).intervals(values, {"win_rate": mean_of(0, 1)}).get("win_rate")
    return {
        "first": pair[0], "second": pair[1], "wins": counts[1.0], "ties": counts[0.5], "losses": counts[0.0],
        "answered": len(worths), "contexts": len(set(contexts)), "win_rate": sum(worths) / len(worths) if worths else None,
        "ci95": interval, "differs": None if interval is None else not interval[0] <= 0.5 <= interval[1],
    }  # fmt: skip


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if values else None


def kappa(one: list[str], other: list[str]) -> float | None:
    """Cohen's kappa of two annotators; None where it is undefined, because both always gave the same one answer."""
    from sklearn.metrics import cohen_kappa_score

    return None if len({*one, *other}) < 2 else float(cohen_kappa_score(one, other))


def agreement(answers: list[Rating]) -> dict:
    """How far annotators agree on one criterion, as means over the pairs of annotators with items in common.

    It is of the answers as given (A, B, =): unblinded, a system that nearly always wins would make chance agreement high
    and kappa low, whoever answers.

    Returns:
        ``raw``, the share of equal answers; ``kappa``, Cohen's; ``annotator_pairs``, how many have items in common, and
        ``items``, how many items two annotators or more answered. None for what cannot be computed.
    """
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for answer in answers:
        given[answer.annotator][answer.item] = answer.choice
    raw, kappas, shared = [], [], set()
    for one, other in itertools.combinations(given.values(), 2):
        common = [item for item in one if item in other]
        if common:
            raw.append(float(np.mean([one[item] == other[item] for item in common])))
            kappas.append(kappa([one[item] for item in common], [other[item] for item in common]))
            shared.update(common)
    return {
        "raw": mean(raw),
        "kappa": mean([k for k in kappas if k is not None]),
        "annotator_pairs": len(raw),
        "items": len(shared),
    }


def results_of(answers: list[Rating], key: dict) -> dict:
    """Everything that `read` prints."""
    compared = [{item["A"], item["B"]} for item in key["items"].values()]
    pairs = [pair for pair in itertools.combinations(key["systems"], 2) if set(pair) in compared]
    by_criterion = {
        criterion: [answer for answer in answers if answer.criterion == criterion] for criterion in CRITERIA
    }
    return {
        "format": FORMAT, "sheet": key["sha256"], "items": len(key["items"]),
        "annotators": list(dict.fromkeys(answer.annotator for answer in answers)),
        "equal_comparisons_left_out": key.get("equal_comparisons_left_out"),
        "win_rates": {criterion: [win_rate(given, pair, key) for pair in pairs] for criterion, given in by_criterion.items()},
        "agreement": {criterion: agreement(given) for criterion, given in by_criterion.items()},
    }  # fmt: skip


def number(value: float | None) -> str:
    """Three decimals, or a dash for what could not be computed."""
    return "-" if value is None else f"{value:.3f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def table(results: dict) -> str:
    """The results for people: win rates of the first system, then agreement."""
    wins = [
        [
            "criterion",
            "first",
            "second",
            "wins",
            "ties",
            "losses",
            "win rate of first",
            "95 % interval",
            "",
            "contexts",
        ]
    ]
    agreements = [["agreement", "raw", "kappa", "items", "pairs of annotators"]]
    rates = [(criterion, rate) for criterion, of_pairs in results["win_rates"].items() for rate in of_pairs]
    for criterion, rate in rates:
        interval = "-" if rate["ci95"] is None else "[{:.3f}, {:.3f}]".format(*rate["ci95"])
        counts = [str(rate[name]) for name in ("wins", "ties", "losses")]
        mark = "*" if rate["differs"] else ""
        wins.append(
            [
                criterion,
                rate["first"],
                rate["second"],
                *counts,
                number(rate["win_rate"]),
                interval,
                mark,
                str(rate["contexts"]),
            ]
        )
    for criterion, agreed in results["agreement"].items():
        agreements.append(
            [
                criterion,
                number(agreed["raw"]),
                number(agreed["kappa"]),
                str(agreed["items"]),
                str(agreed["annotator_pairs"]),
            ]
        )
    lines = [*aligned(wins), ""]
    if any(rate["differs"] for _, rate in rates):
        lines.insert(-1, "* the interval, a bootstrap over contexts, excludes 0.5")
    if any(rate["ci95"] and rate["contexts"] < FEW_CONTEXTS for _, rate in rates):
        lines.insert(
            -1, f"warning: intervals over fewer than {FEW_CONTEXTS} contexts are too narrow to be relied on"
        )
    if equal := results["equal_comparisons_left_out"]:
        lines.insert(
            -1,
            f"left out of the sheet because both replies are equal word for word: {equal} of all comparisons",
        )
    if len(results["annotators"]) < 2:
        return "\n".join(lines[:-1])
    return "\n".join([*lines, *aligned(agreements)])


def read(folder: Path, paths: Sequence[Path]) -> dict:
    """Unblind answers and write ``win_rates.json`` into the sheet's folder.

    Args:
        folder: what `export` wrote.
        paths: filled sheets, or files that the form gave.

    Returns:
        The results; without any answer they are not written.

    Raises:
        InputError: for a folder without a key, and files that do not belong to it or cannot be read.
    """
    key = read_key(folder)
    results = results_of(read_answers(paths, key), key)
    if results["annotators"]:
        write_json(folder / "win_rates.json", results)
    return results


# --- command line ----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The two commands and their options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = options.add_subparsers(dest="command", required=True, parser_class=Parser)
    out = commands.add_parser("export", help="write a sheet for annotators, and its key")
    out.add_argument(
        "systems", nargs="+", help="runs' folders, outs/<run>, or generations files; two or more"
    )
    out.add_argument("--items", type=int, default=50, help="number of comparisons (default: 50)")
    out.add_argument("--seed", type=int, default=0, help="of the draw, the sides and the order (default: 0)")
    out.add_argument("--output-dir", required=True, help="where to: a folder that holds no sheet yet")
    back = commands.add_parser("read", help="win rates and agreement from filled sheets")
    back.add_argument("sheet", help="the folder that export wrote, with key.json")
    back.add_argument(
        "answers", nargs="+", help="filled sheet.csv files, or what the form's download button gave"
    )
    back.add_argument("--json", action="store_true", help="print the results as JSON")
    return options


def main(argv: list[str] | None = None) -> int:
    """Export or read; returns the exit status: 1 where nobody has answered anything."""
    options = parser().parse_args(argv)
    if options.command == "export":
        print(export(options.systems, options.items, options.seed, Path(options.output_dir)))
        return 0
    results = read(Path(options.sheet), [Path(path) for path in options.answers])
    if not results["annotators"]:
        print(
            f"no answers yet: every cell of {', '.join(CRITERIA)} is empty in {', '.join(options.answers)}",
            file=sys.stderr,
        )
        return 1
    print(json.dumps(results, indent=2, ensure_ascii=False) if options.json else table(results))
    return 0


if __name__ == "__main__":
    run_main(main)
