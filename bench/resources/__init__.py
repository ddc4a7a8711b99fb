"""Every kernel compiled ahead of time, with no GPU, and judged by what it takes: python -m bench.resources."""
