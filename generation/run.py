"""Generate replies with chosen aspects and score them. ``bash gen_cvae.sh --target lyrical,optimistic``"""

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from common.content import content_of
from common.devices import choose_device
from common.errors import InputError
from common.files import copy_file
from common.interruption import Interrupted
from common.jsonl import read_json, write_json, write_jsonl
from common.locks import exclusive
from common.options import CommonArguments
from common.processes import by_first, collected, count, is_first, rank, wait_for_all
from common.provenance import (
    command_line,
    device_name,
    enough_memory,
    git_revision,
    package_versions,
    relative,
)
from common.schema import Schema, load_schema, target_name
from dataset.dialogues import Dialogue, balanced, every_nth, read_dialogues
from dataset.encoding import DialogueTemplate
from generation.control_weights import STRONGEST
from generation.finished import finished, inputs_hash, unfinished
from generation.generator import ReplyGenerator
from generation.kept import (
    chunks_of,
    generations_of,
    numbers_of,
    replies_digest,
    request_hash,
    sample_of,
    write_kept,
)
from generation.options import ControlArguments, DecodingArguments, recorded_options
from generation.record import (
    context_warnings,
    head_warnings,
    length_warnings,
    posterior_warnings,
    sampling_record,
    sampling_warnings,
    timed,
)
from generation.requests import Request
from generation.trace import trace
from model.bases import SCRATCH
from scoring.columns import Gatherer, joined
from scoring.perplexity import PerplexityModel
from scoring.results import measure, results
from scoring.samples import samples
from scoring.score import baseline_of, references_of, score_file
from scoring.scorer import Scorer
from scoring.stale import data_hash, trained_hash
from scoring.systems import checked_name
from scoring.table import table


@dataclass(frozen=True)
class GenerationArguments:
    """What to generate, and how it is scored."""

    contexts: str | None = field(
        default=None, metadata={"help": "dialogue or context file; default: the schema's TEST"}
    )
    target: str = field(
        default="all",
        metadata={"help": "all (every combination), tags (the file's own), or aspects: lyrical,optimistic"},
    )
    name: str | None = field(
        default=None,
        metadata={
            "help": "name of this decoding in the run's folder; default: control (none without control) for every combination of the schema's TEST, else custom"
        },
    )
    score: bool = field(default=True, metadata={"help": "score the replies with the run's evaluators"})
    trace: bool = field(
        default=True,
        metadata={"help": "keep a sample of the latents' trajectories through the ODE for the report"},
    )
    sweep_weights: str | None = field(
        default=None, metadata={"help": "also measure these strengths, 1,10,100: the report's dial curves"}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda or mps; default: CUDA, MPS or CPU, in that order"}
    )
    ppl_model: str | None = field(
        default=None,
        metadata={
            "help": "causal LM for perplexity: folder, hub name, or 'decoder' for the un-tuned base; none: no perplexity"
        },
    )
    ppl_user_prefix: str = field(
        default="", metadata={"help": "mark before a user turn in that model's text"}
    )
    ppl_assistant_prefix: str = field(default="", metadata={"help": "mark before a reply"})
    ppl_turn_start: str = field(default="", metadata={"help": "text between mark and turn"})
    ppl_turn_end: str = field(default="\n", metadata={"help": "mark after a turn"})


def requests_for(dialogues: list[Dialogue], schema: Schema, target: str, limit: int | None) -> list[Request]:
    """The replies to write: for all combinations of every different context, for one target, or for the rows' own tags.

    Where a row of the file has the same context and the same target, its reply is the reference.

    Raises:
        InputError: for an unknown target, or ``tags`` where a row has none.
    """
    contexts: dict[tuple[str, ...], str] = {}
    references: dict[tuple, str | None] = {}
    for dialogue in dialogues:
        contexts.setdefault(dialogue.context, dialogue.id)
        references.setdefault((dialogue.context, target_name(dialogue.target)), dialogue.response)
    if target == "tags":
        missing = [dialogue.id for dialogue in dialogues if not dialogue.target]
        if missing:
            raise InputError(f"--target tags: row {int(missing[0]) + 1} of the file has no tag")
        return balanced(
            [Request(d.id, d.context, d.target, d.response) for d in dialogues],
            limit,
            lambda request: target_name(request.target),
        )
    targets = (
        schema.combinations()
        if target == "all"
        else [schema.target([aspect.strip() for aspect in target.split(",")])]
    )
    chosen = every_nth(list(contexts.items()), limit)
    return [
        Request(id, context, t, references.get((context, target_name(t))))
        for context, id in chosen
        for t in targets
    ]


