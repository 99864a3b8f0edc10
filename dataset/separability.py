"""How recognisable the aspects of an attribute are in its texts: bag-of-words classifiers, and words that give one away."""

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from dataset.words import letter_words

WORDS = {
    "tokenizer": letter_words,
    "token_pattern": None,
}  # of scikit-learn's vectorisers; words of one letter count
LabelledTexts = tuple[list[str], list[int]]  # texts and their aspect indices


@dataclass(frozen=True)
class GiveAway:
    """A word that stands mostly in one aspect's texts, and in many of them.

    Attributes:
        precision: share of the word's texts that are of this aspect, as if all aspects had equally many texts.
        recall: share of the aspect's texts that have the word.
    """

    word: str
    aspect: int
    precision: float
    recall: float


def bag_of_words(features: int | None = None) -> Pipeline:
    """Logistic regression on tf-idf of single words.

    Args:
        features: let it see only that many words, those with the highest chi-squared statistic; None: all.
    """
    steps = [TfidfVectorizer(sublinear_tf=True, **WORDS)]
    if features is not None:
        steps.append(SelectKBest(chi2, k=features))
    return make_pipeline(*steps, LogisticRegression(C=10.0, max_iter=2000))


def held_out_accuracy(
    train: LabelledTexts, held_out: LabelledTexts, features: int | None = None
) -> float | None:
    """Accuracy of `bag_of_words` trained on `train`, on `held_out`; None where either side lacks aspects or words.

    Accuracy is balanced: the mean over the aspects of the share that is recognised, so that 1/aspects is chance.
    """
    if len(set(train[1])) < 2 or not held_out[0]:
        return None
    try:
        model = bag_of_words(features).fit(*train)
    except ValueError:  # no words at all, or fewer than `features`
        return None
    right = model.predict(held_out[0]) == np.array(held_out[1])
    return float(
        np.mean([right[np.array(held_out[1]) == label].mean() for label in sorted(set(held_out[1]))])
    )


def cross_fitted_probabilities(
    texts: list[str], labels: list[int], folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Each text's probability of its own aspect [N], by a `bag_of_words` that was not trained on it.

    Raises:
        ValueError: where an aspect has fewer texts than folds.
    """
    order = StratifiedKFold(folds, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(bag_of_words(), texts, labels, cv=order, method="predict_proba")
    return probabilities[np.arange(len(labels)), np.searchsorted(np.unique(labels), labels)]


def held_out_probabilities(train: LabelledTexts, held_out: LabelledTexts) -> np.ndarray:
    """Each held-out text's probability of its own aspect [N], by a `bag_of_words` trained on `train`.

    Raises:
        ValueError: where `train` lacks one of the aspects, or has no words.
    """
    model = bag_of_words().fit(*train)
    columns = np.searchsorted(model.classes_, held_out[1])
    if not set(held_out[1]) <= set(model.classes_.tolist()):
        raise ValueError("the training texts lack an aspect")
    return model.predict_proba(held_out[0])[np.arange(len(held_out[1])), columns]


def give_away_words(
    texts: list[str], labels: list[int], precision: float = 0.70, recall: float = 0.20
) -> list[GiveAway]:
    """Words above both limits, the most frequent first; empty where no words or fewer than two aspects are there."""
    vectorizer = CountVectorizer(binary=True, **WORDS)
    try:
        present = vectorizer.fit_transform(texts)
    except ValueError:  # no words at all
        return []
    aspects = sorted(set(labels))
    shares = np.stack(
        [np.asarray(present[np.array(labels) == aspect].mean(axis=0))[0] for aspect in aspects]
    )  # [aspects, words]
    precisions = shares / shares.sum(axis=0)
    words = vectorizer.get_feature_names_out()
    give_aways = [
        GiveAway(str(words[word]), aspects[row], float(precisions[row, word]), float(shares[row, word]))
        for row, word in np.argwhere((precisions > precision) & (shares >= recall))
        if len(aspects) > 1
    ]
    return sorted(give_aways, key=lambda item: (-item.recall, item.word))
