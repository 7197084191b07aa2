"""Floor 4: QKD links between gateways: the photon stream, and the threads that distil keys of it into a key store."""
