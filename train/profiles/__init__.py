"""Where the time of training steps goes, by class of op."""
