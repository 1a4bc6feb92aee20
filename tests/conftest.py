"""For all tests: one computing thread, no window, and nothing written outside of temporary folders."""

import os
import signal

from hypothesis import settings

# Before torch and matplotlib are imported, here or in a process that a test starts. With one thread per process, tests
# that run side by side do not wait for each other's cores, and sums have one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["WANDB_MODE"] = "disabled"

# A runner in the background ignores Ctrl-C, and the processes that the tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test-all` asks for the second of these.
settings.register_profile("some", max_examples=40, deadline=None, derandomize=True, database=None)
settings.register_profile("all", settings.get_profile("some"), max_examples=200)
settings.load_profile("some")
