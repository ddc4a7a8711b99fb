"""What Concord is measured against, each written independently of it."""
