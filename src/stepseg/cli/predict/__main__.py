"""``python -m stepseg.cli.predict``."""

from stepseg.cli.predict.command import main

main()
