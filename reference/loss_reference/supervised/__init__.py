"""Supervised losses: the data says which token is right."""
