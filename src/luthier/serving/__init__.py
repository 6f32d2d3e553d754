"""Model: predict, evaluate, explain, summary."""
