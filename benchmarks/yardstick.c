/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The yardstick: a plain C core to measure the model's replay loop against.
 *
 * Buddy, one per-CPU page list per migrate type, slabs, kmalloc, and a table
 * from pointer to object.  It knows far fewer rules than Linux 6.1: one zone,
 * two migrate types, no watermarks, no free-list randomisation, one CPU, no
 * statistics.  It is not part of kmem; bench_replay.py compiles it.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NR_PAGES (1 << 20)
#define NR_CACHES 20
#define NO_OBJECT 0xFFFF
#define BLOCK_SHIFT 9
#define MAX_ORDER 11
#define MAX_OBJECTS 512 /* of a slab */
#define BATCH 63
#define PCP_HIGH (6 * BATCH)

enum { NONE, BUDDY, PCP, ALLOCATED, SLAB, TAIL, LARGE };

struct page {
	int next, prev, head;
	uint8_t type, order, migratetype, cache;
	uint16_t freelist, inuse;
	uint8_t frozen, spare[3];
};

struct cache {
	int size, order, objects, min_partial, cpu_slab, nr_partial;
	uint16_t cpu_freelist;
};

struct machine {
	struct page *pages;
	uint16_t *links;
	uint8_t block_type[NR_PAGES >> BLOCK_SHIFT];
	struct cache caches[NR_CACHES];
	uint8_t kmalloc_index[1025];
	int pcp_count[2];
	long nr_free;
};

/* List heads are records behind the last page. */
#define FREE_AREA(order, mt) (NR_PAGES + (order) * 2 + (mt))
#define PCP_LIST(mt) (NR_PAGES + 2 * MAX_ORDER + (mt))
#define PARTIAL(cache) (NR_PAGES + 2 * MAX_ORDER + 2 + (cache))
#define NR_HEADS 64

static inline void list_add(struct page *pages, int head, int entry)
{
	int after = pages[head].next;

	pages[entry].next = after;
	pages[entry].prev = head;
	pages[after].prev = entry;
	pages[head].next = entry;
}

static inline void list_add_tail(struct page *pages, int head, int entry)
{
	int before = pages[head].prev;

	pages[entry].prev = before;
	pages[entry].next = head;
	pages[before].next = entry;
	pages[head].prev = entry;
}

static inline void list_del(struct page *pages, int entry)
{
	int after = pages[entry].next, before = pages[entry].prev;

	pages[before].next = after;
	pages[after].prev = before;
}

static void expand(struct machine *m, int pfn, int low, int high, int mt)
{
	struct page *pages = m->pages;

	while (high > low) {
		high--;
		int half = pfn + (1 << high);
		pages[half].type = BUDDY;
		pages[half].order = high;
		list_add(pages, FREE_AREA(high, mt), half);
	}
}

static int rmqueue_smallest(struct machine *m, int order, int mt)
{
	struct page *pages = m->pages;

	for (int o = order; o < MAX_ORDER; o++) {
		int head = FREE_AREA(o, mt), pfn = pages[head].next;
		if (pfn == head)
			continue;
		list_del(pages, pfn);
		pages[pfn].type = NONE;
		expand(m, pfn, order, o, mt);
		m->nr_free -= 1 << order;
		return pfn;
	}
	return -1;
}

static int rmqueue_fallback(struct machine *m, int order, int mt)
{
	struct page *pages = m->pages;
	int other = mt ^ 1;

	for (int o = MAX_ORDER - 1; o >= order; o--) {
		int head = FREE_AREA(o, other), pfn = pages[head].next, type = other;
		if (pfn == head)
			continue;
		list_del(pages, pfn);
		pages[pfn].type = NONE;
		if (o >= BLOCK_SHIFT) {
			for (int b = pfn >> BLOCK_SHIFT; b < (pfn + (1 << o)) >> BLOCK_SHIFT; b++)
				m->block_type[b] = mt;
			type = mt;
		}
		expand(m, pfn, order, o, type);
		m->nr_free -= 1 << order;
		return pfn;
	}
	return -1;
}

static int rmqueue(struct machine *m, int order, int mt)
{
	int pfn = rmqueue_smallest(m, order, mt);

	return pfn >= 0 ? pfn : rmqueue_fallback(m, order, mt);
}

