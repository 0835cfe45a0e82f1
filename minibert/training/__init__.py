"""Fine-tuning: the loop, its tasks and data, runs that can be resumed."""
