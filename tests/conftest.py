"""What holds for every test."""

from hypothesis import settings

# How long an example takes is a matter of what else the machine does; the time limit of the whole test stays.
settings.register_profile("tether", deadline=None, print_blob=True)
settings.load_profile("tether")
