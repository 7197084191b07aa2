"""For every test: no time limit on a property's example, and signals as a terminal gives them."""

import signal

from hypothesis import settings

# Speed belongs in benchmarks, and machines are busy.
settings.register_profile("qhybridd", deadline=None)
settings.register_profile("short", deadline=None, max_examples=20)  # under the sanitizers
settings.load_profile("qhybridd")

# Under nohup, or in the background of a script, these are ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
