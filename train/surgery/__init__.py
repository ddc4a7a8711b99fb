"""Gradient surgery for any training loop: the wrapper of an optimizer, and what it is made of."""
