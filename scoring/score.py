"""Score replies again, or replies from elsewhere, without the generator. ``python -m scoring.score outs/demo``

PATH is a run's folder (every file in its generations/ is scored with its evaluators) or one generations file: scored by
the evaluators of --run and kept there as generations/NAME.jsonl and results/NAME.json, or, with --no-evaluators, summed
up from the scores that it holds already. Rows are read, scored and written a few thousand at a time.
"""

from common.entry import Parser, prepare_libraries, quiet_transformers, run_main, seed_of

prepare_libraries()

import argparse  # noqa: E402
import sys  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from tqdm import tqdm  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.files import copy_file  # noqa: E402
from common.jsonl import read_json, read_lines, write_json, write_jsonl  # noqa: E402
from common.locks import exclusive  # noqa: E402
from common.parts import SharedParts  # noqa: E402
from common.processes import collected, count, is_first, rank, several, wait_for_all  # noqa: E402
from common.schema import Schema, load_schema  # noqa: E402
from scoring.columns import Columns, Gatherer, joined  # noqa: E402
from scoring.generations import line_chunks, read_generations, rows_of  # noqa: E402
from scoring.results import measure, results  # noqa: E402
from scoring.stale import differ, other_evaluators, stamp_of  # noqa: E402
from scoring.systems import checked_name  # noqa: E402
from scoring.table import table  # noqa: E402

if TYPE_CHECKING:  # torch is needed only where a model scores
    from scoring.mauve import Mauve
    from scoring.perplexity import PerplexityModel
    from scoring.scorer import Scorer

CHUNK, SMALLEST, CHUNKS = (
    2048,
    128,
    32,
)  # most and fewest rows of a chunk, and how many chunks at least, so that processes can share them
OF_GENERATION = (
    "sampler:",
    "posterior:",
    "context:",
    "length:",
)  # how warnings begin that scoring does not make again


def score_file(
    source: Path,
    schema: Schema,
    scorer: "Scorer | None" = None,
    language_model: "PerplexityModel | None" = None,
    destination: Path | None = None,
) -> Columns | None:
    """Score a generations file chunk by chunk; several processes (`common.processes`) share the chunks.

    Args:
        scorer, language_model: what scores; None keeps the scores that the rows have.
        destination: where the scored rows go, in their order; may be `source`. None: nowhere. A scoring that is ended
            goes on behind its whole chunks.

    Returns:
        The values of all replies, in the first process; None in the others.

    Raises:
        InputError: naming file and line of a row that cannot be used.
    """
    size, total = chunk_size(source)
    anew = scorer is not None or language_model is not None
    kept = None
    if anew and destination:
        kept = _kept_scores(source, destination, scorer, language_model, size, total)
    earlier = sorted(kept.found) if kept else []
    mine = set(kept.mine() if kept else range(total)[rank() :: count()])
    gatherer = Gatherer(schema)
    for number in earlier[rank() :: count()]:
        assert kept is not None, "only kept scores are there before"
        gatherer.add(kept.part(number), number)
    with tqdm(desc=f"scoring {source.name}", unit=" replies", leave=False, disable=None) as bar:
        for number, lines in enumerate(line_chunks(source, size)):
            if number not in mine:
                continue
            rows = rows_of(lines, schema, number * size)
            _score(rows, scorer, language_model)
            if kept is not None:
                kept.close_part(number, rows)
            gatherer.add(rows, number)
            bar.update(len(rows))
    if kept is not None:
        kept.complete()
    if destination is not None and is_first():
        write_jsonl(destination, kept.rows() if kept else read_generations(source, schema))
    if kept is not None:
        kept.remove()
    parts = collected(gatherer)
    return joined(parts).finish() if parts else None


def _score(rows: list[dict], scorer: "Scorer | None", language_model: "PerplexityModel | None") -> None:
    if rows and scorer is not None:
        scorer.score(rows)
    if rows and language_model is not None:
        language_model.score(rows)


