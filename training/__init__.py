"""Training: of the evaluators and of the CVAE."""
