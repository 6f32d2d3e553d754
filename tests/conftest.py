"""Settings of the whole suite."""

from hypothesis import settings

# A deadline on one example measures the machine and not the code.
settings.register_profile("luthier", deadline=None, max_examples=60)
settings.load_profile("luthier")
