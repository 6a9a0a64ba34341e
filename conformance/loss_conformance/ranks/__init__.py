"""A loss on several ranks at once: whether it asks for others, and what it gives when they are there."""
