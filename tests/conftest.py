"""Settings of the whole run."""

import os

from hypothesis import settings

# Linear algebra here is small: its threads would wait for each other, and for those of the other processes of the run,
# which takes several times as long. Set before anything loads NumPy; subprocesses inherit it.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# The time of one example says nothing on a machine that does other work. The default run tries few examples; continuous
# integration runs the same tests with `--hypothesis-profile=thorough`.
settings.register_profile("secfed", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("secfed")
