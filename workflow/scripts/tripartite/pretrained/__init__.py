"""Pretrained transformers, from their wheels to queries, keys and values of every head."""
