"""``python -m stepseg.cli.train``."""

from stepseg.cli.train import main

main()
