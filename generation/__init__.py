"""Generation: contexts and targets in, replies out."""
