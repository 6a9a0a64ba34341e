"""Preference losses: what of two answers is better."""
