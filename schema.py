"""The attributes, their aspects and the files that show them: the one file to edit.

An *attribute* is a dimension of personality, an *aspect* a value on it. Any number of attributes, each with two or
more aspects. Aspect names are unique over the whole schema, because a target such as ``lyrical,optimistic`` and a
dialogue's tag name aspects alone. File names are relative to the folder of this file; `dataset/README.md` gives the
formats. To keep several schemas, copy this file and name the copy: ``SCHEMA=my_schema.py bash pipeline.sh``. A copy
needs the capitalised names only, and an optional one may be left out.
"""

ATTRIBUTES = [
    {
        "name": "languagestyle",
        "aspects": ["plain", "lyrical"],
        "dialogues": "dataset/corpus/dialogue_languagestyle.jsonl",  # trains the generator, and the classifier too
        "dev_dialogues": "dataset/corpus/dev_dialogue_languagestyle.jsonl",
        "test_dialogues": "dataset/corpus/test_dialogue_languagestyle.jsonl",  # optional: held out, nothing trains on it
        # "texts": "...", "dev_texts": "...",   # labelled texts for the classifier, where not the dialogues' replies
        "descriptions": {  # optional; for make_data_chatgpt.py and prompted models: what such a reply is like
            "plain": "Says the thing itself: short concrete sentences, practical detail, no figure of speech.",
            "lyrical": "Lets the thing be seen and heard: one clear image, a rhythm, the senses before opinions; never archaic, seldom a simile.",
        },
    },
    {
        "name": "attitude",
        "aspects": ["pessimistic", "optimistic"],
        "dialogues": "dataset/corpus/dialogue_attitude.jsonl",
        "dev_dialogues": "dataset/corpus/dev_dialogue_attitude.jsonl",
        "test_dialogues": "dataset/corpus/test_dialogue_attitude.jsonl",
        "descriptions": {
            "pessimistic": "Expects it to go wrong: remembers last time, sees the cost; tired or wary, never rude to the user.",
            "optimistic": "Expects it to come right: sees the way and the next step; neither naive nor shouting.",
        },
    },
    {
        "name": "mindchar",
        "aspects": ["emotional", "critical"],
        "dialogues": "dataset/corpus/dialogue_mindchar.jsonl",
        "dev_dialogues": "dataset/corpus/dev_dialogue_mindchar.jsonl",
        "test_dialogues": "dataset/corpus/test_dialogue_mindchar.jsonl",
        "descriptions": {
            "emotional": "Feels with the user and says how it lands: in the body, in memory, with warmth or ache.",
            "critical": "Weighs: asks for evidence, tells two things apart, names a trade-off, a cause or a test; calm, neither for nor against by habit.",
        },
    },
]

TEST = "dataset/corpus/test.jsonl"  # dialogues or bare contexts for which replies are generated and scored
NLI = None  # coherence pairs; None: they are made from the dialogues
DEV_NLI = None
# How this is read: common/schema.py.
