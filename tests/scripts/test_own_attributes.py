"""The worked example of dataset/README.md, run as it stands there, in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = "--preset scratch --limit 12 --classifier.num_train_epochs 1 --nli.num_train_epochs 1 --cvae.num_train_epochs 1 --generation.candidates 2"


def commands() -> list[str]:
    """The example's code blocks; the pipeline gets options that make it short, and nothing else is changed."""
    card = (ROOT / "dataset" / "README.md").read_text()
    example = re.search(r"<!-- example -->(.*)<!-- /example -->", card, re.DOTALL)[1]
    blocks = re.findall(r"```bash\n(.*?)```", example, re.DOTALL)
    return [re.sub(r"(bash pipeline\.sh)", rf"\1 {QUICK}", block) for block in blocks]


@pytest.mark.slow
def test_a_fourth_attribute_with_three_aspects_by_the_readme(tmp_path):
    copy = tmp_path / "miracle"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", ".carry", "outs", "data", "tests", "__pycache__", ".pytest_cache"
        ),
    )
    environment = os.environ | {"MIRACLE_ENV": "current", "PYTHON": sys.executable}
    said = ""
    blocks = commands()
    assert len(blocks) == 3
    for block in blocks:
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        said += done.stdout
    assert re.search(r"\| manner +\| formal", said) and "0 errors" in said
    assert (copy / "outs" / "manner" / "classifier" / "manner" / "model.safetensors").is_file()
    rows = [
        json.loads(line) for line in (copy / "outs" / "manner" / "generations.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 6 * 24 and {row["target"]["manner"] for row in rows} == {
        "formal",
        "casual",
        "playful",
    }
    mine = [
        json.loads(line)
        for line in (copy / "outs" / "manner" / "generations" / "mine.jsonl").read_text().splitlines()
    ]
    assert [row["target"] for row in mine] == [{"languagestyle": "lyrical", "manner": "playful"}] * 6
