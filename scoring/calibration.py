"""How far a classifier's probabilities can be taken at their word, and what it confuses with what."""

import numpy as np

BINS = 10


def dev_report(probabilities: np.ndarray, labels: list[int], names: list[str]) -> dict:
    """What the results say about an evaluator's own errors.

    Args:
        probabilities: [N, aspects] on dev texts.
        labels: the true aspect indices.

    Returns:
        ``{"confusion": {"labels": names, "counts": true x predicted}, "calibration": {"ece", "bins"}}``.
    """
    # here, because it takes a second to import, which generation and the chat need not wait
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=list(range(len(names))))
    return {
        "confusion": {"labels": names, "counts": counts.tolist()},
        "calibration": calibration(probabilities, labels),
    }


def calibration(probabilities: np.ndarray, labels: list[int]) -> dict:
    """Expected calibration error over ten equal bins of the arg-max probability (Guo et al., ICML 2017).

    Returns:
        ``{"ece": mean over texts of |confidence - accuracy| of their bin, "bins": [{"confidence", "accuracy", "n"}]}``;
        empty bins are left out, and the error is None without texts.
    """
    confidence = probabilities.max(axis=1) if len(labels) else np.zeros(0)
    right = (probabilities.argmax(axis=1) == np.array(labels)) if len(labels) else np.zeros(0)
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {
            "confidence": float(confidence[number == b].mean()),
            "accuracy": float(right[number == b].mean()),
            "n": int((number == b).sum()),
        }
        for b in range(BINS)
        if (number == b).any()
    ]
    error = (
        sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(labels)
        if len(labels)
        else None
    )
    return {"ece": error, "bins": bins}
