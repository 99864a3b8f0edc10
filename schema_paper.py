"""The paper's released data set, as its files are named on the hub (lu-vae/Miracle-Conversation), below data/miracle/.

l = language style, a = attitude, m = mental characteristics; the tags in the files are indices in this order.
"""


def _attribute(name: str, letter: str, aspects: list[str]) -> dict:
    folder = "data/miracle"
    return {
        "name": name,
        "aspects": aspects,
        "dialogues": f"{folder}/dialogue_{letter}.raw.jsonl",
        "dev_dialogues": f"{folder}/dev_dialogue_{letter}.raw.jsonl",
        "texts": f"{folder}/text_{letter}.raw.jsonl",
        "dev_texts": f"{folder}/dev_text_{letter}.raw.jsonl",
    }


ATTRIBUTES = [
    _attribute("languagestyle", "l", ["plain", "lyrical"]),
    _attribute("attitude", "a", ["pessimistic", "optimistic"]),
    _attribute("mindchar", "m", ["emotional", "critical"]),
]

TEST = "data/miracle/test.raw.jsonl"
NLI = "data/miracle/nli.jsonl"  # one file: a tenth of its contexts is held out for dev
DEV_NLI = None
SOURCE = "bash scripts/download_data.sh fetches the files of the data set lu-vae/Miracle-Conversation from the Hugging Face hub"
