"""Settings for every test run, the notebooks' kernels included."""

import os

# One thread and fixed hashes, so that outputs are the same on every machine. Kernels inherit them.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"})
