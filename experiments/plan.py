"""From a grid to its cells: every option checked, every cell with a key, before anything is trained."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import read_json
from common.options import CommonArguments
from common.provenance import fingerprint
from common.schema import Schema
from experiments.baseline import BaselineKind, methods
from experiments.contexts import labelled, requests_of, split_of
from experiments.cvae import CvaeKind, base_name
from experiments.evaluators import trainings
from experiments.grid import Grid
from experiments.guided_cvae import GuidedCvaeKind
from experiments.human import HumanKind
from experiments.options import converted, crossed, parsed
from experiments.self_trained import SelfTrainedKind
from experiments.splits import OPTION, expanded
from experiments.system import Kind, Model
from generation import run
from generation.control_weights import weights_text
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from model.bases import SCRATCH, load_config
from scoring.mauve import check_package
from training.inputs import compared_settings


@dataclass(frozen=True)
class Cell:
    """One row of the results: a model and its generation options.

    Attributes:
        swept: those of the options that the grid crosses, and the model's crossed training options as
            ``training.<option>``.
        key: a hash of all that decides the cell's numbers.
        written: the same of its replies alone, whoever scores them.
        held_out: combinations that are measured as unseen ones; empty: none.
    """

    model: Model
    options: dict
    swept: dict
    key: str
    held_out: tuple[str, ...] = ()
    written: str = ""

    @property
    def label(self) -> str:
        """``full weights=10, seed 0``."""
        words = [
            self.model.label,
            *(f"{name.removeprefix('training.')}={value}" for name, value in self.swept.items()),
        ]
        return " ".join(words) + ("" if self.model.kind == "human" else f", seed {self.model.seed}")


@dataclass(frozen=True)
class Plan:
    """What an experiment will do.

    Attributes:
        cells: seed by seed, a model's after one another.
        requests: the replies to write in every cell.
        common, what: the preset's bases, and the perplexity model with its text.
    """

    grid: Grid
    schema: Schema
    cells: list[Cell]
    requests: list[Request]
    common: CommonArguments
    what: run.GenerationArguments

    @property
    def swept(self) -> list[str]:
        """The columns of all crossed options."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.swept))


def kinds() -> dict[str, Kind]:
    """Every kind of model there is, by the name that a grid calls it."""
    return {
        "cvae": CvaeKind(),
        "self_trained": SelfTrainedKind(),
        "guided_cvae": GuidedCvaeKind(),
        "human": HumanKind(),
        **{name: BaselineKind(method) for name, method in methods().items()},
    }


def plan(grid: Grid, schema: Schema) -> Plan:
    """All cells of a grid.

    Raises:
        InputError: in one line, for the first mistake: the grid's file, the key, what is wrong; or a data file's.
        model.bases.BaseNotFound: for a base that is not found.
    """
    defaults, common, what = _generation_defaults(grid)
    evaluators = _evaluators(grid, schema, common)
    requests = requests_of(grid, schema)
    if any(entry["kind"] == "human" for entry in grid.models.values()):
        labelled(grid, schema)
    data = fingerprint({"aspects": schema.aspects, "limit": grid.limit}, _files(schema, grid.contexts))
    perplexity = {name: value for name, value in dataclasses.asdict(what).items() if name.startswith("ppl_")}
    contexts = grid.contexts if grid.targets == "all" else f"{grid.contexts} {grid.targets}"
    # "judges" is the evaluators' name in the keys of version 0.1: another one would measure every finished cell anew
    measured = {"contexts": contexts, "judges": evaluators, "perplexity": perplexity, "data": data}
    if grid.mauve:
        _check_mauve(grid, schema, common, what)
        measured["mauve"] = True
    cells: dict[str, Cell] = {}
    for model, kind, held_out in _models(grid, schema, data):
        unseen = {OPTION: held_out} if held_out else {}
        where = f"models.{model.label}.generation"
        try:
            for options, swept in crossed(grid.models[model.label].get("generation", {})):
                resolved = kind.generation(schema, defaults, options)
                made = {"model": model.name, "generation": _keyed(resolved)}
                key = fingerprint({"label": model.label} | made | measured | unseen, [])
                written = fingerprint(made | {"contexts": contexts, "data": data}, [])
                columns = {f"training.{name}": value for name, value in model.swept.items()} | swept
                cells.setdefault(key, Cell(model, resolved, columns, key, held_out, written))
        except InputError as error:
            raise grid.mistake(where, error) from None
    return Plan(grid, schema, list(cells.values()), requests, common, what)


def _check_mauve(grid: Grid, schema: Schema, common: CommonArguments, what: run.GenerationArguments) -> None:
    """Raises `InputError` where MAUVE cannot be measured: no package, no language model, or nobody's replies."""
    name = common.decoder if what.ppl_model == "decoder" else what.ppl_model
    if name in (None, SCRATCH):
        raise grid.mistake(
            "mauve", "stands on the model of perplexity, and there is none; set generation: {ppl_model: ...}"
        )
    labelled(grid, schema)
    check_package()


