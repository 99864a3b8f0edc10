"""What the files in a run's folder hold, as far as they are read again: the shapes that `common.jsonl.read_json` asks for."""

from pathlib import Path

from common.shapes import Checked, Fields, Items, Maybe, Number, Shape, Values, misfit

SHARE = Number(0, 1)
INTERVALS = Values(Items(Number(), 2))


def _square(matrix: dict) -> str | None:
    """What a confusion matrix should have been, where it has not as many rows and columns as labels."""
    size = len(matrix["labels"])
    counts = matrix["counts"]
    return (
        None
        if len(counts) == size and all(len(row) == size for row in counts)
        else f"{size} rows of {size} counts"
    )


def _as_long_as_time(latents: dict) -> str | None:
    """What the bands of a trajectory should have been, where they differ in length from its times."""
    length = len(latents["time"])
    bands = [latents["energy"], *latents["probability"].values()]
    return (
        None
        if all(len(line) == length for band in bands for line in band.values())
        else f"{length} values in every line"
    )


CONFUSION = Checked(
    Fields({"labels": Items(str), "counts": Items(Items(Number(0)))}, ("labels", "counts")), _square
)
BIN = Fields({name: Number() for name in ("confidence", "accuracy", "n")})
CALIBRATION = Fields({"ece": Number(), "bins": Items(BIN)})
SETTINGS = Values(object)
EVALUATOR = Fields(
    {
        "accuracy": SHARE,
        "base": str,
        "hash": str,
        "trained_hash": str,
        "n_dev": Number(0),
        "confusion": Maybe(CONFUSION),
        "calibration": Maybe(CALIBRATION),
        "audit": Maybe(Fields({}, ("real", "random"), SHARE)),
        "doubt": str,
    }
)
OF_ATTRIBUTE = Fields({"accuracy": SHARE, "probability": SHARE, "confusion": Maybe(CONFUSION)})
MEASURED = Fields({"attributes": Values(OF_ATTRIBUTE), "ci95": INTERVALS}, others=Number())
ASPECTS = Values(Items(str))
RUN = Fields(
    {
        "command": str,
        "date": str,
        "device": str,
        "cvae": str,
        "data": Maybe(Fields({"training": str, "contexts": str})),
        "git": str,
        "config": Fields(
            {"generation": Fields({"attributes": ASPECTS, "contexts": str}), "cvae": Maybe(SETTINGS)}
        ),
        "requests": Fields({"replies": Number(0), "contexts": Number(0), "targets": Items(str)}),
        "versions": SETTINGS,
        "seconds": Values(Number(0)),
    }
)
RESULTS = Fields(
    {
        "overall": MEASURED,
        "by_target": Values(MEASURED),
        "baseline": Maybe(MEASURED),
        "references": Maybe(MEASURED),
        "evaluators": Values(EVALUATOR),
        "warnings": Items(str),
        "run": RUN,
    },
    ("overall",),
)
INPUTS = Maybe(
    Fields({"code": Number(0), "options": SETTINGS, "contents": Values(Maybe(str))})
)  # what a stage depends on, `training.inputs`; version 0.1 has a fingerprint in its place
STAGE = Fields(
    {
        "inputs": INPUTS,
        "fingerprint": str,
        "seconds": Number(0),
        "metrics": Fields(
            {
                **EVALUATOR.known,
                "kl_unclamped": Number(),
                "history": Items(Fields({"step": Number(0)})),
            }
        ),
        "settings": SETTINGS,
        "base": str,
        "data": Items(
            Fields(
                {"attribute": str, "split": str, "file": str, "dialogues": Number(0)},
                ("attribute", "split", "dialogues"),
            )
        ),
        "descriptions": Values(Values(str)),
    }
)


def _attributes(found: object) -> str | None:
    """What a CVAE's attributes should have been: pairs, or as `dict` takes them too, by name."""
    pairs = list(found.items()) if isinstance(found, dict) else found
    right = isinstance(pairs, list) and bool(pairs) and all(map(_is_attribute, pairs))
    return None if right else "attributes with their aspects, [[name, [aspect, ...]], ...]"