static void free_one_page(struct machine *m, int pfn, int order)
{
	struct page *pages = m->pages;
	int mt = m->block_type[pfn >> BLOCK_SHIFT];

	m->nr_free += 1 << order;
	while (order < MAX_ORDER - 1) {
		int buddy = pfn ^ (1 << order);
		if (pages[buddy].type != BUDDY || pages[buddy].order != order)
			break;
		list_del(pages, buddy);
		pages[buddy].type = NONE;
		pfn &= buddy;
		order++;
	}
	pages[pfn].type = BUDDY;
	pages[pfn].order = order;
	list_add(pages, FREE_AREA(order, mt), pfn);
}

static int alloc_pages(struct machine *m, int order, int mt)
{
	struct page *pages = m->pages;
	int pfn;

	if (order == 0) {
		int head = PCP_LIST(mt);
		if (pages[head].next == head) {
			for (int i = 0; i < BATCH; i++) {
				pfn = rmqueue(m, 0, mt);
				if (pfn < 0)
					break;
				pages[pfn].type = PCP;
				list_add_tail(pages, head, pfn);
				m->pcp_count[mt]++;
			}
			if (pages[head].next == head)
				return -1;
		}
		pfn = pages[head].next;
		list_del(pages, pfn);
		m->pcp_count[mt]--;
	} else {
		pfn = rmqueue(m, order, mt);
		if (pfn < 0)
			return -1;
		for (int i = 1; i < 1 << order; i++) {
			pages[pfn + i].head = pfn;
			pages[pfn + i].type = TAIL;
		}
	}
	pages[pfn].head = pfn;
	pages[pfn].type = ALLOCATED;
	pages[pfn].order = order;
	pages[pfn].migratetype = mt;
	return pfn;
}

static void free_pages(struct machine *m, int pfn, int order)
{
	struct page *pages = m->pages;

	if (order == 0) {
		int mt = m->block_type[pfn >> BLOCK_SHIFT], head = PCP_LIST(mt);
		pages[pfn].type = PCP;
		list_add(pages, head, pfn);
		if (++m->pcp_count[mt] > PCP_HIGH) {
			for (int i = 0; i < BATCH; i++) {
				int last = pages[head].prev;
				list_del(pages, last);
				pages[last].type = NONE;
				free_one_page(m, last, 0);
			}
			m->pcp_count[mt] -= BATCH;
		}
		return;
	}
	for (int i = 1; i < 1 << order; i++)
		pages[pfn + i].type = NONE;
	pages[pfn].type = NONE;
	free_one_page(m, pfn, order);
}

static inline uint16_t *slab_links(struct machine *m, int slab)
{
	return m->links + (long)slab * MAX_OBJECTS;
}

static int slab_alloc_slow(struct machine *m, int index)
{
	struct page *pages = m->pages;
	struct cache *c = &m->caches[index];
	int slab = c->cpu_slab, head = PARTIAL(index);

	if (slab >= 0) {
		if (pages[slab].freelist != NO_OBJECT) {
			c->cpu_freelist = pages[slab].freelist;
			pages[slab].freelist = NO_OBJECT;
			pages[slab].inuse = c->objects;
			return 0;
		}
		pages[slab].frozen = 0;
		c->cpu_slab = -1;
	}
	slab = pages[head].next;
	if (slab != head) {
		list_del(pages, slab);
		c->nr_partial--;
	} else {
		slab = alloc_pages(m, c->order, 0);
		if (slab < 0)
			return -1;
		for (int i = 0; i < 1 << c->order; i++) {
			pages[slab + i].type = TAIL;
			pages[slab + i].head = slab;
		}
		pages[slab].type = SLAB;
		pages[slab].cache = index;
		uint16_t *links = slab_links(m, slab);
		for (int i = 0; i < c->objects - 1; i++)
			links[i] = i + 1;
		links[c->objects - 1] = NO_OBJECT;
		pages[slab].freelist = 0;
	}
	pages[slab].frozen = 1;
	c->cpu_slab = slab;
	c->cpu_freelist = pages[slab].freelist;
	pages[slab].freelist = NO_OBJECT;
	pages[slab].inuse = c->objects;
	return 0;
}

static int64_t cache_alloc(struct machine *m, int index)
{
	struct cache *c = &m->caches[index];

	if (c->cpu_freelist == NO_OBJECT && slab_alloc_slow(m, index) < 0)
		return 0;
	int object = c->cpu_freelist, slab = c->cpu_slab;
	c->cpu_freelist = slab_links(m, slab)[object];
	return ((int64_t)slab << 12) + (int64_t)object * c->size;
}

