"""``python -m engine`` is the same as the command ``offline-engine``."""

import sys

from engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
