"""Results as a table on the terminal."""

COLUMNS = (
    ("accuracy_mean", "mean", "{:.3f}"), ("accuracy_joint", "joint", "{:.3f}"), ("probability_mean", "prob", "{:.3f}"),
    ("nli", "nli", "{:.3f}"), ("ppl", "ppl", "{:.1f}"), ("bleu", "bleu", "{:.2f}"), ("rougeL", "rougeL", "{:.2f}"),
    ("distinct1", "dist-1", "{:.3f}"), ("distinct2", "dist-2", "{:.3f}"), ("self_bleu", "self-b", "{:.1f}"),
    ("repetition", "rep", "{:.3f}"), ("length", "len", "{:.1f}"), ("n", "n", "{:d}"),
)  # fmt: skip


def cell(value: float | None, form: str) -> str:
    """A number, or a dash for what could not be computed."""
    return "-" if value is None else form.format(value)


def row_of(name: str, m: dict, attributes: list[str], width: int) -> str:
    """One line of the table from an M of the results."""
    accuracies = [cell(m["attributes"][a]["accuracy"], "{:.3f}").rjust(max(6, len(a))) for a in attributes]
    return "  ".join([name.ljust(width), *accuracies, *(cell(m[key], form).rjust(6) for key, _, form in COLUMNS)])


def table(results: dict) -> str:
    """The table of a run: control per combination and overall, the baseline, intervals, evaluators and warnings."""
    overall = results["overall"]
    attributes = list(overall["attributes"])
    rows = [(name, m) for name, m in results["by_target"].items()] + [("overall", overall)]
    if results["baseline"]:
        rows.append(("no control", results["baseline"]))
    width = max(len(name) for name, _ in rows)
    heading = "  ".join(["accuracy ->".ljust(width), *(a.rjust(max(6, len(a))) for a in attributes), *(title.rjust(6) for _, title, _ in COLUMNS)])
    lines = [heading, "-" * len(heading), *(row_of(name, m, attributes, width) for name, m in rows)]
    intervals = overall["ci95"]
    shown = [f"{title} [{intervals[key][0]:.3f}, {intervals[key][1]:.3f}]" for key, title, _ in COLUMNS[:5] if key in intervals]
    if shown:
        lines.append("95 % intervals over contexts, overall: " + "  ".join(shown))
    judged = [f"{name} {cell(e.get('accuracy'), '{:.3f}')} (from {e.get('base')})" for name, e in results["evaluators"].items()]
    lines.append("evaluators' own dev accuracy: " + "  ".join(judged))
    lines += [f"warning: {warning}" for warning in results["warnings"]]
    return "\n".join(lines)
