"""The kind ``guided_cvae``: FUDGE's guides inside the CVAE's decoder."""

import json

import pytest
from test_experiment import evaluators, grid_file, rows_of  # noqa: F401  (fixtures)

from common.errors import InputError
from experiments.__main__ import main
from experiments.guided_cvae import GuideArguments

QUICK = {"weights": 1, "candidates": 1, "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guide_strength": -1}, "guide_strength: expected a number of 0 or more, found -1"),
        ({"guide_candidates": 0}, "guide_candidates: expected a number of at least 1, found 0"),
        ({"guide_strength": 2, "guidance": 1.5}, "guide_strength goes without guidance; found guidance 1.5"),
        ({"guide": 1}, "guide: no such option"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said, grid_file):  # noqa: F811
    path = grid_file({"both": {"kind": "guided_cvae", "generation": QUICK | options}})
    with pytest.raises(InputError, match=said):
        main([str(path), "--dry-run"])


def test_the_defaults_are_options_that_can_be():
    assert GuideArguments() == GuideArguments(1.0, 50)


@pytest.mark.slow
def test_without_strength_it_writes_what_the_cvae_writes(grid_file, tmp_path):  # noqa: F811
    """With a strength it writes something else, whatever else is in its batch."""
    path = grid_file(
        {
            "ours": {"kind": "cvae", "generation": QUICK},
            "both": {"kind": "guided_cvae", "generation": QUICK | {"guide_strength": [0, 20]}},
            "one by one": {
                "kind": "guided_cvae",
                "generation": QUICK | {"guide_strength": 20, "batch_size": 1},
            },
        },
        baseline={"epochs": 1, "guide_epochs": 1},
        keep_replies=True,
    )
    assert main([str(path)]) == 0
    rows = rows_of(path)
    assert [row["model"] for row in rows] == ["ours", "both", "both", "one by one"]
    written = [
        [
            json.loads(line)["response"]
            for line in (path.parent / "experiments" / "grid" / f"generations/{row['key']}.jsonl")
            .read_text()
            .splitlines()
        ]
        for row in rows
    ]
    assert written[0] == written[1] != written[2] == written[3]
