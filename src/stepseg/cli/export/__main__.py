"""``python -m stepseg.cli.export``."""

from stepseg.cli.export import main

main()
