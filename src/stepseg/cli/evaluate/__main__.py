"""``python -m stepseg.cli.evaluate``."""

from stepseg.cli.evaluate import main

main()
