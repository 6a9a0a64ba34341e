"""Losses made of other losses: weighted sums, compositions from a config, and weights that follow the loss values."""