OPTIONS = (CommonArguments, GenerationArguments, ControlArguments, DecodingArguments)
COMPARED = [
    f.name
    for kind in (ControlArguments, DecodingArguments)
    for f in dataclasses.fields(kind)
    if f.name != "batch_size"
] + ["target", "contexts", "limit"]


def generate(
    common: CommonArguments, what: GenerationArguments, control: ControlArguments, decoding: DecodingArguments
) -> Path | None:
    """Generate into ``outs/<run>/generations`` and score into ``outs/<run>/results``.

    Returns:
        The report, where this wrote it: of the run's main replies, in the first process.

    Raises:
        InputError: for what cannot be used.
    """
    named, name = what.name is not None, name_of(what, control)
    what = dataclasses.replace(what, name=name)
    if name == "none":
        control = dataclasses.replace(control, candidates=1)  # choosing is control too
    there = common.run_folder.is_dir()  # of a run that is not, the error says so, and nothing is made
    replies = common.run_folder / "generations" / name
    with exclusive(replies, f"{name} of {common.run}") if there else nullcontext():
        return _generate(common, what, control, decoding, named)


def _generate(
    common: CommonArguments,
    what: GenerationArguments,
    control: ControlArguments,
    decoding: DecodingArguments,
    named: bool,
) -> Path | None:
    schema = load_schema(common.schema)
    path = Path(what.contexts) if what.contexts else schema.test and schema.existing(schema.test)
    if path is None:
        raise InputError(f"{schema.path}: no TEST file; name one with --contexts")
    weights = sweep_weights(what.sweep_weights)
    configuration = {
        **dataclasses.asdict(control),
        **dataclasses.asdict(decoding),
        **dataclasses.asdict(what),
        "limit": common.limit,
    }
    configuration |= {
        "contexts": relative(path),
        "schema": relative(schema.path),
        "attributes": schema.aspects,
        "ppl_model": _ppl_name(what, common),
    }
    results_path = common.run_folder / "results" / f"{what.name}.json"
    if not named and not common.overwrite:
        by_first(lambda: check_replaces_its_like(results_path, configuration))
    requests = requests_for(read_dialogues(path, schema), schema, what.target, common.limit)
    device = choose_device(what.device)
    scorer = Scorer(common.run_folder, schema, device) if what.score else None
    generator = ReplyGenerator(common.run_folder / "cvae", device, schema, decoding.precision)

    trained = read_json(common.run_folder / "cvae" / "stage.json") or {}
    generations = common.run_folder / "generations" / f"{what.name}.jsonl"
    partial = unfinished(generations)
    inputs = None
    if scorer is not None:
        asked = request_hash(
            generator, common.run_folder / "cvae", requests, control, decoding, trained_hash(trained)
        )
        inputs = inputs_hash(asked, scorer.hash, configuration)
        done = by_first(lambda: finished(common.run_folder, str(what.name), inputs))
        if done and not common.overwrite:
            print(f"{what.name}: already written, {len(requests)} replies", flush=True)
            return show(common.run_folder, str(what.name), done) if is_first() else None
    with (
        saying_what_is_kept(partial),
        enough_memory(
            f"generation: out of memory at --batch_size {decoding.batch_size}; halve it (the replies stay the same)"
        ),
    ):
        written = write_kept(
            partial,
            generator,
            common.run_folder / "cvae",
            requests,
            control,
            decoding,
            trained_hash(trained),
        )
    seconds = written.seconds
    metrics = trained.get("metrics") or {}
    doubts = posterior_warnings(metrics) + head_warnings(metrics, schema.aspects)
    doubts += context_warnings(written.cuts)
    doubts += length_warnings(written.lengths, decoding.max_new_tokens)
    before = by_first(lambda: replies_digest(generations))
    if is_first():
        write_jsonl(generations, written.parts.rows())
    wait_for_all()
    print(
        f"{what.name}: {len(requests)} replies, latents {seconds['latents']:.1f} s, decoding {seconds['decoding']:.1f} s -> {generations}",
        flush=True,
    )
    if scorer is None:
        written.parts.remove()
        print("".join(f"warning: {line}\n" for line in doubts), end="", flush=True)
        return None

    language_model = language_model_of(what, common, device)
    with saying_what_is_kept(partial):
        columns = timed(
            seconds, "scoring", score_file, generations, schema, scorer, language_model, generations
        )
    references = references_of(generations, schema, scorer, language_model)
    traced = what.trace and control.algorithm == "ode"
    run = {
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": control.seed,
        "config": {"generation": configuration, "cvae": trained.get("settings")},
        "cvae": trained_hash(trained),
        "data": {"training": data_hash(trained), "contexts": content_of(path)},
        "versions": package_versions(),
        "git": git_revision(),
        "device": device_name(device),
        **({"processes": count()} if count() > 1 else {}),
        **sampling_record(written.sample),
        "seconds": seconds,
        "inputs": inputs,
        "beside": ["latents"] * traced + ["sweep"] * bool(weights),
    }
    if columns is None:  # the first process has all numbers
        if weights:
            sweep(weights, generator, requests, control, decoding, scorer, language_model, schema)
        written.parts.remove()
        return None
    run["replies"] = replies_digest(generations)
    baseline, stale = baseline_of(common.run_folder, str(what.name), columns, run["cvae"], scorer.records)
    record = results(
        columns,
        baseline=baseline,
        references=references,
        evaluators=scorer.records,
        warnings=scorer.warnings() + stale + sampling_warnings(written.sample, 0.01) + doubts,
        run=run,
        seed=control.seed,
    )  # fmt: skip
    write_json(results_path, record)
    if replies_digest(generations) != before:  # an earlier decoding under this name wrote something else
        for old in ("latents", "sweep"):
            results_path.with_name(f"{what.name}.{old}.json").unlink(missing_ok=True)
    if traced:
        kept = [
            dataclasses.replace(request, candidate=number)
            for request, number in zip(requests, written.candidates)
        ]
        latents = trace(generator, kept, control, decoding.batch_size)
        write_json(results_path.with_name(f"{what.name}.latents.json"), latents | {"cvae": run["cvae"]})
    if weights:
        stamp = {"cvae": run["cvae"], "evaluators": scorer.hash}
        points = sweep(weights, generator, requests, control, decoding, scorer, language_model, schema)
        write_json(results_path.with_name(f"{what.name}.sweep.json"), {"points": points, **stamp})
    if what.name == "control":
        copy_file(generations, common.run_folder / "generations.jsonl")
        copy_file(results_path, common.run_folder / "results.json")
    written.parts.remove()
    return show(common.run_folder, str(what.name), record)


