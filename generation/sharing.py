"""A run as others get it: which folder is taken where none is named, saved with a model card, in a repository of the hub."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file

from common.checkpoints import damaged_file
from common.errors import InputError
from common.folders import appearing_whole, check_outside
from common.jsonl import is_file, read_json, write_json
from common.network import hub_mistake
from common.options import ROOT
from model.bases import weights_hash
from scoring.stale import stale_parts, trained_hash
from scoring.systems import evaluator_folders

RELEASE = ROOT / "release" / "chat"
PARTS = ("cvae/*", "classifier/*", "nli/*", "results.json", "README.md")


def run_parts(folder: Path) -> tuple[Path | None, Path]:
    """(the run, its ``cvae/``) of a run's folder, or (None, folder) of a ``cvae/`` alone.

    Raises:
        InputError: where there is no such folder, or no trained CVAE in it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; bash pipeline.sh makes a run")
    run, cvae = (folder, folder / "cvae") if (folder / "cvae").is_dir() else (None, folder)
    if not (cvae / "config.json").is_file():
        place = folder.resolve()
        outs = "" if place.parent == ROOT / "outs" else f" --outs {place.parent}"
        raise InputError(
            f"no trained CVAE in {cvae}; train it first: RUN={place.name} bash train_cvae.sh{outs}"
        )
    return run, cvae


def named_run(folder: Path | None, name: str | None, script: str) -> Path:
    """The run that a command's options name, else `default_run`, which is then said in a line.

    Args:
        folder: as it was typed.
        name: of ``--run``, a folder of ``outs/``.
        script: of the command, ``chat.sh``.

    Raises:
        InputError: where both name one, and as `default_run`.
    """
    if folder and name:
        raise InputError(f"{folder} and --run {name} (or RUN={name}) both name a run; leave one out")
    if folder or name:
        return folder or Path("outs") / str(name)
    return default_run(script=script, write=lambda line: print(line, flush=True))


