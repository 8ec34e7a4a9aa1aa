"""Training checkpoints over the same tracked tree and layout as artifacts."""
