"""Environment, presets, the pipeline and the plumbing that the top-level scripts share."""
