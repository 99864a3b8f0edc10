"""dataset/words.py, and what counts words: languages other than English are neither dropped nor scored by accident."""

import json
import random

import pytest

from common.schema import Attribute, Schema
from dataset import nli
from dataset.duplicates import exact_copies, similar_pairs
from dataset.synthesis.answers import Malformed, read_answer
from dataset.synthesis.tasks import Persona
from dataset.words import letter_words, pieces, within_words, words
from scoring.columns import Gatherer
from scoring.results import language_warnings, results, tokenisation
from scoring.text_metrics import (
    RougeTokenizer,
    bleu_statistics,
    bleu_tokenizer,
    corpus_bleu,
    distinct,
    has_repetition,
    rouge,
    self_bleu,
    sentence_bleu,
)

SENTENCES = {
    "Russian": "Завтра дождь кончится, и сад снова будет полон света.",
    "Greek": "Αύριο η βροχή θα σταματήσει και ο κήπος θα γεμίσει φως.",
    "Arabic": "غدا يتوقف المطر ويمتلئ البستان بالضوء من جديد.",
    "Hindi": "कल बारिश रुक जाएगी और बगीचा फिर रोशनी से भर जाएगा।",
    "Korean": "내일은 비가 그치고 정원이 다시 빛으로 가득할 거예요.",
    "Chinese": "明天雨会停，花园里又会洒满阳光，我们再去走走吧。",
    "Japanese": "明日は雨がやんで、庭はまた光でいっぱいになるでしょう。",
    "Thai": "พรุ่งนี้ฝนจะหยุดและสวนจะเต็มไปด้วยแสงอีกครั้ง",
    "French": "Demain la pluie cessera, et l'été reviendra déjà à l'étang.",
}
UNSPACED = ("Chinese", "Japanese", "Thai")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, now.", ["Don't", "stop,", "now."]),
        ("Привет, мир!", ["Привет,", "мир!"]),
        ("我今天喝tea。 好", ["我", "今", "天", "喝", "tea", "好"]),
        ("カタカナと漢字", ["カタカナ", "と", "漢", "字"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया।"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("。！", ["。！"]),
        ("", []),
    ],
)
def test_words_by_script(text, expected):
    assert words(text) == expected


def test_letters_keep_their_marks_and_english_is_as_before():
    assert letter_words("की का") == ["की", "का"] and letter_words("don't stop-it 3.14 a_b") == [
        "don't",
        "stop",
        "it",
        "3",
        "14",
        "a_b",
    ]
    assert letter_words("我喝tea。") == ["我", "喝", "tea"]


def test_limits_in_words():
    assert (
        within_words("one two three", 3, 3)
        and not within_words("one two", 3, 80)
        and not within_words("w " * 81, 3, 80)
    )
    assert (
        within_words("雨停了", 3, 80)
        and within_words("雨" * 160, 3, 80)
        and not within_words("雨" * 161, 3, 80)
        and not within_words("雨停", 3, 80)
    )


@pytest.mark.parametrize("language", SENTENCES)
def test_a_reply_that_is_its_reference_scores_100(language):
    """ROUGE-L was 0.00 in Russian, Greek, Arabic and Hindi, BLEU 0 and the length 1 in Chinese and Japanese."""
    text = SENTENCES[language]
    assert [values[0] for values in rouge([text], [text]).values()] == pytest.approx([100, 100, 100])
    statistics = bleu_statistics(text, text)
    assert corpus_bleu(statistics) == pytest.approx(100) and sentence_bleu(statistics, 4) == pytest.approx(
        100
    )
    assert (
        len(words(text)) > 7
        and distinct([text], 1) > 0.6
        and not has_repetition(text)
        and has_repetition(text + " " + text)
    )
    assert self_bleu([text, text]) == pytest.approx(100)


