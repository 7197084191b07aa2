#define _GNU_SOURCE
#include "locked.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void locked_wipe(void *memory, size_t size)
{
    explicit_bzero(memory, size);
}

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER
#endif
#endif

#ifdef ADDRESS_SANITIZER
/* AddressSanitizer sees the bounds of what malloc gives, not those of a mapping: a build for it takes plain memory. */
void *locked_alloc(size_t size)
{
    void *memory = NULL;
    int failed = posix_memalign(&memory, 64, size);
    if (failed) {
        errno = failed;
        return NULL;
    }
    memset(memory, 0, size);
    return memory;
}

void locked_free(void *memory, size_t size)
{
    if (memory)
        locked_wipe(memory, size);
    free(memory);
}
#else
/* Small secrets (keys, PSKs) share pages: a page for each would cost 4 MiB for a thousand keys. A slab is one mlocked
 * mapping cut into slots of one size; free slots form a list through their own first bytes. Slabs are kept for the life
 * of the process: their number is bounded by the peak of live secrets. Larger secrets have a mapping of their own. */
#define SLOT_BYTES 64u
#define SLAB_BYTES 65536u
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *free_slots;

static void *map_locked(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* Large scratch is paged in at once by mlock: huge pages take a quarter of the time. Advice: no matter if refused. */
    if (size >= HUGE_PAGE_BYTES)
        (void)madvise(memory, size, MADV_HUGEPAGE);
    /* A forked child must not inherit secrets: it finds zeroes (MADV_WIPEONFORK). */
    if (mlock(memory, size) || madvise(memory, size, MADV_DONTDUMP) || madvise(memory, size, MADV_WIPEONFORK)) {
        int saved = errno;
        munmap(memory, size);
        errno = saved;
        return NULL;
    }
    return memory;
}

static size_t page_round(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

static int grow_slots(void)
{
    uint8_t *slab = map_locked(SLAB_BYTES);
    if (!slab)
        return -1;
    for (size_t at = 0; at < SLAB_BYTES; at += SLOT_BYTES) {
        memcpy(slab + at, &free_slots, sizeof free_slots);
        free_slots = slab + at;
    }
    return 0;
}

void *locked_alloc(size_t size)
{
    if (size > SLOT_BYTES)
        return map_locked(page_round(size));
    pthread_mutex_lock(&lock);
    void *slot = NULL;
    if (free_slots || grow_slots() == 0) {
        slot = free_slots;
        memcpy(&free_slots, slot, sizeof free_slots);
        memset(slot, 0, SLOT_BYTES);
    }
    pthread_mutex_unlock(&lock);
    return slot;
}

void locked_free(void *memory, size_t size)
{
    if (!memory)
        return;
    if (size > SLOT_BYTES) {
        explicit_bzero(memory, size);
        munmap(memory, page_round(size));
        return;
    }
    explicit_bzero(memory, SLOT_BYTES);
    pthread_mutex_lock(&lock);
    memcpy(memory, &free_slots, sizeof free_slots);
    free_slots = memory;
    pthread_mutex_unlock(&lock);
}
#endif
