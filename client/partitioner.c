/* partitioner.c -- the partition of a key, as Kafka's Java client chooses it, so that both put a
 * key into the same partition.
 *
 * murmur2 with seed 0x9747b28c, 32 bits, little-endian reads; source: Kafka's DefaultPartitioner,
 * whose results the tests hold fixed.
 */
#include "internal.h"

uint32_t sti_murmur2(const void *data, size_t len)
{
    const uint8_t *p = data;
    const uint32_t m = 0x5bd1e995u;
    uint32_t h = 0x9747b28cu ^ (uint32_t)len;
    for (; len >= 4; p += 4, len -= 4) {
        uint32_t k =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        k *= m;
        k ^= k >> 24;
        k *= m;
        h *= m;
        h ^= k;
    }
    if (len == 3) {
        h ^= (uint32_t)p[2] << 16;
    }
    if (len >= 2) {
        h ^= (uint32_t)p[1] << 8;
    }
    if (len >= 1) {
        h ^= p[0];
        h *= m;
    }
    h ^= h >> 13;
    h *= m;
    h ^= h >> 15;
    return h;
}

int32_t sti_partition_of_key(const void *key, size_t len, int32_t count)
{
    return (int32_t)((sti_murmur2(key, len) & 0x7fffffffu) % (uint32_t)count);
}
