"""The checks as pytest items. Nothing here imports torch before a target is collected."""
