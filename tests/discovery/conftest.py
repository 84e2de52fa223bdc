"""A simulated network; see ``world``."""

import sys
from pathlib import Path

# Test modules are not part of a package; what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))
