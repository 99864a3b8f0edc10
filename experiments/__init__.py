"""Experiments: a grid of models and settings, trained once, measured cell by cell, and set side by side."""
