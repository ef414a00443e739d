/* Pages of every kind that a dump level tells apart, in a guest that is about to crash.
 *
 *     cc -O2 -static -o workload workload.c;   workload [MIB]
 *
 * Prints a line for each kind, "WORKLOAD READY", and sleeps. What a kernel cannot do (no
 * hwpoison, no hugetlb) is said and left out. MIB more of page cache and of anonymous
 * memory hold text, pointers and noise, so that they pack as memory in use does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define PAGE 4096UL
#define MIB (1UL << 20)
#define HUGE (2 * MIB)
#define PIPE (16 * PAGE) /* what one holds */

static void tell(const char *form, ...)
{
	va_list arguments;

	va_start(arguments, form);
	vprintf(form, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

static uint64_t seed = 88172645463325252ULL;

static uint64_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* A page as memory in use looks: of eight pages three of text, three of pointers and
 * small numbers, one nearly empty, one of noise. */
static void new_page(char *page)
{
	static const char *words[] = {"the ", "kernel ", "page ", "error: ", "/usr/lib/", "0x",
				      "struct ", "at ", "line ", "user=", "\n", "root "};
	uint64_t *word = (uint64_t *)page;

	switch (chance() % 8) {
	case 0: case 1: case 2:
		for (size_t at = 0; at < PAGE - 32;)
			at += chance() % 3 ? sprintf(page + at, "%s", words[chance() % 12])
					   : sprintf(page + at, "%lx ", chance() & 0xffffff);
		break;
	case 3: case 4: case 5:
		for (size_t i = 0; i < PAGE / 8; i++)
			word[i] = chance() % 2 ? 0 : chance() % 2 ? chance() % 4096
				: 0xffff888000000000UL + (chance() % (1UL << 24)) * 64;
		break;
	case 6:
		for (int i = 0; i < 12; i++)
			word[chance() % (PAGE / 8)] = chance();
		break;
	default:
		for (size_t i = 0; i < PAGE / 8; i++)
			word[i] = chance();
	}
}

/* One of many such pages, with something of its own: quick, in a machine that is slow. */
static void page_in_use(char *page)
{
	static char made[1024][PAGE];
	static int count;
	uint64_t *word = (uint64_t *)page;

	for (; count < 1024; count++)
		new_page(made[count]);
	memcpy(page, made[chance() % 1024], PAGE);
	word[chance() % (PAGE / 8)] = chance();
}

static char *anonymous(size_t size, int flags)
{
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static char *aligned(size_t size)
{
	char *at = anonymous(size + HUGE, 0);

	return (char *)(((uintptr_t)at + HUGE - 1) & ~(HUGE - 1));
}

static void fill(char *at, size_t size)
{
	for (size_t i = 0; i < size; i += PAGE)
		page_in_use(at + i);
}

static void write_file(const char *path, size_t size)
{
	char page[PAGE];
	int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);

	for (size_t i = 0; i < size; i += PAGE) {
		page_in_use(page);
		if (write(fd, page, PAGE) != PAGE)
			break;
	}
	close(fd);
}

static char *mapped(const char *path, size_t size)
{
	int fd = open(path, O_RDWR);
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	return at == MAP_FAILED ? NULL : at;
}

static void set(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		tell("%s: %s", path, strerror(errno));
	close(fd);
}

/* In a child: the kernel may kill who has a poisoned page. */
static void poison(const char *what, char *at, int how)
{
	pid_t child = fork();

	if (!child) {
		if (madvise(at, PAGE, how))
			tell("poison %s: %s", what, strerror(errno));
		else
			tell("poison %s", what);
		pause();
		_exit(0);
	}
	usleep(300000);
}

static void caches(size_t more)
{
	mkdir("/files", 0700);
	/* A disk file read again has no private data; one just written has its buffers. */
	write_file("/mnt/read", 12 * MIB);
	sync();
	set("/proc/sys/vm/drop_caches", "1");
	char *page = mapped("/mnt/read", 12 * MIB);
	for (size_t i = 0; page && i < 12 * MIB; i += PAGE)
		(void)*(volatile char *)(page + i);
	write_file("/mnt/written", 12 * MIB);
	mount("files", "/files", "tmpfs", 0, "size=90%,huge=always");
	write_file("/files/memory", 16 * MIB + more);
	tell("page cache");
}

static void swapped(void)
{
	char *at = anonymous(24 * MIB, 0);

	madvise(at, 24 * MIB, MADV_NOHUGEPAGE);
	fill(at, 24 * MIB);
	if (madvise(at, 24 * MIB, MADV_PAGEOUT))
		tell("pageout: %s", strerror(errno));
	for (size_t i = 0; i < 24 * MIB; i += 32 * PAGE) /* readahead fills the swap cache */
		(void)*(volatile char *)(at + i);
	tell("swap cache");
}

static void hugetlb(void)
{
	set("/proc/sys/vm/nr_hugepages", "12");
	char *at = anonymous(8 * HUGE, MAP_HUGETLB);
	if (!at) {
		tell("hugetlb: %s", strerror(errno));
		return;
	}
	fill(at, 8 * HUGE); /* four stay in the pool */
	tell("hugetlb");
	poison("in a hugetlb page", at + 2 * HUGE + 5 * PAGE, MADV_HWPOISON);
}

/* What every level keeps: inodes and directory entries, buffers of pipes. */
static void kernel_memory(size_t size)
{
	char name[64], page[PAGE];

	for (size_t i = 0; i < size / 2048; i++) {
		if (i % 4096 == 0) {
			sprintf(name, "/files/%zu", i / 4096);
			mkdir(name, 0700);
		}
		sprintf(name, "/files/%zu/file-%zx", i / 4096, i);
		close(open(name, O_CREAT | O_WRONLY, 0600));
	}
	for (size_t done = 0; done < size / 2; done += 400 * PIPE) {
		pid_t child = fork();

		if (child) { /* stops when its pipes are full */
			waitpid(child, NULL, WUNTRACED);
			continue;
		}
		for (int i = 0; i < 400; i++) {
			int ends[2];

			if (pipe(ends))
				break;
			for (size_t at = 0; at < PIPE; at += PAGE) {
				page_in_use(page);
				if (write(ends[1], page, PAGE) != PAGE)
					break;
			}
		}
		raise(SIGSTOP);
		_exit(0);
	}
	tell("kernel memory");
}

static void poisoned(char *huge)
{
	char *at = anonymous(64 * PAGE, 0);

	madvise(at, 64 * PAGE, MADV_NOHUGEPAGE);
	fill(at, 64 * PAGE);
	poison("an anonymous page", at, MADV_HWPOISON);
	poison("another one", at + 8 * PAGE, MADV_HWPOISON);
	poison("softly", at + 16 * PAGE, 101 /* MADV_SOFT_OFFLINE */);
	poison("in a transparent huge page", huge + 7 * PAGE, MADV_HWPOISON);
	char *file = mapped("/mnt/read", 12 * MIB);
	if (file)
		poison("a page of a file", file + 100 * PAGE, MADV_HWPOISON);
	file = mapped("/files/memory", 16 * MIB);
	if (file)
		poison("a page of a file in memory", file + 100 * PAGE, MADV_HWPOISON);
}

int main(int argc, char **argv)
{
	size_t more = argc > 1 ? strtoul(argv[1], NULL, 0) * MIB : 0;

	caches(more);
	char *small = anonymous(16 * MIB + more, 0);
	madvise(small, 16 * MIB + more, MADV_NOHUGEPAGE);
	fill(small, 16 * MIB + more);
	tell("anonymous");
	char *huge = aligned(24 * MIB);
	madvise(huge, 24 * MIB, MADV_HUGEPAGE);
	fill(huge, 24 * MIB);
	tell("transparent huge pages");
	kernel_memory(more / 4);
	swapped();
	hugetlb();
	poisoned(huge);
	tell("WORKLOAD READY");
	pause();
	return 0;
}
