"""Training: schedules, state, one flat loop, and fine-tuning."""
