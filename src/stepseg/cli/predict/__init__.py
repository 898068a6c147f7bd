"""``stepseg-predict``."""
