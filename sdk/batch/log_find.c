/* log_find.c -- where does a sound batch begin, in bytes of which none is known to be one?
 *
 * Every position whose 61 bytes can be a header is a candidate, and its checksum decides. Records
 * may hold any bytes, also very many headers that each claim all that follows them: proving those
 * one by one would read the log once for each. So when proving has read several times as much as
 * there is, checksums are computed from sums: with the checksum of everything up to each block's
 * end, that of any stretch follows from two of them, since
 *
 *     crc(A followed by B) = shift(crc(A), length of B) ^ crc(B)
 *
 * where shift, appending zeros, is a linear map over GF(2). A candidate then costs two blocks at
 * the most, however long a batch it claims. Memory for that is taken only then, four bytes a block;
 * where there is none, the slow way goes on.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "batch.h"
#include "streamit/log_files.h"

enum { BLOCK = 1024, POWERS = 48, BUDGET_FACTOR = 4, BUDGET_MIN = 1 << 20 };

#define CRC32C_POLYNOMIAL 0x82f63b78u

/* The sums of the blocks from `start` on; known[i] is the checksum of the first i blocks. */
struct sums {
    struct sti_log_walk *walk;
    uint64_t start;
    uint32_t *known;
    uint64_t count;
    uint32_t shift[POWERS][32]; /* matrices: append 2^i zero bytes */
    uint8_t block[BLOCK];
};

/* ---- appending zeros ----------------------------------------------------------------------- */

static uint32_t times(const uint32_t matrix[32], uint32_t vector)
{
    uint32_t sum = 0;
    for (unsigned i = 0; vector != 0; i++, vector >>= 1) {
        sum ^= (vector & 1u) != 0 ? matrix[i] : 0u;
    }
    return sum;
}

static void square(uint32_t out[32], const uint32_t matrix[32])
{
    for (unsigned i = 0; i < 32; i++) {
        out[i] = times(matrix, matrix[i]);
    }
}

static void shift_init(struct sums *sums)
{
    uint32_t bit[32], more[32];
    bit[0] = CRC32C_POLYNOMIAL; /* append one zero bit */
    for (unsigned i = 1; i < 32; i++) {
        bit[i] = 1u << (i - 1);
    }
    square(more, bit);           /* two */
    square(bit, more);           /* four */
    square(sums->shift[0], bit); /* a byte */
    for (unsigned i = 1; i < POWERS; i++) {
        square(sums->shift[i], sums->shift[i - 1]);
    }
}

