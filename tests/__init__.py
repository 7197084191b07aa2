import os

if os.environ.get("QHYBRIDD_MACHINE"):
    from pyroute2 import config

    # It makes sockets in namespaces in a forked process and waits 2 s for it, which is little in an emulated machine.
    # Not elsewhere: Ctrl-C ends that process too, and then it waits for nothing.
    config.default_communicate_timeout = 60
