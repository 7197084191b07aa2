# The C library liboqs for the additional KEMs and the tests of both providers against each other (docs/kems.md).
# It is optional: without it those tests are skipped. `make test` uses it once `make liboqs` has built it.
LIBOQS := $(CURDIR)/build/liboqs

# Where the library is, for everything that make starts; without it the usual places are searched.
ifneq ($(wildcard $(LIBOQS)/lib/liboqs.so),)
export OQS_INSTALL_PATH := $(LIBOQS)
endif

.PHONY: liboqs
liboqs: .stamps/liboqs ## build the C library for the additional KEMs (HQC, FrodoKEM, Classic McEliece)

.stamps/liboqs: deploy/build-liboqs
	@bash deploy/build-liboqs --prefix $(LIBOQS)
	@mkdir -p .stamps && touch $@

# For `make test`: builds it where that is possible, and is never a reason to fail. The library is found by a make that
# is started afterwards, hence `test: liboqs-if-possible` has to start one.
.PHONY: liboqs-if-possible
liboqs-if-possible:
	@if test -e .stamps/liboqs; then exit 0; fi; \
	for tool in cargo cmake cc; do \
	  command -v $$tool >/dev/null || { echo "liboqs is not built ($$tool is missing): its tests are skipped"; exit 0; }; \
	done; \
	$(MAKE) --no-print-directory liboqs || echo "liboqs is not built: its tests are skipped"
