"""The eavesdropper as a host of her own, in the middle of the photon stream of a simulated link."""

from qhybridd.apps.eve.run import Options, main

__all__ = ["Options", "main"]
