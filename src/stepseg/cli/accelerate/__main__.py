"""``python -m stepseg.cli.accelerate``."""

from stepseg.cli.accelerate import main

main()
