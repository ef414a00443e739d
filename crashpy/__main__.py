"""``python -m crashpy``"""

import sys

from crashpy.cli import main

sys.exit(main())
