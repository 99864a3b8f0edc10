"""From files to batches: reading, checking, tokenising and collating dialogues. Knows no model."""
