"""A schema: its attributes, aspects and files, read from a file such as ``schema.py`` and checked."""

import importlib.util
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MOST_SAID = 6  # mistakes in one message
RESERVED = ("nli",)  # names of evaluators that belong to no attribute
ASPECT_NAME = re.compile(r"[A-Za-z0-9_-]+")
FILE_NAMES = ("TEST", "NLI", "DEV_NLI")
ATTRIBUTE_FILES = ("dialogues", "dev_dialogues", "texts", "dev_texts", "test_dialogues")
ATTRIBUTE_KEYS = ("name", "aspects", *ATTRIBUTE_FILES, "descriptions")


@dataclass(frozen=True)
class Attribute:
    """One dimension of personality: its name, its aspects in index order, its files (`Path` or None), and what each aspect
    means in words (for `make_data_chatgpt.py`, and for models that are prompted)."""

    name: str
    aspects: tuple[str, ...]
    dialogues: Path | None = None
    dev_dialogues: Path | None = None
    texts: Path | None = None
    dev_texts: Path | None = None
    test_dialogues: Path | None = None
    descriptions: dict[str, str] | None = None

    def description(self, aspect: str) -> str:
        """What an aspect means in words, for those that are to write it; its name where the schema does not say."""
        return (self.descriptions or {}).get(aspect) or aspect

    def index(self, aspect: str) -> int:
        """Index of an aspect's name; raises `InputError` for an aspect of another attribute."""
        if aspect not in self.aspects:
            raise InputError(f"unknown aspect {aspect!r:.80}; {self.name} has {list(self.aspects)}")
        return self.aspects.index(aspect)


@dataclass(frozen=True)
class Schema:
    """All attributes in index order, and the files that belong to no single one of them."""

    attributes: tuple[Attribute, ...]
    test: Path | None = None
    nli: Path | None = None
    dev_nli: Path | None = None
    path: Path | None = None
    source: str | None = None  # how to get the files, for the message where one is missing

    def existing(self, path: Path) -> Path:
        """The path of a file that the schema names; raises `InputError` where there is none, with how to get it."""
        if not path.is_file():
            raise InputError(f"file not found: {path}; {self.source or f'it is named in {self.path}'}")
        return path

    @property
    def names(self) -> list[str]:
        """Attribute names in index order."""
        return [attribute.name for attribute in self.attributes]

    @property
    def aspects(self) -> dict[str, list[str]]:
        """Attribute name -> aspect names; what a checkpoint remembers of its schema."""
        return {attribute.name: list(attribute.aspects) for attribute in self.attributes}

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name; raises `InputError` listing the names there are."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise InputError(f"unknown attribute {name!r:.80}; the schema has {self.names}")

    def attribute_of(self, aspect: str) -> Attribute:
        """The attribute that an aspect belongs to; raises `InputError` listing all aspects."""
        for attribute in self.attributes:
            if aspect in attribute.aspects:
                return attribute
        raise InputError(f"unknown aspect {aspect!r:.80}; the schema has {self.aspects}")

    def target(self, aspects: list[str]) -> dict[str, str]:
        """``["optimistic", "lyrical"]`` -> ``{"languagestyle": "lyrical", "attitude": "optimistic"}``, schema order.

        Raises `InputError` for an unknown aspect or for two aspects of one attribute.
        """
        chosen: dict[str, str] = {}
        for aspect in aspects:
            name = self.attribute_of(aspect).name
            if name in chosen:
                raise InputError(
                    f"a target names one aspect per attribute; {chosen[name]!r} and {aspect!r} are both of {name}"
                )
            chosen[name] = aspect
        return {name: chosen[name] for name in self.names if name in chosen}

    def held_out(self, names: list[str]) -> list[dict[str, str]]:
        """Combinations by their names in result tables, ``["lyrical+optimistic+critical"]``, as targets.

        Raises:
            InputError: for a name that is none of `combinations`', and where all of them would be held out.
        """
        known = {target_name(target): target for target in self.combinations()}
        for name in names:
            if name not in known:
                raise InputError(
                    f"held_out: {name!r:.80} is no combination of all attributes; there are {', '.join([*known][:3])}, ..."
                )
        if set(names) == set(known):
            raise InputError("held_out: all combinations; at least one must be left")
        return [known[name] for name in dict.fromkeys(names)]

    def target_indices(self, target: dict[str, str]) -> list[int]:
        """Aspect index per attribute in schema order, -1 where the target names none."""
        return [a.index(target[a.name]) if a.name in target else -1 for a in self.attributes]

    def combinations(self) -> list[dict[str, str]]:
        """Every target that names one aspect of every attribute, in index order."""
        return [
            dict(zip(self.names, aspects))
            for aspects in itertools.product(*(a.aspects for a in self.attributes))
        ]


def target_name(target: dict[str, str]) -> str:
    """``{"languagestyle": "lyrical", "attitude": "optimistic"}`` -> ``lyrical+optimistic``; the key of result tables."""
    return "+".join(target.values()) or "(none)"


