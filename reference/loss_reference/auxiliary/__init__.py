"""Auxiliary terms of a training objective, such as those of a router of experts."""
