"""The tables of the papers, made anew."""
