"""Options: dataclasses on the command line, with a preset's values as defaults."""

import argparse
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import HfArgumentParser

from common.base_models import BUNDLED, KNOWN, ensure_bases
from common.errors import InputError
from common.yaml_files import read_yaml

if TYPE_CHECKING:  # it brings torch, which not all who read options need
    from transformers import TrainingArguments

ROOT = Path(__file__).resolve().parent.parent
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
PRESETS = ROOT / "scripts" / "presets"


@dataclass(frozen=True)
class CommonArguments:
    """What every script takes; a preset's value stands where an option is not given."""

    preset: str = field(
        default="demo",
        metadata={"help": "demo, chat, small, paper, scratch, or a YAML file like those in scripts/presets"},
    )
    run: str | None = field(
        default=None, metadata={"help": "name of the folder under --outs; default: the preset's name"}
    )
    outs: str = field(default="outs", metadata={"help": "where runs are kept"})
    schema: str | None = field(
        default=None, metadata={"help": "schema file; default: the preset's, else the repository's schema.py"}
    )
    base: str | None = field(
        default=None,
        metadata={
            "help": "folder with plain checkpoints encoder/ and decoder/, or a name: bundled, the repository's own, or smollm2, which scripts/get_bases.sh fetches"
        },
    )
    encoder: str = field(default="scratch", metadata={"help": "encoder base: folder, hub name, or 'scratch'"})
    decoder: str = field(default="scratch", metadata={"help": "decoder base: folder, hub name, or 'scratch'"})
    limit: int | None = field(
        default=None, metadata={"help": "use only so many rows of every file: the real path, quickly"}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "do finished work again; in gen_cvae.sh: replace results that other options made"},
    )

    def __post_init__(self):
        if self.limit is not None:
            at_least(1, self, "limit")

    @property
    def run_folder(self) -> Path:
        """``outs/<run>``."""
        return Path(self.outs) / (self.run or Path(self.preset).stem)


def read_preset(name: str) -> dict:
    """A preset's sections; raises `InputError` naming the presets there are."""
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise InputError(f"unknown preset {name!r}; there are {known}, or name a YAML file")
    preset = read_yaml(path)
    sections = preset.values() if isinstance(preset, dict) else [None]
    if not all(
        isinstance(section, dict) and all(isinstance(key, str) for key in section) for section in sections
    ):
        raise InputError(f"{path}: expected sections of options, as in scripts/presets/demo.yaml")
    return preset


class _Parser(HfArgumentParser):
    """Mistakes on the command line end like every other bad input: one line, exit status 2."""

    def error(self, message: str):
        raise InputError(f"{message} (see --help)")

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        """As `transformers` does it; a field whose metadata has ``read`` is an option whose words that function reads."""
        if (read := field.metadata.get("read")) is None:
            HfArgumentParser._parse_dataclass_field(parser, field)
            return

        def word(text: str) -> object:
            try:
                return read(text)
            except InputError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        spellings = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        made = field.default_factory
        default = made() if callable(made) else field.default
        parser.add_argument(*spellings, type=word, default=default, help=field.metadata["help"])


def _trains(kind: type) -> bool:
    return kind.__name__ == "TrainingArguments"


def parser_of(types: tuple[type, ...], description: str = "") -> HfArgumentParser:
    """The parser of some dataclasses' options, whose help begins with ours; a mistake raises `InputError`."""
    parser = _Parser(
        types, description=description, usage="%(prog)s [--option value ...]", allow_abbrev=False
    )
    for action in parser._actions:
        if (
            action.option_strings[0].startswith("--no_") and action.nargs == 0
        ):  # of a switch; it has the help of the positive one
            action.help, action.default = f"the same as --{action.dest} false", argparse.SUPPRESS
    for kind in filter(_trains, types):
        ours, theirs = parser._optionals, parser.add_argument_group("training options of transformers")
        names = {field.name for field in dataclasses.fields(kind)}
        theirs._group_actions = [action for action in ours._group_actions if action.dest in names]
        ours._group_actions = [action for action in ours._group_actions if action.dest not in names]
    return parser