static uint32_t shift(const struct sums *sums, uint32_t crc, uint64_t zeros)
{
    for (unsigned i = 0; zeros != 0 && i < POWERS; i++, zeros >>= 1) {
        crc = (zeros & 1u) != 0 ? times(sums->shift[i], crc) : crc;
    }
    return crc;
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* NULL: no memory. */
static struct sums *sums_new(struct sti_log_walk *walk, uint64_t start)
{
    uint64_t blocks = (walk->limit - start) / BLOCK + 1;
    struct sums *sums = blocks > SIZE_MAX / sizeof(uint32_t) ? NULL : calloc(1, sizeof *sums);
    if (sums != NULL) {
        sums->walk = walk;
        sums->start = start;
        sums->known = calloc((size_t)blocks, sizeof(uint32_t));
        sums->count = 1; /* the checksum of nothing is 0 */
        shift_init(sums);
        if (sums->known == NULL) {
            free(sums);
            sums = NULL;
        }
    }
    return sums;
}

static void sums_free(struct sums *sums)
{
    if (sums != NULL) {
        free(sums->known);
        free(sums);
    }
}

/* Checksum of `crc`'s bytes followed by `len` bytes at `pos`, at most a block.
 * @return STI_OK, STI_E_DATA_LOSS (the file is shorter), STI_E_WOULD_BLOCK, STI_E_IO */
static int add(struct sums *sums, uint64_t pos, size_t len, uint32_t *crc)
{
    size_t got = 0;
    int error = len == 0 ? 0 : sums->walk->read(sums->walk->ctx, sums->block, len, pos, &got);
    if (error != 0) {
        return error == EAGAIN ? STI_E_WOULD_BLOCK : STI_E_IO;
    }
    if (got < len) {
        return STI_E_DATA_LOSS;
    }
    *crc = sti_crc32c(*crc, sums->block, len);
    return STI_OK;
}

/* Checksum of everything from the start to `pos`. */
static int sum_to(struct sums *sums, uint64_t pos, uint32_t *crc)
{
    uint64_t block = (pos - sums->start) / BLOCK;
    while (sums->count <= block) {
        uint32_t next = sums->known[sums->count - 1];
        int rc = add(sums, sums->start + (sums->count - 1) * BLOCK, BLOCK, &next);
        if (rc != STI_OK) {
            return rc;
        }
        sums->known[sums->count++] = next;
    }
    *crc = sums->known[block];
    return add(sums, sums->start + block * BLOCK, (size_t)((pos - sums->start) % BLOCK), crc);
}

/* Does the checksum of the batch at `pos` hold? @return as sti_log_walk_prove */
static int prove_by_sums(struct sums *sums, uint64_t pos, const struct sti_batch_header *header)
{
    uint32_t before = 0, whole = 0;
    uint64_t from = pos + BATCH_POS_ATTRIBUTES, to = pos + header->total_len;
    int rc = sum_to(sums, from, &before);
    if (rc == STI_OK) {
        rc = sum_to(sums, to, &whole);
    }
    if (rc != STI_OK) {
        return rc;
    }
    return (whole ^ shift(sums, before, to - from)) == header->crc ? STI_OK : STI_E_DATA_LOSS;
}

/* ---- the search ---------------------------------------------------------------------------- */

/* Can a batch that follows offset `floor` begin with these bytes? */
static bool is_candidate(const struct sti_log_walk *walk, uint64_t pos, const uint8_t *data,
                         int64_t floor, struct sti_batch_header *out)
{
    return data[BATCH_POS_MAGIC] == STI_BATCH_MAGIC &&
           sti_batch_header_decode(data, STI_BATCH_HEADER_LEN, out, NULL) == STI_OK &&
           out->base_offset >= floor &&
           (uint64_t)(out->base_offset - floor) <= walk->limit + INT32_MAX &&
           out->total_len <= walk->limit - pos;
}

int sti_log_walk_find(struct sti_log_walk *walk, uint64_t pos, int64_t floor, uint64_t *found,
                      struct sti_batch_header *out, struct sti_err *err)
{
    struct sums *sums = NULL;
    uint64_t start = pos, proved = 0;
    int rc = STI_E_NOT_FOUND;
    for (; pos <= walk->limit && walk->limit - pos >= STI_BATCH_HEADER_LEN; pos++) {
        const uint8_t *data = NULL;
        rc = sti_log_walk_bytes(walk, pos, STI_BATCH_HEADER_LEN, &data, err);
        if (data == NULL) { /* DATA_LOSS: the file is shorter than said */
            rc = rc == STI_E_DATA_LOSS ? STI_E_NOT_FOUND : rc;
            break;
        }
        rc = STI_E_NOT_FOUND;
        if (!is_candidate(walk, pos, data, floor, out)) {
            continue;
        }
        if (sums == NULL && proved > BUDGET_FACTOR * (walk->limit - start) + BUDGET_MIN) {
            sums = sums_new(walk, start);
        }
        rc = sums != NULL && out->total_len > BLOCK ? prove_by_sums(sums, pos, out)
                                                    : sti_log_walk_prove(walk, pos, out, NULL);
        proved += out->total_len;
        if (rc == STI_OK) {
            *found = pos;
            break;
        }
        if (rc != STI_E_DATA_LOSS) {
            (void)sti_err_set(err, rc, "read at position %" PRIu64 " or behind", pos);
            break;
        }
        rc = STI_E_NOT_FOUND;
    }
    sums_free(sums);
    return rc;
}
