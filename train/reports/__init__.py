"""What is told of runs from what they left in their folders: lists, comparisons and pages."""