def mistakes(attributes: object) -> list[str]:
    """Every mistake in an ``ATTRIBUTES`` list, one line each; empty when it can be used."""
    found: list[str] = []
    if not isinstance(attributes, (list, tuple)) or not attributes:
        return [f"ATTRIBUTES must be a list of at least one attribute, found {attributes!r:.80}"]
    seen_names: set[str] = set()
    seen_aspects: dict[str, str] = {}
    for position, entry in enumerate(attributes):
        if not isinstance(entry, dict):
            found.append(
                f"ATTRIBUTES[{position}] must be a dict with 'name' and 'aspects', found {entry!r:.80}"
            )
            continue
        name = entry.get("name")
        where = f"attribute {name!r:.80}" if name else f"ATTRIBUTES[{position}]"
        if not isinstance(name, str) or not ASPECT_NAME.fullmatch(name):
            found.append(f"{where}: a name is letters, digits, '_' and '-', found {name!r:.80}")
        elif name in RESERVED:
            found.append(f"{where}: the name is taken, by the coherence model")
        elif name in seen_names:
            found.append(f"{where}: the name is used twice")
        seen_names.add(name if isinstance(name, str) else "")
        for key in entry:
            if key not in ATTRIBUTE_KEYS:
                found.append(f"{where}: unknown key {key!r:.80}; known are {list(ATTRIBUTE_KEYS)}")
        for key in ATTRIBUTE_FILES:
            if entry.get(key) is not None and not isinstance(entry[key], (str, Path)):
                found.append(f"{where}: {key} must be a file name, found {entry[key]!r:.80}")
        aspects = entry.get("aspects")
        if not isinstance(aspects, (list, tuple)) or len(aspects) < 2:
            found.append(f"{where}: 'aspects' must list two or more names, found {aspects!r:.80}")
            continue
        for aspect in aspects:
            if not isinstance(aspect, str) or not ASPECT_NAME.fullmatch(aspect):
                found.append(f"{where}: an aspect is letters, digits, '_' and '-', found {aspect!r:.80}")
            elif aspect in seen_aspects:
                found.append(f"{where}: aspect {aspect!r:.80} is already one of {seen_aspects[aspect]!r}")
            else:
                seen_aspects[aspect] = str(name)
        described = entry.get("descriptions")
        if described is not None and (
            not isinstance(described, dict) or not all(isinstance(text, str) for text in described.values())
        ):
            found.append(
                f"{where}: descriptions must be a dict from aspects to sentences, found {described!r:.80}"
            )
        elif described and (strangers := [name for name in described if name not in aspects]):
            found.append(
                f"{where}: descriptions of {sorted(map(str, strangers))}, which are none of its aspects {list(aspects)}"
            )
    return found


def load_schema(path: str | Path | None = None) -> Schema:
    """Read and check a schema file (default: the repository's).

    Raises `InputError` naming the file and the first `MOST_SAID` mistakes in it, joined by ``; ``.
    """
    try:
        path = Path(path or ROOT / "schema.py").expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # of links in a circle, of a user who is not there
        raise InputError(f"{str(path)!a:.80} is no schema file ({error})") from None
    if not path.is_file():
        bundled = ROOT / path.name
        hint = (
            f"; a path is taken from where you stand, the repository's is {bundled}"
            if bundled.is_file()
            else ""
        )
        raise InputError(f"schema not found: {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"miracle_schema_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: expected a Python file, schema.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (
        Exception,
        SystemExit,
    ) as error:  # a user's file may fail in any way; the reason is passed on in one line
        raise InputError(
            f"{path}: cannot be read as Python ({type(error).__name__}: {error!s:.200})"
        ) from error
    found = mistakes(getattr(module, "ATTRIBUTES", None))
    if found:
        raise InputError(f"{path}: {'; '.join(f'{mistake:.300}' for mistake in found[:MOST_SAID])}")

    found = [
        f"{key} must be a file name, found {getattr(module, key)!r:.80}"
        for key in FILE_NAMES
        if not isinstance(getattr(module, key, None), (str, Path, type(None)))
    ]
    if found:
        raise InputError(f"{path}: {'; '.join(f'{mistake:.300}' for mistake in found[:MOST_SAID])}")

    def located(name: str | None) -> Path | None:
        try:
            return None if name is None else (path.parent / Path(name).expanduser()).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(f"{path}: {str(name)!a:.80} is no file name ({error})") from None

    attributes = tuple(
        Attribute(
            entry["name"],
            tuple(entry["aspects"]),
            descriptions=entry.get("descriptions"),
            **{key: located(entry.get(key)) for key in ATTRIBUTE_FILES},
        )
        for entry in module.ATTRIBUTES
    )
    return Schema(
        attributes,
        path=path,
        source=getattr(module, "SOURCE", None),
        **{key.lower(): located(getattr(module, key, None)) for key in FILE_NAMES},
    )
