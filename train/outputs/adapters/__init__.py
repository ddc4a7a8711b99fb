"""Adapters that tell of a run in the forms of other tools, a file each, over one flat naming."""
