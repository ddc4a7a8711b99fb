"""The ops in C++ for CPUs: one source, built where it is first used."""
