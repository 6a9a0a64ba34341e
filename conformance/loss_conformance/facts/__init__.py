"""What a loss promises: declared, inherited, or inferred by watching it."""