@pytest.mark.parametrize("language", SENTENCES)
def test_half_a_reply_scores_between_nothing_and_everything(language):
    text = SENTENCES[language]
    found, between = pieces(text)
    half, other = (
        between.join(found[: len(found) // 2]),
        SENTENCES["Russian" if language == "Greek" else "Greek"],
    )
    (partly, none) = (rouge([reply], [text])["rougeL"][0] for reply in (half, other))
    assert 30 < partly < 90 and none < 15


def test_rouge_of_ascii_is_rouge_score_s_own():
    from rouge_score.tokenizers import DefaultTokenizer

    for text in ("Don't stop, running dogs were RUNNING 3.14 times_a day!", "", "...", "a b c's"):
        assert RougeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)
    assert RougeTokenizer().tokenize("Café RUNNING") == ["café", "run"]
    assert RougeTokenizer().tokenize("cafe\u0301") == RougeTokenizer().tokenize("café")


def test_bleu_s_tokenizer_by_script(monkeypatch):
    from scoring import text_metrics

    monkeypatch.setattr(text_metrics, "_mecab", lambda: True)
    found = {language: bleu_tokenizer(text) for language, text in SENTENCES.items()}
    assert {found.pop(name) for name in ("Chinese", "Japanese", "Thai")} == {
        "zh",
        "ja-mecab",
        "char",
    } and set(found.values()) == {"13a"}
    monkeypatch.setattr(text_metrics, "_mecab", lambda: False)
    assert bleu_tokenizer(SENTENCES["Japanese"]) == "char"


SCHEMA = Schema((Attribute("tone", ("calm", "wild")),))


def columns_of(*pairs):
    gatherer = Gatherer(SCHEMA)
    empty = {"predicted": None, "probabilities": None, "nli": None, "nats": None, "tokens": None}
    gatherer.add(
        [
            {
                "context": [str(i)],
                "target": {"tone": "calm"},
                "response": reply,
                "reference": reference,
                **empty,
            }
            for i, (reply, reference) in enumerate(pairs)
        ]
    )
    return gatherer.finish()


def test_the_results_say_what_a_word_is_and_warn():
    english = columns_of(("It is fine.", "It is fine now."), ("It is.", None))
    assert (
        tokenisation(english)["bleu"] == {"13a": 1}
        and tokenisation(english)["unspaced"] == 0
        and language_warnings(english) == []
    )
    chinese, russian = (SENTENCES[name] for name in ("Chinese", "Russian"))
    mixed = columns_of((chinese, chinese), (russian, russian), ("...", "!"), ("ไป", "ไป"))
    record = results(mixed, baseline=None, evaluators={}, warnings=[], run={})
    assert (
        record["tokenisation"]["bleu"] == {"13a": 2, "zh": 1, "char": 1}
        and "Unicode word breaks" in record["tokenisation"]["words"]
    )
    said = " | ".join(record["warnings"])
    assert (
        "words: 2 of 4 replies are in a script without spaces" in said
        and "BLEU adds up counts of several tokenisations" in said
    )
    assert "1 replies are compared by characters" in said and "ROUGE: 1 references have no letter" in said
    assert mixed.column("length").tolist() == [21, 9, 1, 2] and record["overall"]["rougeL"] == pytest.approx(
        75
    )


@pytest.mark.parametrize("language", SENTENCES)
def test_the_collector_takes_answers_in_any_language(language):
    """Every Chinese answer was paid for twice and then rejected, as having one word."""
    persona, text = Persona({"tone": "calm"}, {"calm": "..."}), SENTENCES[language]
    answer = json.dumps({"dialogue": [{"user": text, "reply": text}]}, ensure_ascii=False)
    assert read_answer(answer, persona, 1).replies == [text]
    with pytest.raises(Malformed, match="a reply has"):
        read_answer(json.dumps({"dialogue": [{"user": text, "reply": text * 20}]}), persona, 1)


@pytest.mark.parametrize("language", SENTENCES)
def test_the_cleaner_keeps_rows_in_any_language(language, tmp_path, write_rows):
    from scripts import clean_data

    found, between = pieces(SENTENCES[language])
    rows = [
        {"input": [between.join(found[i:])], "output": [between.join(found[i:] + found[:i])], "tag": aspect}
        for aspect, i in (("calm", 0), ("wild", 3))
    ]
    write_rows(*rows, {"input": ["a"], "output": [found[0]], "tag": "calm"}, name="d.jsonl")
    schema = tmp_path / "s.py"
    schema.write_text("ATTRIBUTES = [dict(name='tone', aspects=['calm', 'wild'], dialogues='d.jsonl')]\n")
    assert (
        clean_data.main(
            ["--schema", str(schema), "--output-dir", str(tmp_path / "clean"), "--similarity", "0.95"]
        )
        == 0
    )
    log = [json.loads(line) for line in (tmp_path / "clean" / "log.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in log] == ["length"]  # the one of one word


def test_duplicates_and_vowel_signs_are_told_apart():
    chinese = SENTENCES["Chinese"]
    assert [
        pair[:2] for pair in similar_pairs([chinese, chinese.replace("走走", "看看"), SENTENCES["Japanese"]])
    ] == [(0, 1)]
    assert exact_copies(["की", "का", "की।"]) == {2: 0}


@pytest.mark.parametrize("language", SENTENCES)
def test_corruptions_are_corrupt_in_any_language(language):
    text, rng = SENTENCES[language], random.Random(0)
    for corruption in (nli.repeated, nli.shuffled, nli.cut):
        made = corruption(text, rng)
        assert (
            made != text
            and set(words(made)) <= set(words(text)) | {words(text)[-1].rstrip(".。।")}
            and (" " not in made or language not in UNSPACED)
        )
