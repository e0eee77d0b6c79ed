"""Run as `python -m reeltag`, which launchers of several processes call."""

from reeltag.cli import main

if __name__ == "__main__":
    main()
