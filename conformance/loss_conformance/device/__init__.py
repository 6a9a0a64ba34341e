"""Devices: the real one when there is one, a simulated one otherwise."""
