"""
`python -m twh_platform.cli`, where the script is not on PATH.
"""

import sys

from ._main import main

if __name__ == "__main__":
    sys.exit(main())
