"""Measurements behind the figures of the README. Each file is a script; ``python -m benchmarks.all`` runs them in turn."""
