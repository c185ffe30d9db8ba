// The only program of the image in the stock roots: no library, a few hundred bytes. `change` writes to both outputs and
// changes files in every way that shows in a writable layer; `wait` waits for ever.
#include <asm/unistd.h>

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void say(int to, const char *text) {
    long length = 0;
    while (text[length]) length++;
    call(__NR_write, to, (long)text, length);
}

static void put(const char *path, const char *text) {
    long file = call(__NR_open, (long)path, 01 | 0100 | 01000, 0644);
    if (file < 0) return;
    say((int)file, text);
    call(__NR_close, file, 0, 0);
}

__attribute__((used)) static void run(long *stack) {
    char **arguments = (char **)(stack + 1);
    if (stack[0] > 1 && arguments[1][0] == 'w') {
        for (;;) call(__NR_pause, 0, 0, 0);
    }
    say(1, "to stdout\n");
    say(2, "to stderr\n");
    call(__NR_unlink, (long)"/etc/gone", 0, 0);
    put("/etc/made", "made\n");
    call(__NR_chmod, (long)"/etc/kept", 0600, 0);
    call(__NR_unlink, (long)"/opaque/old", 0, 0);
    call(__NR_rmdir, (long)"/opaque", 0, 0);
    call(__NR_mkdir, (long)"/opaque", 0750, 0);
    put("/opaque/new", "new\n");
    put("/data/from-container", "kept in the volume\n");
    call(__NR_exit_group, 3, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall run\n");
