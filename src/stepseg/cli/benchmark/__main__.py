"""``python -m stepseg.cli.benchmark``."""

from stepseg.cli.benchmark.command import main

main()
