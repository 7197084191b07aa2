"""Floor 4: targets. A target installs keys in the kernel or in a userspace tunnel."""
