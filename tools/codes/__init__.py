"""Makes the LDPC codes of `qhybridd/distill/codes/` and measures what they reach. See docs/codes.md."""
