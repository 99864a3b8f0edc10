"""Training dialogues from a language model behind an OpenAI-compatible service, journalled answer by answer."""
