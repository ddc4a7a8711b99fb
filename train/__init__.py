"""Multitask fine-tuning: data, sampling, surgery, the loop, and what a run leaves behind."""
