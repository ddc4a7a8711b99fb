"""A run from its first line to its summary: fine-tuning, pre-training, and the life that both have in their folder."""
