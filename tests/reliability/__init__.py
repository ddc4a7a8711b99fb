"""Faults that are made on purpose: kills, I/O errors, power cuts and damaged files, and what runs make of them.

A part runs with the other tests; `python -m tests.reliability` is the long form.
"""
