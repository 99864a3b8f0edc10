"""The house: floors whose imports go one way, names that mean one thing, defaults with one owner, presets that say only what differs."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

from common.options import PRESETS, CommonArguments
from generation.options import ControlArguments, DecodingArguments
from generation.run import GenerationArguments
from model.config import MiracleConfig
from model.sampler import SamplerSettings
from scripts.measure_code import against_the_order, modules, shared_names
from training.classifier import AttributeArguments
from training.coherence import NliArguments
from training.cvae import LossArguments, ModelArguments
from training.evaluators import EvaluatorArguments

SECTIONS = {
    "common": (CommonArguments,),
    "classifier": (AttributeArguments, EvaluatorArguments),
    "nli": (NliArguments, EvaluatorArguments),
    "cvae": (ModelArguments, LossArguments),
    "generation": (GenerationArguments, ControlArguments, DecodingArguments),
}


def defaults(*kinds: type) -> dict:
    """Option -> default."""
    return {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}


def test_imports_go_one_way():
    assert len(modules()) > 100 and against_the_order() == []


def test_an_import_upwards_would_be_found(tmp_path):
    for name, text in {
        "common/a.py": "import scoring.b\n",
        "scoring/b.py": "import common.a\n",
        "model/c.py": "from dataset import d\n",
        "dataset/d.py": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(against_the_order(tmp_path)) == [
        "common/a.py:1 imports scoring.b",
        "model/c.py:1 imports dataset",
    ]


def test_no_two_classes_share_a_name():
    assert shared_names() == {}


def test_the_model_package_knows_no_other():
    for name, path in modules().items():
        if name.startswith("model."):
            assert not any(
                f"from {room}" in path.read_text()
                for room in ("common", "dataset", "training", "generation", "scoring")
            ), name


@pytest.mark.parametrize(
    ("owner", "options"),
    [(MiracleConfig, ModelArguments), (SamplerSettings, ControlArguments)],
    ids=["model", "sampler"],
)
def test_a_default_has_one_owner(owner, options):
    given = {
        name: parameter.default for name, parameter in inspect.signature(owner.__init__).parameters.items()
    }
    shared = set(given) & set(defaults(options))
    assert len(shared) >= 7
    assert {name: defaults(options)[name] for name in shared} == {name: given[name] for name in shared}


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_say_only_what_differs(path: Path):
    preset = yaml.safe_load(path.read_text())
    for section, options in preset.items():
        known = defaults(*SECTIONS[section])
        same = {
            name: value
            for name, value in options.items()
            if name in known and known[name] == value and type(known[name]) is type(value)
        }
        assert same == {}, f"{path.name}, {section}: the defaults"
