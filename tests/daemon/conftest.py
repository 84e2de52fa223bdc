"""What tests of a host's composition share with those of the drivers lies beside these."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "drivers"))
