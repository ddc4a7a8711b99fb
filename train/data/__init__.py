"""From files to batches: tasks, sources, tokenised sets, samplers."""
