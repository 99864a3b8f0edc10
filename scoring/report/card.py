"""The model card of a shared run: what it does, what it was trained on, what was measured, and what it cannot do."""

import json
import math
import re
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from common.base_models import KNOWN
from common.jsonl import read_json
from scoring.metrics import METRICS
from scoring.report.page import FOLDER
from scoring.report.wording import NOTHING, chance, metric_rows, share
from scoring.results import floor_warnings

TAGS = ["dialogue", "controllable-generation", "conditional-vae", "energy-based-model", "arxiv:2310.18342"]
INDEXED = (
    "accuracy_mean",
    "accuracy_joint",
    "nli",
    "ppl",
    "bleu",
    "rougeL",
    "distinct2",
)  # what the hub's own table shows


def model_card(folder: Path, name: str, license: str | None = None) -> ModelCard:
    """The card of a folder that `generation.sharing.save_run` filled.

    Args:
        folder: with ``cvae/``, and ``results.json`` where replies were scored.
        name: the repository, or the folder's name: what the card's example loads.
        license: an identifier of the hub's; left out where None.
    """
    config, stage, results = (
        read_json(folder / path) for path in ("cvae/config.json", "cvae/stage.json", "results.json")
    )
    title = name.rpartition("/")[2]
    data = ModelCardData(
        license=license,
        library_name="miracle-dialogue",
        pipeline_tag="text-generation",
        tags=TAGS,
        model_name=title,
        eval_results=eval_results(results),
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=plain,
    )
    body = environment.get_template("card.md.jinja").render(
        **card_content(config, stage or {}, results, folder), name=name, title=title
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def card_content(config: dict, stage: dict, results: dict | None, folder: Path) -> dict:
    """What the template shows."""
    attributes, overall = dict(config["attributes"]), (results or {}).get("overall")
    evaluators = (results or {}).get("evaluators", {})
    audit = evaluators.get("nli", {}).get("audit") or {}
    settings = {
        key: json.dumps(value, ensure_ascii=False)
        for key, value in stage.get("settings", {}).items()
        if key != "schema"
    }
    data = stage.get("data", [])
    return {
        "attributes": attributes,
        "descriptions": stage.get("descriptions", {}),
        "example": ",".join(aspects[-1] for aspects in attributes.values()),
        "first": next(iter(attributes)),
        "aspect": next(iter(attributes.values()))[-1],
        "has_evaluators": (folder / "nli").is_dir(),
        "decoder": {"gpt2": "GPT-2-type", "llama": "LLaMA-type"}.get(
            kind := config.get("decoder", {}).get("model_type", "causal-LM"), kind
        ),
        "rank": config.get("lora_rank") or 0,
        "bases": base_lines(config.get("bases") or {}),
        "parameters": f"{parameters(folder / 'cvae') / 1e6:.1f}",
        "scratch": stage.get("settings", {}).get("decoder") == "scratch",
        "settings": settings,
        "data": data,
        "dialogues": sum(row["dialogues"] for row in data if row["split"] == "train"),
        "rows": [
            row
            for row in metric_rows([overall, results.get("baseline")], evaluators)
            if any(cell.value != NOTHING for cell in row.cells)
        ]
        if overall
        else [],
        "chance": [share(value) for value in guess]
        if overall and (guess := chance(results.get("by_target") or {}, attributes))
        else None,
        "evaluators": evaluators,
        "share": share,
        "audit": audit,
        "floor": bool(floor_warnings(overall.get("nli"), audit)) if overall else False,
        "warnings": (results or {}).get("warnings", []),
        "run": (results or {}).get("run", {}),
    }


def base_lines(records: dict[str, dict]) -> list[str]:
    """What adapters stand on, in words: ``encoder: name (licence), hash``."""
    lines = []
    for kind, record in records.items():
        known = {base.kind: base for base in KNOWN.get(record.get("known"), ())}.get(kind)
        name = f"{known.repository} ({known.licence})" if known else record["name"]
        source = f", from the {record['source']}" if record.get("source") else ""
        lines.append(f"{kind}: {name}{source}, hash of the weights {record['hash']}")
    return lines


def parameters(folder: Path) -> int:
    """How many numbers a folder's weights hold."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as weights:
            count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return count


def eval_results(results: dict | None) -> list[EvalResult] | None:
    """The main numbers in the hub's own form, with intervals where there are some."""
    overall = (results or {}).get("overall") or {}
    contexts = (results or {}).get("run", {}).get("config", {}).get("generation", {}).get(
        "contexts"
    ) or "test contexts"
    return [
        EvalResult(
            task_type="text-generation", dataset_type="custom", dataset_name=contexts, metric_type=key, metric_name=METRICS[key].title,
            metric_value=round(overall[key], 4), metric_args=_interval(overall.get("ci95", {}).get(key)),
        )
        for key in INDEXED if overall.get(key) is not None
    ] or None  # fmt: skip


def _interval(ends: list[float | None] | None) -> dict | None:
    """An interval in the hub's form; None where an end is unknown."""
    known = [round(end, 4) for end in ends or [] if end is not None]
    return {"ci95": known} if len(known) == 2 else None


def plain(value: object) -> str:
    """A text as Markdown shows it unchanged, in a table too: one line, its marks escaped."""
    return re.sub(r"([\\`*<|]|\](?=\())", r"\\\1", " ".join(str(value).split()))
