"""A grid: the YAML file that says which models and which settings an experiment compares."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.yaml_files import read_yaml

SECTIONS = ("classifier", "nli", "second_classifier", "cvae", "baseline", "generation")
CONTEXTS = re.compile(r"test|(dev|test-dialogues):[1-9][0-9]*")
TARGETS = ("all", "single")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Grid:
    """What a grid's file says.

    Attributes:
        path: the file, as messages name it.
        name: of the experiment's folder, ``<outs>/experiments/<name>``.
        preset, schema, base, encoder, decoder, limit: as for every script.
        seeds: every model is trained once with each.
        contexts: ``dev:N``, ``test`` or ``test-dialogues:N``, see `experiments.contexts`.
        targets: ``all``: every combination of aspects for every context; ``single``: one aspect at a time, see `experiments.contexts`.
        evaluators: a run's folder whose evaluators score the replies; None: the experiment trains its own.
        second_encoder: base of a second, independent set of attribute classifiers, which the experiment trains; None: none.
        second_evaluators: a run's folder whose classifiers are the second set instead.
        mauve: measure MAUVE against the people's replies of the contexts' split, see `scoring.mauve`.
        ours: the model whose frontier the table compares with every other one's; None: the best ``cvae``.
        keep_models: False deletes a trained CVAE once its cells are measured.
        keep_replies: keep the scored replies of every cell in ``generations/<key>.jsonl``.
        sections: options for all models of a kind, over the preset's: ``classifier``, ``nli``, ``second_classifier``
            (default: as ``classifier``), ``cvae``, ``baseline``, ``generation``.
        models: name -> ``{"kind", "generation", training options}``.
    """

    path: Path
    name: str
    models: dict[str, dict]
    outs: str = "outs"
    preset: str = "demo"
    schema: str | None = None
    base: str | None = None
    encoder: str | None = None
    decoder: str | None = None
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    contexts: str = "dev:48"
    targets: str = "all"
    evaluators: Path | None = None
    second_encoder: str | None = None
    second_evaluators: Path | None = None
    mauve: bool = False
    ours: str | None = None
    keep_models: bool = True
    keep_replies: bool = True
    sections: dict[str, dict] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything of this experiment lies."""
        return Path(self.outs) / "experiments" / self.name

    def words(self, outs: Path, run: str) -> list[str]:
        """The common options of a training script, with the folder for what it trains."""
        given = {
            name: getattr(self, name) for name in ("preset", "schema", "base", "encoder", "decoder", "limit")
        }
        return [
            word
            for name, value in (given | {"outs": outs, "run": run}).items()
            if value is not None
            for word in (f"--{name}", str(value))
        ]

    def section(self, name: str) -> dict:
        """The options for all models of a kind."""
        return self.sections.get(name, {})

    def mistake(self, key: str, error: object) -> InputError:
        """A mistake in this grid: file, key, what is wrong."""
        return InputError(
            f"{self.path}: {key}{'.' if re.match(r'[A-Za-z0-9_]+: ', str(error)) else ': '}{error}"
        )


def read_grid(path: Path, **changes: object) -> Grid:
    """Read a grid and check its shape; the models' options are checked by `experiments.plan.plan`.

    Args:
        changes: values from the command line, which stand before the file's; None: not given.

    Raises:
        InputError: naming the file, the key, what was found and what was expected.
    """
    if not path.is_file():
        raise InputError(f"grid not found: {path}; expected a YAML file like experiments/demo.yaml")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys such as 'models', found {type(content).__name__}")
    content = {key: value for key, value in ({"name": path.stem} | content).items() if value is not None}
    content |= {key: value for key, value in changes.items() if value is not None}
    texts = (
        "name",
        "outs",
        "preset",
        "schema",
        "base",
        "encoder",
        "decoder",
        "contexts",
        "targets",
        "evaluators",
        "second_encoder",
        "second_evaluators",
        "ours",
    )
    known = (*texts, "limit", "seeds", "mauve", "keep_models", "keep_replies", "models", *SECTIONS)
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{path}: {key}: unknown key; known are {', '.join(known)}")
        wrong = None
        if key in texts and not isinstance(value, str):
            wrong = "a text"
        elif key in ("mauve", "keep_models", "keep_replies") and not isinstance(value, bool):
            wrong = "true or false"
        elif key == "limit" and not (_whole(value) and value > 0):
            wrong = "a number of rows"
        elif key == "seeds" and not (
            isinstance(value, list)
            and value
            and all(_whole(seed) and 0 <= seed < 1 << 32 for seed in value)
            and len(set(value)) == len(value)
        ):
            wrong = "a list of different whole numbers"
        elif key == "models" and not (isinstance(value, dict) and value):
            wrong = "names and their options"
        elif key in SECTIONS and not isinstance(value, dict):
            wrong = "options"
        elif key == "name" and not NAME.fullmatch(value):
            wrong = "a folder's name of letters, digits, '_', '.' and '-'"
        elif key == "contexts" and not CONTEXTS.fullmatch(value):
            wrong = "dev:N, test or test-dialogues:N"
        elif key == "targets" and value not in TARGETS:
            wrong = " or ".join(TARGETS)
        if wrong:
            raise InputError(f"{path}: {key}: expected {wrong}, found {value!r:.80}")
    if "models" not in content:
        raise InputError(f"{path}: models: missing; expected names and their options")
    _check_models(path, content["models"])
    if content.get("ours") not in (None, *content["models"]):
        raise InputError(
            f"{path}: ours: expected one of the models {', '.join(content['models'])}, found {content['ours']!r:.80}"
        )
    sections = {name: content.pop(name) for name in SECTIONS if name in content}
    content |= {"seeds": tuple(content.get("seeds", (0,))), "path": path, "sections": sections}
    if "second_encoder" in content and "second_evaluators" in content:
        raise InputError(
            f"{path}: second_evaluators: there is a second set already, that of 'second_encoder'"
        )
    for key in {"evaluators", "second_evaluators"} & content.keys():
        content[key] = Path(content[key]).expanduser()
    if "second_encoder" in content:
        content["second_encoder"] = os.path.expanduser(content["second_encoder"])  # a hub name stays as it is
    return Grid(**content)


def _check_models(path: Path, models: dict) -> None:
    for name, options in models.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: models: a model's name is a text, found {name!r}")
        if not isinstance(options, dict) or not isinstance(options.get("kind"), str):
            raise InputError(f"{path}: models.{name}: expected options with a 'kind', found {options!r:.80}")
        if not isinstance(options.get("generation", {}), dict):
            raise InputError(
                f"{path}: models.{name}.generation: expected options, found {options['generation']!r:.80}"
            )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
