"""``python -m stepseg.cli.tune``."""

from stepseg.cli.tune import main

main()
