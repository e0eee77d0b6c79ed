"""Training: optimiser, schedule and one readable loop."""
