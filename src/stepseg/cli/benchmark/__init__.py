"""``stepseg-benchmark``."""