def chunk_size(source: Path) -> tuple[int, int]:
    """How many rows of a file are scored together, whatever the number of processes, and how many chunks that makes."""
    rows = sum(1 for _ in read_lines(source))
    size = min(CHUNK, max(SMALLEST, -(-rows // CHUNKS)))
    return size, -(-rows // size)


def _kept_scores(
    source: Path, destination: Path, scorer: "Scorer | None", language_model: "PerplexityModel | None", size: int, total: int
) -> SharedParts:  # fmt: skip
    """Where scores are kept while a file is scored: of these replies by these evaluators."""
    from common.provenance import fingerprint  # brings transformers

    scored_by = {
        "evaluators": getattr(scorer, "records", None),
        "perplexity": language_model and [language_model.name, language_model.template],
        "chunk": size,
    }
    path = destination.with_name(f"{destination.stem}.scores.partial")
    return SharedParts(path, fingerprint(scored_by, [source]), total)


def references_of(
    source: Path, schema: Schema, scorer: "Scorer", language_model: "PerplexityModel | None" = None
) -> dict | None:
    """The overall numbers of the real replies that a generations file has beside its own, on the same targets and by the same
    evaluators: what they say of people. In the first process; None in the others, and where there are none."""
    gatherer, size = Gatherer(schema), chunk_size(source)[0]
    for number, lines in enumerate(line_chunks(source, size)):
        if number % count() != rank():
            continue
        rows = [
            row | {"response": row["reference"], "reference": None}
            for row in rows_of(lines, schema, number * size)
            if row.get("reference")
        ]
        _score(rows, scorer, language_model)
        gatherer.add(rows, number)
    parts = collected(gatherer)
    columns = joined(parts).finish() if parts else None
    return measure(columns) if columns else None


def baseline_of(
    run_folder: Path, name: str, columns: Columns, cvae: str | None, evaluators: dict[str, dict]
) -> tuple[dict | None, list[str]]:
    """The overall numbers of the uncontrolled replies to the same requests, where they are there and stand on the same weights.

    Args:
        cvae: hash of the weights that wrote the replies; None: unknown, from elsewhere.
        evaluators: name -> record with its ``hash``.

    Returns:
        (the numbers or None, a warning where there are some that stand on other weights).
    """
    return baseline_for(run_folder, name, columns.summary(), cvae, evaluators)


def baseline_for(
    run_folder: Path, name: str, asked: dict, cvae: str | None, evaluators: dict[str, dict]
) -> tuple[dict | None, list[str]]:
    """As `baseline_of`, by the columns' summary of the requests."""
    stored = read_json(run_folder / "results" / "none.json")
    if name == "none" or stored is None:
        return None, []
    before = stored.get("run", {}).get("requests") or {}
    if any(asked[key] != before.get(key) for key in asked if key != "hash"):
        return None, []
    others = other_evaluators(evaluators, stored.get("evaluators", {}))
    if differ(cvae, stored.get("run", {}).get("cvae")):
        others.insert(0, "CVAE")
    if differ(asked.get("hash"), before.get("hash")):
        others.append("set of contexts")
    if not others:
        return stored.get("overall"), []
    line = f"no control: results/none.json is of another {', '.join(others)} and is not shown beside this; write it again: bash gen_cvae.sh --name none --algorithm none"
    return None, [line]


def mauve_of(
    replies: list[str],
    source: Path,
    others: list[Path],
    schema: Schema,
    language_model: "PerplexityModel",
    seed: int,
) -> "Mauve":
    """MAUVE of replies against people's: those of dialogue files, else the references in the generations file, each once.

    Raises:
        InputError: naming file and line of a row that cannot be used, or without the package.
    """
    from dataset.dialogues import read_dialogues
    from scoring.mauve import mauve

    if others:
        people = [d.response for path in others for d in read_dialogues(path, schema) if d.response]
    else:
        pairs = {
            (tuple(row["context"]), row["reference"])
            for row in read_generations(source, schema)
            if row["reference"]
        }
        people = sorted(reference for _, reference in pairs)
    return mauve(replies, people, language_model, seed)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "path",
        type=Path,
        help="a run's folder, or a generations file (JSON Lines: context, target, response)",
    )
    options.add_argument(
        "--run", type=Path, help="the run's folder whose evaluators score the file, and which keeps it"
    )
    options.add_argument("--name", help="name of the file's results in that run (default: the file's name)")
    options.add_argument("--schema", help="schema file (default: the repository's schema.py)")
    options.add_argument(
        "--no-evaluators", action="store_true", help="use the scores in the file; no model is loaded"
    )
    options.add_argument("--device", help="cpu, cuda or mps (default: CUDA, MPS or CPU, in that order)")
    options.add_argument(
        "--seed", type=seed_of, default=0, help="of intervals and self-BLEU's sample (default: 0)"
    )
    options.add_argument(
        "--mauve",
        action="store_true",
        help="also MAUVE against people's replies, by the states of --ppl-model (pip install mauve-text)",
    )
    options.add_argument(
        "--references",
        type=Path,
        nargs="+",
        default=[],
        help="dialogue files with people's replies for MAUVE (default: the references in the file)",
    )
    options.add_argument(
        "--processes",
        type=int,
        default=1,
        help="share the work among so many, on a GPU each where there are GPUs (default: 1)",
    )
    ppl = options.add_argument_group("perplexity (default: what the file has)")
    ppl.add_argument("--ppl-model", help="causal LM: folder or hub name")
    ppl.add_argument("--ppl-user-prefix", default="", help="mark before a user turn in that model's text")
    ppl.add_argument("--ppl-assistant-prefix", default="", help="mark before a reply")
    ppl.add_argument("--ppl-turn-start", default="", help="text between mark and turn")
    ppl.add_argument("--ppl-turn-end", default="\n", help="mark after a turn (default: a line break)")
    return options


def files_of(options: argparse.Namespace) -> list[tuple[Path, str, Path | None]]:
    """(file, name, run's folder) of everything to be scored, the uncontrolled replies first.

    Raises:
        InputError: for a path that holds no generations, or a file without a run to score it.
    """
    path: Path = options.path
    if path.is_dir():
        found = sorted(
            (path / "generations").glob("*.jsonl"), key=lambda file: (file.stem != "none", file.stem)
        )
        if not found:
            raise InputError(
                f"{path}: no generations/*.jsonl in it; expected a run's folder, outs/<run>, or a generations file"
            )
        return [(file, file.stem, path) for file in found]
    if not path.is_file():
        raise InputError(f"not found: {path}; expected a run's folder, outs/<run>, or a generations file")
    inside = path.parent.name == "generations"
    run = options.run or (path.parent.parent if inside else None)
    if run is None and not options.no_evaluators:
        raise InputError(
            f"{path}: which evaluators are to score it? --run outs/<run>, or --no-evaluators for the scores that it has"
        )
    name = checked_name(options.name) if options.name else path.stem
    if (
        not inside
        and run is not None
        and "config" in (read_json(run / "results" / f"{name}.json") or {}).get("run", {})
    ):
        raise InputError(
            f"{run} has replies of its own called {name!r}, which these would replace; name them otherwise: --name"
        )
    return [(path, name, run)]


def evaluators_of(
    options: argparse.Namespace, schema: Schema, run: Path | None
) -> "tuple[Scorer | None, PerplexityModel | None]":
    """The models that the options ask for."""
    scorer = language_model = None
    if options.no_evaluators and not options.ppl_model:
        return None, None
    from common.devices import choose_device

    device = choose_device(options.device)
    if not options.no_evaluators:
        from scoring.scorer import Scorer

        quiet_transformers()
        scorer = Scorer(run, schema, device)
    if options.ppl_model:
        from dataset.encoding import DialogueTemplate
        from scoring.perplexity import PerplexityModel

        template = DialogueTemplate(
            options.ppl_user_prefix,
            options.ppl_assistant_prefix,
            options.ppl_turn_start,
            options.ppl_turn_end,
        )
        quiet_transformers()
        language_model = PerplexityModel(options.ppl_model, template, device)
    return scorer, language_model


def _report(
    path: Path, name: str, run: Path | None, columns: Columns, references: dict | None, scorer: "Scorer | None", seed: int,
    mauve: "Mauve | None",
) -> None:  # fmt: skip
    """Write a file's results beside it or into its run, and print their table."""
    from common.provenance import command_line, git_revision, package_versions

    place = run / "results" / f"{name}.json" if run else path.with_name(f"{path.stem}.results.json")
    before = read_json(place) or {}
    records = scorer.records if scorer else before.get("evaluators", {})
    cvae = stamp_of(path)["cvae"] or before.get("run", {}).get("cvae")
    baseline, stale = baseline_of(run, name, columns, cvae, records) if run else (None, [])
    record = results(
        columns,
        baseline=baseline,
        references=references if scorer else before.get("references"),
        evaluators=records,
        warnings=(scorer.warnings() if scorer else [])
        + stale
        + [w for w in before.get("warnings", []) if w.startswith(OF_GENERATION)],
        run=before.get("run", {})
        | {
            "cvae": cvae,
            "scored_by": {
                "command": command_line(),
                "versions": package_versions(),
                "git": git_revision(),
            },
        },
        seed=seed,
        mauve=mauve,
    )
    write_json(place, record)
    if run and name == "control":
        copy_file(run / "generations" / "control.jsonl", run / "generations.jsonl")
        write_json(run / "results.json", record)
        from scoring.report.run_report import write_run_report

        write_run_report(run)
    print(f"{name}: {len(columns)} replies")
    print(table(record, place), flush=True)
    print(f"-> {place}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Score and print the tables; returns the exit status."""
    options = parser().parse_args(argv)
    if options.processes < 1:
        raise InputError(f"--processes: expected a number of at least 1, found {options.processes}")
    if options.processes > 1 and not several():
        from common.launch import launch

        return launch(options.processes, ["-m", "scoring.score", *(sys.argv[1:] if argv is None else argv)])
    schema, files = load_schema(options.schema), files_of(options)
    if options.mauve and not options.ppl_model:
        raise InputError("--mauve stands on a causal LM's states; name it with --ppl-model")
    if options.mauve:
        from scoring.mauve import check_package

        check_package()
    with ExitStack() as locks:
        for path, name, run in files:
            place = run / "generations" / name if run else path.with_suffix("")
            if run is not None and not run.is_dir():
                raise InputError(f"{run}: no such run; its evaluators are to score {path}")
            locks.enter_context(exclusive(place, f"{name} of {run or path}", "choose another --name"))
        return score_files(options, schema, files)


def score_files(
    options: argparse.Namespace, schema: Schema, files: list[tuple[Path, str, Path | None]]
) -> int:
    """Score what `files_of` found and print the tables; returns the exit status."""
    scorer, language_model = evaluators_of(options, schema, files[0][2])
    for path, name, run in files:
        destination = run / "generations" / f"{name}.jsonl" if run else None
        columns = score_file(
            path,
            schema,
            scorer,
            language_model,
            destination if scorer or language_model or destination != path else None,
        )
        references = references_of(path, schema, scorer, language_model) if scorer else None
        if columns is not None:
            mauve = (
                mauve_of(columns.replies, path, options.references, schema, language_model, options.seed)
                if options.mauve and language_model
                else None
            )
            _report(path, name, run, columns, references, scorer, options.seed, mauve)
        wait_for_all()
    return 0


if __name__ == "__main__":
    run_main(main)
