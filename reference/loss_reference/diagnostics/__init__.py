"""Looking inside a loss: its parts, its gradients, and whether a run of it is stable."""
