/* Locked memory: mlocked, out of core dumps, wiped when freed. */
#ifndef QHYBRIDD_LOCKED_H
#define QHYBRIDD_LOCKED_H

#include <stddef.h>

/* Zeroed memory of `size` bytes, or NULL with errno set (ENOMEM: RLIMIT_MEMLOCK is the usual reason). */
void *locked_alloc(size_t size);

/* Wipe and give back. `size` is the size that was asked for. */
void locked_free(void *memory, size_t size);

/* Zero `size` bytes in a way that the compiler may not leave out. */
void locked_wipe(void *memory, size_t size);

#endif
