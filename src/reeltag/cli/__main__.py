"""Run as `python -m reeltag.cli`."""

from reeltag.cli import main

main()
