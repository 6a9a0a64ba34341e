"""Contrastive losses: embeddings of positive pairs end up closer than those of negative pairs."""
