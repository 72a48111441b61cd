"""Settings of the whole run."""

from hypothesis import settings

# The time of one example says nothing on a machine that does other work.
settings.register_profile("secfed", deadline=None)
settings.load_profile("secfed")
