/* stdfds.c -- see stdfds.h. Bare system calls, since a sanitizer's library is not awake so early.
 */
#include "kernel/stdfds.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((no_sanitize("address", "thread", "undefined"))) void krn_stdfds_init(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        /* The lowest free number is given, hence this one: those below it are open by now. */
        if (syscall(SYS_fcntl, fd, F_GETFD) < 0) {
            (void)syscall(SYS_openat, AT_FDCWD, "/dev/null",
                          fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

/* What the loader runs first of all in an executable. */
__attribute__((section(".preinit_array"), used)) static void (*const first)(void) = krn_stdfds_init;
