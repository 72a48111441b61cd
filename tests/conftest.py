"""Settings of the whole run."""

from hypothesis import settings

# The time of one example says nothing on a machine that does other work. The default run tries few examples; continuous
# integration runs the same tests with `--hypothesis-profile=thorough`.
settings.register_profile("secfed", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("secfed")