def _is_attribute(pair: object) -> bool:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[1], list):
        return False
    return bool(pair[1]) and all(isinstance(name, str) for name in (pair[0], *pair[1]))


def _standing_on(config: dict) -> str | None:
    """What a CVAE's configuration should have been, where it has adapters and does not name their bases."""
    named = {"encoder", "decoder"} <= (config.get("bases") or {}).keys()
    return None if named or not config.get("lora_rank") else "'bases' with 'encoder' and 'decoder'"


# of `dataset.encoding.DialogueTemplate`
MARKS = ("user_prefix", "assistant_prefix", "turn_start", "turn_end", "start", "reply_end")


def _unknown_mark(template: dict) -> str | None:
    """What a template's marks should have been, where one is none of those that there are."""
    return None if template.keys() <= {*MARKS} else f"of the marks {', '.join(MARKS)}"


BASE = Fields(dict.fromkeys(("name", "hash", "known", "source"), str), ("name", "hash"))
CVAE_CONFIG = Checked(
    Fields(
        {
            "attributes": Checked(object, _attributes),
            "decoder": Fields({"model_type": str}),
            "bases": Maybe(Values(BASE)),
            "template": Maybe(Checked(Values(Maybe(str)), _unknown_mark)),
            **dict.fromkeys(("latent_size", "encoder_length", "decoder_length"), Number(1, 1e9)),
            **dict.fromkeys(
                ("n_prefix", "lora_rank", "lora_alpha", "head_width", "head_layers"), Number(0, 1e9)
            ),
        },
        ("attributes",),
    ),
    _standing_on,
)
STAMP = {"cvae": str, "evaluators": str}  # hashes of what wrote and of what scored, `scoring.stale`
SWEEP = Fields(
    {
        **STAMP,
        "points": Items(
            Fields({"weight": Number(), "overall": MEASURED, "warnings": Items(str)}, ("weight", "overall"))
        ),
    }
)
LINE, PAIR = Items(Number()), Items(Number(), 2)
BAND = Fields(dict.fromkeys(("mean", "low", "high"), LINE), ("mean", "low", "high"))
TRAJECTORY: dict[str, Shape] = {
    "attributes": ASPECTS,
    "axes": Fields({"explained": LINE}, ("explained",)),
    "prior": Items(PAIR),
    "points": Items(Fields({"target": Values(str), "start": PAIR, "end": PAIR}, ("target", "start", "end"))),
    "time": LINE,
    "energy": BAND,
    "probability": Values(BAND),
}
LATENTS = Checked(Fields({"cvae": str, **TRAJECTORY}, tuple(TRAJECTORY)), _as_long_as_time)
SHEET_ITEM = Fields(
    {"A": str, "B": str, "context": Items(str), "target": Values(str)}, ("A", "B", "context", "target")
)
SHAPES: dict[str, Shape] = {
    "stage.json": STAGE,
    "started.json": Fields({"inputs": INPUTS, "fingerprint": str}),
    "results.json": RESULTS,
    "experiment.json": Fields({"evaluators": Values(EVALUATOR), "warnings": Items(str), "command": str}),
    "trainer_state.json": Fields({"global_step": Number(0), "log_history": Items(Fields({}))}),
    "made.json": Values(str),
    "key.json": Fields({"systems": Items(str), "items": Values(SHEET_ITEM)}),
    "base.json": Fields({"name": str, "source": str}),
}


def shape_of(path: Path) -> Shape | None:
    """The shape of a file by its name; None for one that is not a run's."""
    if path.name.endswith(".latents.json"):
        return LATENTS
    if path.name.endswith(".sweep.json"):
        return SWEEP
    if path.name.endswith(".results.json") or path.parent.name == "results":
        return RESULTS
    return SHAPES.get(path.name)


def mistake_in(path: Path, content: dict) -> str | None:
    """What in a file's content is not as it was written; None for nothing."""
    if path.name == "config.json" and (path.parent.name == "cvae" or content.get("model_type") == "miracle"):
        return misfit(content, CVAE_CONFIG)
    shape = shape_of(path)
    return None if shape is None else misfit(content, shape)