def show(run_folder: Path, name: str, record: dict) -> Path | None:
    """Print a decoding's table and where it lies; of the run's main replies write the report too, and return where it is."""
    place = run_folder / "results" / f"{name}.json"
    if name != "control":
        print(table(record, place), flush=True)
        print(f"-> {place}", flush=True)
        return None
    from scoring.report.run_report import write_run_report  # brings Matplotlib

    report = write_run_report(run_folder)
    print(table(record, f"{report}, {place}"), flush=True)
    print(f"\n{samples(run_folder / 'generations' / 'control.jsonl')}\n\n-> {place}", flush=True)
    return report


@contextmanager
def saying_what_is_kept(unfinished: Path) -> Iterator[None]:
    """Of what is interrupted, say that it is kept; raises `Interrupted` then."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        kept = f"whole parts are kept in {unfinished.parent}, and the same command goes on behind them"
        number = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
        raise Interrupted(f"interrupted; {kept}", number) from None


def name_of(what: GenerationArguments, control: ControlArguments) -> str:
    """The decoding's name: `control` and `none` are kept for the run's main results, which the report and the table show.

    Raises:
        InputError: for what is no plain file name, and where replies without control are to be called ``control``, or other ones ``none``.
    """
    whole = what.target == "all" and what.contexts is None
    default = ("none" if control.algorithm == "none" else "control") if whole else "custom"
    name = default if what.name is None else checked_name(what.name)
    if name in ("control", "none") and (name == "none") != (control.algorithm == "none"):
        raise InputError(
            f"--name {name} with --algorithm {control.algorithm}: 'none' is for replies without control, 'control' for those with it; choose another name"
        )
    return name


def check_replaces_its_like(results_path: Path, configuration: dict) -> None:
    """Nobody loses results by an option: where there are results already, they must be of the same settings.

    Raises:
        InputError: naming what differs from the settings that ``results/<name>.json`` records.
    """
    before = (read_json(results_path) or {}).get("run", {}).get("config", {}).get("generation", {})
    try:
        before |= recorded_options(ControlArguments, before)
    except InputError as error:
        raise InputError(f"{results_path}: run.config.generation.{error}") from None
    changed = [
        f"{key} {before[key]!s:.80}, now {configuration[key]!s:.80}"
        for key in COMPARED
        if key in before and before[key] != configuration[key]
    ]
    if changed:
        shown = "; ".join(changed[:3]) + (f"; {len(changed) - 3} more" if changed[3:] else "")
        raise InputError(
            f"{results_path} was made with other options ({shown}); keep it with --name <another>, or replace it with --overwrite"
        )


def sweep_weights(text: str | None) -> list[float]:
    """``"1,10,100"`` as numbers in rising order; raises `InputError` for anything else."""
    try:
        weights = sorted({float(part) for part in text.split(",")}) if text else []
    except ValueError:
        weights = [-1.0]
    if any(not 0 < weight <= STRONGEST for weight in weights):
        raise InputError(
            f"--sweep_weights must be numbers over 0 and at most {STRONGEST:g}, separated by commas, found {text!r}"
        )
    return weights


def sweep(
    weights: list[float], generator: ReplyGenerator, requests: list[Request], control: ControlArguments, decoding: DecodingArguments,
    scorer: Scorer, language_model: PerplexityModel | None, schema: Schema,
) -> list[dict]:  # fmt: skip
    """The same requests at several strengths: ``[{"weight", "overall": M, "warnings"}]``, in the first process."""
    points = []
    for weight in weights:
        settings = dataclasses.replace(control, weights=weight)
        gatherer, samples = Gatherer(schema), []
        for number, chunk in list(enumerate(chunks_of(requests, settings, decoding)))[rank() :: count()]:
            written = generator.write(chunk, settings, decoding)
            samples.append((number, numbers_of(written.sample)))
            rows = generations_of(chunk, written.texts, control.seed)
            scorer.score(rows)
            if language_model is not None:
                language_model.score(rows)
            gatherer.add(rows, number)
        parts = collected((gatherer, samples))
        if not parts:
            continue
        m = measure(joined([part[0] for part in parts]).finish(), control.seed)
        numbers = [sample for _, sample in sorted((s for part in parts for s in part[1]), key=lambda s: s[0])]
        points.append(
            {"weight": weight, "overall": m, "warnings": sampling_warnings(sample_of(numbers), 0.01)}
        )
        ppl = f", perplexity {m['ppl']:.1f}" if m["ppl"] is not None else ""
        print(
            f"weight {weight:g}: accuracy {m['accuracy_mean']:.3f}, joint {m['accuracy_joint']:.3f}, coherence {m['nli']:.3f}{ppl}",
            flush=True,
        )
    return points


def _ppl_name(what: GenerationArguments, common: CommonArguments) -> str | None:
    if what.ppl_model != "decoder":
        return (
            relative(what.ppl_model) if what.ppl_model and Path(what.ppl_model).is_dir() else what.ppl_model
        )
    return None if common.decoder == SCRATCH else f"{relative(common.decoder)} (un-tuned)"


def language_model_of(
    what: GenerationArguments, common: CommonArguments, device: torch.device
) -> PerplexityModel | None:
    """The model for perplexity, where one is named and there is one."""
    name = common.decoder if what.ppl_model == "decoder" else what.ppl_model
    if name is None or name == SCRATCH:
        return None
    return PerplexityModel(
        name,
        DialogueTemplate(
            what.ppl_user_prefix, what.ppl_assistant_prefix, what.ppl_turn_start, what.ppl_turn_end
        ),
        device,
    )
