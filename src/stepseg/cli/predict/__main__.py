"""``python -m stepseg.cli.predict``."""

from stepseg.cli.predict import main

main()
