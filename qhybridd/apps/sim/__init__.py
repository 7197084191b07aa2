"""`qhybridd sim`: a simulated link on its own, in one process, without a daemon, a socket or root."""