static void slab_free(struct machine *m, int slab, int64_t address)
{
	struct page *pages = m->pages;
	int index = pages[slab].cache;
	struct cache *c = &m->caches[index];
	int object = (unsigned)(address - ((int64_t)slab << 12)) / (unsigned)c->size;
	uint16_t *links = slab_links(m, slab);

	if (slab == c->cpu_slab) {
		links[object] = c->cpu_freelist;
		c->cpu_freelist = object;
		return;
	}
	uint16_t prior = pages[slab].freelist;
	links[object] = prior;
	pages[slab].freelist = object;
	pages[slab].inuse--;
	if (prior == NO_OBJECT) {
		list_add_tail(pages, PARTIAL(index), slab);
		c->nr_partial++;
	}
	if (pages[slab].inuse == 0 && c->nr_partial >= c->min_partial) {
		list_del(pages, slab);
		c->nr_partial--;
		for (int i = 0; i < 1 << c->order; i++)
			pages[slab + i].type = NONE;
		free_pages(m, slab, c->order);
	}
}

static inline int get_order(long size)
{
	int order = 0;

	for (size = (size - 1) >> 12; size; size >>= 1)
		order++;
	return order;
}

static int64_t kmalloc(struct machine *m, uint32_t size)
{
	if (size <= 8192)
		return cache_alloc(m, m->kmalloc_index[(size + 7) >> 3]);
	int pfn = alloc_pages(m, get_order(size), 0);
	if (pfn < 0)
		return 0;
	m->pages[pfn].type = LARGE;
	return (int64_t)pfn << 12;
}

static void kfree(struct machine *m, int64_t address)
{
	int head = m->pages[address >> 12].head;

	if (m->pages[head].type == SLAB)
		slab_free(m, head, address);
	else if (m->pages[head].type == LARGE)
		free_pages(m, head, m->pages[head].order);
}

struct machine *machine_new(const int *sizes, const int *orders, const int *objects, const uint8_t *kmalloc_index)
{
	struct machine *m = calloc(1, sizeof(*m));

	m->pages = calloc(NR_PAGES + NR_HEADS, sizeof(struct page));
	m->links = mmap(0, (size_t)NR_PAGES * MAX_OBJECTS * 2, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	madvise(m->links, (size_t)NR_PAGES * MAX_OBJECTS * 2, MADV_HUGEPAGE);
	for (int i = 0; i < NR_HEADS; i++)
		m->pages[NR_PAGES + i].next = m->pages[NR_PAGES + i].prev = NR_PAGES + i;
	memset(m->block_type, 1, sizeof(m->block_type));
	memcpy(m->kmalloc_index, kmalloc_index, sizeof(m->kmalloc_index));
	for (int i = 0; i < NR_CACHES; i++) {
		struct cache *c = &m->caches[i];
		c->size = sizes[i];
		c->order = orders[i];
		c->objects = objects[i];
		c->min_partial = 5;
		c->cpu_slab = -1;
		c->cpu_freelist = NO_OBJECT;
	}
	for (int pfn = NR_PAGES - 1024; pfn >= 0; pfn -= 1024)
		free_one_page(m, pfn, MAX_ORDER - 1);
	return m;
}

void machine_delete(struct machine *m)
{
	munmap(m->links, (size_t)NR_PAGES * MAX_OBJECTS * 2);
	free(m->pages);
	free(m);
}

/* Operations as in mix.py; keys stay in the table once they are in.  Returns how many frees found nothing. */
long replay(struct machine *m, long count, const uint8_t *op, const uint64_t *ptr, const uint32_t *size,
	    const uint32_t *gfp, uint64_t *keys, int64_t *values, uint64_t mask, int64_t *out)
{
	long bad = 0;

	for (long i = 0; i < count; i++) {
		uint64_t key = ptr[i], slot = ((key * 0x9E3779B97F4A7C15ULL) >> 20) & mask;
		while (keys[slot] && keys[slot] != key)
			slot = (slot + 1) & mask;
		keys[slot] = key;
		if (!(op[i] & 1)) {
			int64_t address;
			if (op[i] == 0) {
				address = cache_alloc(m, size[i]);
			} else if (op[i] == 2) {
				address = kmalloc(m, size[i]);
			} else {
				int pfn = alloc_pages(m, size[i], (gfp[i] >> 3) & 1);
				address = pfn < 0 ? 0 : (int64_t)pfn << 12;
			}
			values[slot] = out[i] = address;
			continue;
		}
		int64_t address = values[slot];
		out[i] = address;
		if (address < 0) {
			bad++;
			continue;
		}
		values[slot] = -1;
		if (op[i] == 5)
			free_pages(m, address >> 12, size[i]);
		else
			kfree(m, address);
	}
	return bad;
}
