/* descriptors.c -- see descriptors.h.
 *
 * The build writes a FileDescriptorSet with protoc and this file takes it in as bytes. It is walked
 * in the wire format on each question: there are few files, and questions are rare. Numbers used:
 *
 *     FileDescriptorSet    1 file
 *     FileDescriptorProto  1 name  2 package  4 message  5 enum  6 service
 *     DescriptorProto      1 name  2 field  3 nested message  4 enum
 *     EnumDescriptorProto  1 name  2 value       ServiceDescriptorProto  1 name  2 method
 */
#include "descriptors.h"

#include <stdio.h>
#include <string.h>

#include "wire.h"

__asm__(".pushsection .rodata\n"
        ".hidden tgr_descriptor_set_begin\n"
        ".hidden tgr_descriptor_set_end\n"
        ".global tgr_descriptor_set_begin\n"
        ".global tgr_descriptor_set_end\n"
        "tgr_descriptor_set_begin:\n"
        ".incbin \"" TGR_DESCRIPTOR_SET "\"\n"
        "tgr_descriptor_set_end:\n"
        ".byte 0\n"
        ".popsection\n");

extern const uint8_t tgr_descriptor_set_begin[];
extern const uint8_t tgr_descriptor_set_end[];

enum { NAME_MAX_LEN = 512 };

enum kind { KIND_FILE, KIND_MESSAGE, KIND_ENUM, KIND_SERVICE, KIND_LEAF };

/* What a field of a descriptor holds; KIND_FILE: nothing of interest. */
static enum kind child_kind(enum kind kind, uint32_t number)
{
    switch (kind) {
    case KIND_FILE:
        return number == 4   ? KIND_MESSAGE
               : number == 5 ? KIND_ENUM
               : number == 6 ? KIND_SERVICE
                             : KIND_FILE;
    case KIND_MESSAGE:
        return number == 2   ? KIND_LEAF
               : number == 3 ? KIND_MESSAGE
               : number == 4 ? KIND_ENUM
                             : KIND_FILE;
    case KIND_ENUM:
    case KIND_SERVICE:
        return number == 2 ? KIND_LEAF : KIND_FILE;
    default:
        return KIND_FILE;
    }
}

/* Take the next length-delimited field of `span`; others are stepped over. */
static bool next_bytes(struct tgr_reader *reader, const struct sti_slice *span, uint32_t *number,
                       struct sti_slice *out)
{
    uint32_t type;
    while (reader->pos < span->len && tgr_read_key(reader, span->len, number, &type)) {
        uint64_t len;
        if (type != TGR_WIRE_BYTES) {
            if (!tgr_skip_field(reader, span->len, type)) {
                return false;
            }
            continue;
        }
        if (!tgr_read_len(reader, span->len, &len)) {
            return false;
        }
        *out = sti_slice_borrow(span->data + reader->pos, (size_t)len);
        return tgr_read_bytes(reader, span->len, len, NULL);
    }
    return false;
}

/* The first field of that number as text; "" when it has none. */
static void text_of(const struct sti_slice *message, uint32_t wanted, char out[NAME_MAX_LEN])
{
    struct tgr_reader reader;
    struct sti_slice field;
    uint32_t number;
    out[0] = '\0';
    tgr_reader_init(&reader, message, 1);
    while (next_bytes(&reader, message, &number, &field)) {
        if (number == wanted && field.len < NAME_MAX_LEN) {
            memcpy(out, field.data, (size_t)field.len);
            out[field.len] = '\0';
            return;
        }
    }
}

/* Is `symbol`, relative to `scope`, defined in it? */
static bool defines(enum kind kind, const struct sti_slice *scope, const char *symbol)
{
    struct tgr_reader reader;
    struct sti_slice child;
    uint32_t number;
    tgr_reader_init(&reader, scope, 1);
    while (next_bytes(&reader, scope, &number, &child)) {
        enum kind what = child_kind(kind, number);
        char name[NAME_MAX_LEN];
        if (what == KIND_FILE) {
            continue;
        }
        text_of(&child, 1, name);
        size_t len = strlen(name);
        if (strcmp(symbol, name) == 0) {
            return true;
        }
        if (strncmp(symbol, name, len) == 0 && symbol[len] == '.' &&
            defines(what, &child, symbol + len + 1)) {
            return true;
        }
        /* The values of an enum are siblings of the enum. */
        if (what == KIND_ENUM && defines(KIND_ENUM, &child, symbol)) {
            return true;
        }
    }
    return false;
}

static struct sti_slice descriptor_set(void)
{
    return sti_slice_borrow(tgr_descriptor_set_begin,
                            (size_t)(tgr_descriptor_set_end - tgr_descriptor_set_begin));
}

bool tgr_descriptor_by_name(const char *file, struct sti_slice *out)
{
    struct sti_slice set = descriptor_set();
    struct tgr_reader reader;
    uint32_t number;
    char name[NAME_MAX_LEN];
    tgr_reader_init(&reader, &set, 1);
    while (next_bytes(&reader, &set, &number, out)) {
        text_of(out, 1, name);
        if (strcmp(name, file) == 0) {
            return true;
        }
    }
    return false;
}

bool tgr_descriptor_by_symbol(const char *symbol, struct sti_slice *out)
{
    struct sti_slice set = descriptor_set();
    struct tgr_reader reader;
    uint32_t number;
    char package[NAME_MAX_LEN];
    tgr_reader_init(&reader, &set, 1);
    while (next_bytes(&reader, &set, &number, out)) {
        text_of(out, 2, package);
        size_t len = strlen(package);
        if (strncmp(symbol, package, len) == 0 && symbol[len] == '.' &&
            defines(KIND_FILE, out, symbol + len + 1)) {
            return true;
        }
    }
    return false;
}

static void services_of(const struct sti_slice *file, void (*visit)(void *arg, const char *name),
                        void *arg)
{
    struct tgr_reader reader;
    struct sti_slice child;
    uint32_t number;
    char package[NAME_MAX_LEN], name[NAME_MAX_LEN], full[2 * NAME_MAX_LEN];
    text_of(file, 2, package);
    tgr_reader_init(&reader, file, 1);
    while (next_bytes(&reader, file, &number, &child)) {
        if (child_kind(KIND_FILE, number) == KIND_SERVICE) {
            text_of(&child, 1, name);
            (void)snprintf(full, sizeof full, "%s.%s", package, name);
            visit(arg, full);
        }
    }
}

void tgr_descriptor_services(void (*visit)(void *arg, const char *name), void *arg)
{
    struct sti_slice set = descriptor_set();
    struct sti_slice file;
    struct tgr_reader reader;
    uint32_t number;
    tgr_reader_init(&reader, &set, 1);
    while (next_bytes(&reader, &set, &number, &file)) {
        services_of(&file, visit, arg);
    }
}
