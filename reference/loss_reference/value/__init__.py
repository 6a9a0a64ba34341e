"""Value losses: the critic predicts the return."""
