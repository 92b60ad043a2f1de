/* file.c -- see file.h. */
#include "file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "streamit/status.h"

enum { SHOWN_MAX = 140 };

void mdl_put32(uint8_t *out, uint32_t value)
{
    for (int i = 3; i >= 0; i--) {
        out[i] = (uint8_t)(value & 0xffu);
        value >>= 8;
    }
}

void mdl_put64(uint8_t *out, uint64_t value)
{
    mdl_put32(out, (uint32_t)(value >> 32));
    mdl_put32(out + 4, (uint32_t)(value & 0xffffffffu));
}

uint32_t mdl_get32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

uint64_t mdl_get64(const uint8_t *data)
{
    return (uint64_t)mdl_get32(data) << 32 | mdl_get32(data + 4);
}

int mdl_write_all(int fd, const void *data, size_t len, uint64_t pos)
{
    const uint8_t *bytes = data;
    while (len > 0) {
        ssize_t n = pwrite(fd, bytes, len, (off_t)pos);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? errno : ENOSPC;
        }
        bytes += n;
        len -= (size_t)n;
        pos += (uint64_t)n;
    }
    return 0;
}

int mdl_read_upto(int fd, void *data, size_t len, uint64_t pos, size_t *got)
{
    uint8_t *bytes = data;
    *got = 0;
    while (*got < len) {
        ssize_t n = pread(fd, bytes + *got, len - *got, (off_t)(pos + *got));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno;
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
    }
    return 0;
}

int mdl_status_of(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return STI_E_DISK_FULL;
    case ENOMEM:
        return STI_E_NO_MEMORY;
    default:
        return STI_E_IO;
    }
}

const char *mdl_shown(const char *path)
{
    size_t len = strlen(path);
    return len > SHOWN_MAX ? path + (len - SHOWN_MAX) : path;
}

char *mdl_join(const char *a, const char *b)
{
    char *joined = NULL;
    return asprintf(&joined, "%s/%s", a, b) < 0 ? NULL : joined;
}
