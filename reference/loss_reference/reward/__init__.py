"""Reward-model losses: a scalar score per sequence, learned from comparisons."""
