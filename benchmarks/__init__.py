"""Measurements of Luthier, each a script; what they found is in `results`."""

import os

# An installation has its modules compiled. Where this is set, each process would compile Luthier's own anew (.3 CPU s),
# and torch's, which pip compiled, would not be.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
