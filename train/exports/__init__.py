"""A run's best model in the formats of other libraries: one file a format, and the card that tells of it."""
