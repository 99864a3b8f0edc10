"""The report of a run as one HTML file: ``python -m scoring.report outs/demo``."""
