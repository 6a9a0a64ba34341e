"""Distillation losses: the student predicts what the teacher predicts."""