def parse_arguments(types: tuple[type, ...], section: str, argv: list[str] | None, description: str) -> tuple:
    """The options of a script as one instance per dataclass.

    Args:
        types: dataclasses, `CommonArguments` first.
        section: the preset's section that gives this script's defaults, besides ``common``.

    Raises:
        InputError: for unknown options or presets, preset values that no option takes, and values that nothing can be trained with.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option, default in (("preset", "demo"), ("base", None), ("encoder", None), ("decoder", None)):
        early.add_argument(f"--{option}", default=default)
    typed = early.parse_known_args(argv)[0]
    name = typed.preset
    preset = read_preset(name)
    values = preset.get("common", {}) | preset.get(section, {})
    if values.get("schema"):
        values["schema"] = _preset_schema(values["schema"], name)
    parser = parser_of(types, description)
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"preset {name!r}: {section} has no option {', '.join(unknown)}")
    if (
        "disable_tqdm" in known and not sys.stderr.isatty()
    ):  # progress bars would fill a file with control characters
        parser.set_defaults(disable_tqdm=True)
    for option, value in values.items():
        _check_preset(parser, name, option, value)
    parser.set_defaults(**values)
    try:
        *parsed, remaining = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    except InputError:
        raise
    except (
        TypeError,
        ValueError,
        OverflowError,
        ImportError,
    ) as error:  # of values that only the dataclasses look at
        raise InputError(f"preset {name!r} or an option: {' '.join(str(error).split()):.200}") from error
    if remaining:
        raise InputError(f"unknown option {' '.join(remaining)} (see --help)")
    for part in parsed:
        if _trains(type(part)):
            check_training(part)
    common, *others = parsed
    own = (
        () if typed.base else tuple(kind for kind in ("encoder", "decoder") if getattr(typed, kind))
    )  # they stand before the preset's base
    return (_with_places(common, name, own), *others)


def _check_preset(parser: HfArgumentParser, preset: str, option: str, value: object) -> None:
    """Raises `InputError` for a preset's value that the command line would not take for that option."""
    action = next(action for action in parser._actions if action.dest == option)
    values = value if isinstance(value, list) and action.nargs in ("+", "*") else [value]
    types = [
        str(f.type) for kind in parser.dataclass_types for f in dataclasses.fields(kind) if f.name == option
    ]
    takes_objects, takes_names = (any(kind in of for of in types) for kind in ("dict", "list[str]"))
    names = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if value is None or (isinstance(value, dict) and takes_objects) or (names and takes_names):
        return
    for one in values:
        try:
            if isinstance(one, (list, dict)):
                raise InputError("expected one value")
            if action.type is str and not isinstance(one, str):
                raise InputError("expected a text")
            parser._check_value(action, parser._get_value(action, str(one)))
        except (InputError, argparse.ArgumentError) as error:
            reason = getattr(error, "message", None) or str(error)
            raise InputError(f"preset {preset!r}: {option}: {reason:.200}, found {one!r:.60}") from None


def options_by_stage(
    argv: list[str], stages: Sequence[str], shared: Mapping[str, Sequence[str]], otherwise: str | None = None
) -> dict[str, list[str]]:
    """A command line by stage: ``--stage.option value`` to one, shared options to several.

    Args:
        shared: option as it is written -> the stages that take it.
        otherwise: the stage of options that are neither.

    Raises:
        InputError: for an option that names no stage and is not shared, where there is no `otherwise`.
    """
    options: dict[str, list[str]] = {stage: [] for stage in stages}
    destinations: Sequence[str] = [otherwise] if otherwise else stages
    for word in argv:
        if word.startswith("--"):
            name = word.split("=")[0]
            stage, dot, _ = name[2:].partition(".")
            if dot and stage in options:
                destinations, word = [stage], "--" + word[2:].removeprefix(f"{stage}.")
            elif name in shared:
                destinations = shared[name]
            elif otherwise:
                destinations = [otherwise]
            else:
                raise InputError(
                    f"unknown option {word}; options for all stages are {', '.join(name for name, all_ in shared.items() if len(all_) == len(stages))}, others name their stage: --{stages[-2]}.{word[2:]}"
                )
        for stage in destinations:
            options[stage].append(word)
    return options


