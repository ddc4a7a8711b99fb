"""Benchmarks, named like the rooms: pytest bench/ --benchmark-only."""
