"""What is minimised, and what is measured: losses, ranking losses, SMART, metrics."""