def default_run(
    outs: Path = Path("outs"), script: str = "chat.sh", write: Callable[[str], None] = lambda line: None
) -> Path:
    """What is loaded where no run is named: the run whose CVAE was trained last, else the released model, where there is one.

    Runs of ``--limit``, which are trials, are passed over.

    Args:
        script: to name another run to.
        write: takes a line that says which run was taken, and one of a later trial.

    Raises:
        InputError: where there is neither.
    """
    trained = sorted(outs.glob("*/cvae/stage.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    trial = None
    for path in trained:
        run, rows = path.parent.parent, limit_of(path)
        if rows is None:
            released = f"; bash {script} {from_here(RELEASE)} is the released model" * RELEASE.is_dir()
            write(f"{run}, trained last{released}")
            return run
        if trial is None:
            trial = run
            rows_each = f"{rows} row{'s' * (rows != 1)} a file"
            write(f"{run} was trained on {rows_each} (--limit) and is passed over; name it to use it")
    if RELEASE.is_dir():
        return RELEASE
    if trial is not None:
        raise InputError(
            f"no trained run in {outs}/ but of --limit; name one to use it: bash {script} {trial}"
        )
    raise InputError(f"no trained run in {outs}/ yet: bash pipeline.sh trains one, or name a run's folder")


def limit_of(stage: Path) -> int | None:
    """The ``--limit`` that a training's record names; None without one, and for a damaged record, which loading names."""
    try:
        settings = (read_json(stage) or {}).get("settings")
    except InputError:
        return None
    limit = settings.get("limit") if isinstance(settings, dict) else None
    return limit if isinstance(limit, int) else None


def from_here(path: Path) -> Path:
    """A path as a user in this folder would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def has_evaluators(run: Path, names: list[str]) -> bool:
    """Whether a run has all evaluators of the attributes named; with some of them no reply can be scored.

    Raises:
        InputError: for one that has lost its configuration, without which it would be left out in silence.
    """
    folders = [run / folder for folder in evaluator_folders(names).values()]
    there = [is_file(folder / "config.json") for folder in folders]
    for folder, found in zip(folders, there):
        if not found and (rest := sorted(path.name for path in folder.glob("*.safetensors"))):
            raise InputError(
                f"{folder}: expected config.json beside {rest[0]}, found none; copy or train it again, or move the folder away"
            )
    return all(there)


def save_run(
    source: Path, folder: Path, name: str | None = None, license: str | None = None, compact: bool = False
) -> Path:
    """Copy what a reply needs into a folder of its own, and write its model card.

    Args:
        source: a run's folder, or a ``cvae/`` alone.
        folder: a new or empty one.
        name: what the card's example loads: a repository, or by default the folder's name.
        license: for the card.
        compact: adapters in fp16, and without the tokenizers that their bases have.

    Returns:
        `folder`.

    Raises:
        InputError: without a trained CVAE, for one that is damaged, for a folder that holds something, and for results of
            another training.
    """
    run, cvae = run_parts(source)
    config, stage = read_json(cvae / "config.json") or {}, read_json(cvae / "stage.json") or {}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already; name a new folder")
    results = read_json(run / "results.json") if run else None
    if results and stage and results.get("run", {}).get("config", {}).get("cvae") != stage.get("settings"):
        raise InputError(
            f"{run}: results.json is of another training than cvae/; generate and score again first: bash gen_cvae.sh"
        )
    names = [name for name, _ in config["attributes"]]
    for line in stale_parts(run, evaluator_folders(names)) if run and results else []:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    evaluators = evaluator_folders(names).values() if run and has_evaluators(run, names) else []
    for copied in (cvae, *((run or cvae) / place for place in evaluators)):
        check_outside(folder, copied)
        check_whole(copied)
    from scoring.report.card import (
        model_card,  # late: brings libraries of the scores, which cost seconds and no reply needs
    )

    with appearing_whole(folder) as work:
        shutil.copytree(cvae, work / "cvae")
        for evaluator in evaluators:
            shutil.copytree((run or cvae) / evaluator, work / evaluator)
        if run and results:
            shutil.copyfile(run / "results.json", work / "results.json")
        if compact:
            for part in (work / "cvae", *(work / evaluator for evaluator in evaluators)):
                make_compact(part)
        model_card(work, name or folder.resolve().name, license).save(work / "README.md")
    return folder


def check_whole(folder: Path) -> None:
    """Raises `InputError` for a checkpoint that nobody could load: a damaged file, or no weights."""
    reason = damaged_file(folder)
    if reason is None and not any(folder.glob("*.safetensors")):
        reason = "no weights, *.safetensors"
    if reason:
        raise InputError(f"{folder} cannot be shared: {reason}; train it again with --overwrite")


def make_compact(folder: Path) -> None:
    """Store a checkpoint of adapters in half of the space, in place.

    Raises:
        InputError: for a whole checkpoint, whose tokenizer is nowhere else.
    """
    config = read_json(folder / "config.json") or {}
    if not (config.get("lora_rank") or config.get("base_record")):
        raise InputError(
            f"{folder.name} is whole; only adapters can be compact, as their bases hold the rest"
        )
    for path in folder.glob("*.safetensors"):
        weights = {name: value.to(torch.float16) for name, value in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
    shutil.rmtree(folder / "encoder_tokenizer", ignore_errors=True)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    ):
        (folder / name).unlink(missing_ok=True)
    if (folder / "adapter_config.json").is_file():
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty card
    record_hash(folder)


def record_hash(folder: Path) -> None:
    """Note the hash of weights that were rewritten in a stage's record, and keep that of the trained ones, which results name."""
    if stage := read_json(folder / "stage.json"):
        before = trained_hash(stage)
        stage["metrics"] = stage.get("metrics", {}) | {"hash": weights_hash(folder), "trained_hash": before}
        write_json(folder / "stage.json", stage)


def push_run(
    source: Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
) -> str:
    """Save a run and upload it, making the repository where there is none; files of an earlier upload that it no longer has go.

    Returns:
        The repository's address.

    Raises:
        InputError: as `save_run`, for a name that is not ``user/name``, and where the hub refuses or cannot be reached.
    """
    with hub_errors(repo_id), tempfile.TemporaryDirectory() as scratch:
        folder, api = save_run(source, Path(scratch) / "run", repo_id, license), HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload a MIRACLE run",
            delete_patterns=list(PARTS),
        )
    return str(address)


def fetch(repo_id: str, revision: str | None = None, token: str | None = None) -> Path:
    """The local copy of a shared run in the hub's cache, downloaded where it is not there; raises `InputError`."""
    with hub_errors(repo_id):
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=list(PARTS)))


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """What can go wrong with the hub, as `InputError` in a line."""
    if repo_id.count("/") != 1:
        raise InputError(
            f"{repo_id!r} is no folder that is there, nor a repository of the hub; expected user/name"
        )
    try:
        validate_repo_id(repo_id)
        yield
    except InputError:
        raise
    except Exception as error:
        if mistake := hub_mistake(error):
            raise InputError(f"hub repository {repo_id}: {mistake}") from error
        if not isinstance(error, (OSError, HTTPError, HFValidationError)):
            raise
        raise InputError(
            f"hub repository {repo_id}: {' '.join(str(error).split())}; is the name right, and are you logged in (hf auth login)?"
        ) from error
