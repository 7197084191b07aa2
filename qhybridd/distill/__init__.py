"""Distillation: from sifted clicks to secret keys, decoy-state BB84 with a finite-key bound (docs/distillation.md).

    Clicks, Emissions → sift → Sifted → reconcile → verify → judge → amplify → SecretKey

Alice prepared the pulses, Bob detected them. The key basis is X, the test basis Z. Reconciliation is direct: Bob
corrects his key to Alice's. Every stage is a function over packed bits; `session` drives both ends through a block by
messages that `authenticate` tags.
"""