def read_names(given: object) -> list[str]:
    """Names as a command line has them, ``a,b``, or as a list; raises `InputError` for anything else."""
    names = [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"must be names separated by commas, or a list of them; found {given!r:.80}")
    return names


def meanings(registry: Mapping[str, object]) -> str:
    """A registry's names for an option's help, each with the first sentence of what is said of it: ``ode: ...; none: ...``."""
    firsts = {name: (inspect.getdoc(entry) or "").partition("\n")[0] for name, entry in registry.items()}
    return "; ".join(f"{name}: {line.rstrip('.')}" for name, line in firsts.items()).replace("%", "%%")


def within(name: str, value: object, right: bool, expected: str) -> None:
    """Raises `InputError` for an option's value that is not `right`, with what was expected in words."""
    if not right:
        raise InputError(f"{name}: expected a number {expected}, found {value}")


def at_least(least: int, options: object, names: str) -> None:
    """Raises `InputError` where one of the named options, separated by spaces, is less."""
    for name in names.split():
        within(name, getattr(options, name), getattr(options, name) >= least, f"of at least {least}")


def check_training(training: "TrainingArguments") -> None:
    """Raises `InputError` for values with which nothing can be trained, or would be sent away before it is whole."""
    if training.push_to_hub:
        raise InputError(
            "--push_to_hub: checkpoints are not sent away; python -m scripts.share makes a folder that can be uploaded"
        )
    over = "learning_rate" if training.max_steps > 0 else "learning_rate num_train_epochs"
    ranges: tuple[tuple[str, Callable[[float], bool], str], ...] = (
        (over, lambda value: 0 < value < math.inf, "over 0"),
        ("weight_decay adam_epsilon max_grad_norm", lambda value: 0 <= value < math.inf, "of 0 or more"),
        ("adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "of 0 or more and less than 1"),
        ("per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps eval_accumulation_steps", lambda value: value >= 1, "of at least 1"),
        ("save_steps", lambda value: value > 0, "over 0"),
        ("dataloader_num_workers", lambda value: value >= 0, "of 0 or more"),
        ("seed data_seed", lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
    )  # fmt: skip
    for names, right, what in ranges:
        for name in names.split():
            if (value := getattr(training, name)) is not None:
                within(f"--{name}", value, right(value), what)


def _preset_schema(schema: str, preset: str) -> str:
    """The schema that a preset names: from the repository's root, or from the folder of a YAML file of the user's own.

    What is typed on the command line is taken from where the user stands.
    """
    folders = [ROOT] if (PRESETS / f"{preset}.yaml").is_file() else [Path(preset).resolve().parent, ROOT]
    paths = [folder / Path(schema).expanduser() for folder in folders]
    return str(next((path for path in paths if path.is_file()), paths[0]))


def _with_places(common: CommonArguments, preset: str, own: tuple[str, ...] = ()) -> CommonArguments:
    """Fill in the run's name and, from ``--base``, the two bases, but for those in `own`."""
    changes: dict = {"run": common.run or Path(preset).stem}
    if not RUN_NAME.fullmatch(changes["run"]):
        raise InputError(
            f"--run {changes['run']!r}: expected a name of letters, digits, '.', '_' and '-' that begins with a letter or digit; --outs names the folder"
        )
    if common.base in (*BUNDLED, *KNOWN) and len(own) < 2:
        changes["base"] = str(ensure_bases(common.base))
        common = dataclasses.replace(common, base=changes["base"])
    for kind in ("encoder", "decoder"):
        name = getattr(common, kind)
        if kind in own:
            continue
        if common.base:
            changes[kind] = str(Path(common.base).expanduser() / kind)
        elif name == "base":
            raise InputError(
                f"preset {preset!r} starts from your own checkpoints: BASE=<folder with encoder/ and decoder/>"
            )
    changes["schema"] = str(Path(common.schema).expanduser() if common.schema else ROOT / "schema.py")
    return dataclasses.replace(common, **changes)
