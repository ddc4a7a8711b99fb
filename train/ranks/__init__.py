"""One run in many processes: parts of batches, pieces of states, and what is agreed on, over torch.distributed."""
