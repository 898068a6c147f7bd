"""``python -m stepseg.cli.benchmark``."""

from stepseg.cli.benchmark import main

main()