def _keyed(options: dict) -> dict:
    """Generation options as a cell's key has them, so that cells are found again that were finished when weights were a text
    and there was one energy."""
    kept = {name: value for name, value in options.items() if (name, value) != ("energy", "aspects")}
    return kept | ({"weights": weights_text(kept["weights"])} if "weights" in kept else {})


def _models(grid: Grid, schema: Schema, data: str) -> list[tuple[Model, Kind, tuple[str, ...]]]:
    models, known = [], kinds()
    for seed in grid.seeds:
        for label, entry in grid.models.items():
            kind = known.get(entry["kind"])
            if kind is None:
                raise grid.mistake(
                    f"models.{label}", f"kind: expected one of {', '.join(known)}, found {entry['kind']!r}"
                )
            if kind.section is None and seed != grid.seeds[0]:
                continue  # nothing is trained, so another seed would say the same
            entry_options = {
                name: value for name, value in entry.items() if name not in ("kind", "generation")
            }
            try:
                if OPTION in entry_options and (kind.section is None or grid.targets != "all"):
                    raise InputError(
                        f"{OPTION}: its replies name one attribute each, so there is no combination"
                    )
                for given, swept in crossed(expanded(entry_options, schema)):
                    given = (grid.section(kind.section) if kind.section else {}) | given
                    held_out = tuple(given.pop(OPTION, "").split(",")) if OPTION in given else ()
                    if held_out and kind.sees_combinations(given):
                        given[OPTION] = ",".join(held_out)
                    options = kind.training(grid, given, seed)
                    name = fingerprint(
                        {"kind": entry["kind"], "options": options, "seed": seed, "data": data}, []
                    )
                    model = Model(label, entry["kind"], seed, given, options, swept, name)
                    models.append((model, kind, held_out))
            except InputError as error:
                raise grid.mistake(f"models.{label}", error) from None
    return models


def _generation_defaults(grid: Grid) -> tuple[dict, CommonArguments, run.GenerationArguments]:
    """The preset's generation options with the grid's own over them, and what measures perplexity."""
    common, what, control, decoding = parsed(run.OPTIONS, "generation", {}, grid.words(grid.folder, "check"))
    given = grid.section("generation")
    ppl = {name: value for name, value in given.items() if name.startswith("ppl_")}
    generation_options = {name: value for name, value in given.items() if name not in ppl}
    try:
        what = dataclasses.replace(what, **converted(ppl, run.GenerationArguments))
        generation_options = converted(generation_options, ControlArguments, DecodingArguments)
    except InputError as error:
        raise grid.mistake("generation", error) from None
    scorer = common.decoder if what.ppl_model == "decoder" else what.ppl_model
    for base in {common.encoder, common.decoder, grid.second_encoder, scorer} - {SCRATCH, None}:
        load_config(base)
    defaults = dataclasses.asdict(control) | dataclasses.asdict(decoding) | generation_options
    defaults.pop("seed")
    return defaults, common, what


def _evaluators(grid: Grid, schema: Schema, common: CommonArguments) -> dict:
    """What decides which evaluators score: the options of their training, or the hashes of those of a run."""
    classifiers = [f"classifier/{name}" for name in schema.names]
    identity: dict = {}
    if grid.evaluators is not None:
        identity |= _hashes(grid, "evaluators", grid.evaluators, [*classifiers, "nli"])
    if grid.second_evaluators is not None:
        identity["second"] = _hashes(grid, "second_evaluators", grid.second_evaluators, classifiers)
    used = {training.section for training in trainings(grid, common)}
    for section, why in (
        ("nli", "because of 'evaluators'"),
        ("second_classifier", "without 'second_encoder'"),
    ):
        if grid.section(section) and section not in used:
            raise grid.mistake(section, f"nothing of the kind is trained here, {why}")
    for training in trainings(grid, common):
        try:
            parts = parsed(
                training.options_of,
                training.preset_section,
                training.options,
                training.words,
                allowed=("seed",),
            )
        except InputError as error:
            raise grid.mistake(training.section, error) from None
        options = {
            name: value for part in parts[1:-1] for name, value in dataclasses.asdict(part).items()
        } | compared_settings(parts[-1])
        identity[training.section] = options | {
            "version": training.module.VERSION,
            "encoder": base_name(parts[0].encoder),
        }
    return identity


def _hashes(grid: Grid, key: str, folder: Path, names: list[str]) -> dict[str, str | None]:
    """The hashes of trained evaluators; raises `InputError` where one is not there."""
    records = {name: read_json(folder / name / "stage.json") for name in names}
    for name, record in records.items():
        if record is None:
            raise grid.mistake(
                key, f"expected a run's folder with trained evaluators, found no {name} in {folder}"
            )
    return {name: (record or {}).get("metrics", {}).get("hash") for name, record in records.items()}


def _files(schema: Schema, contexts: str) -> list[Path | None]:
    """The data that results depend on; test files only where the contexts come from there."""
    kinds_of_file = ["dialogues", "dev_dialogues", "texts", "dev_texts"] + (
        ["test_dialogues"] if split_of(contexts) == "test-dialogues" else []
    )
    files = [getattr(attribute, kind) for attribute in schema.attributes for kind in kinds_of_file]
    return [*files, schema.nli, schema.dev_nli, *([schema.test] if split_of(contexts) == "test" else [])]
