/* chains.c -- see chains.h. */
#include "chains.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_FIRST = 16 };

struct tgr_chain {
    struct sti_produce_chain chain; /* first: a row points to it */
    struct tgr_chain *next;
    uint64_t hash;
    uint32_t rows; /* under way */
    int32_t partition;
    uint8_t topic_id[16]; /* zero when there is a name */
    char topic[];
};

static uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ bytes[i]) * 1099511628211u; /* FNV-1a */
    }
    return h;
}

static uint64_t row_hash(const struct sti_produce_row *row)
{
    uint64_t h = hash_bytes(14695981039346656037u, &row->partition, sizeof row->partition);
    h = row->topic[0] != '\0' ? hash_bytes(h, row->topic, strlen(row->topic))
                              : hash_bytes(h, row->topic_id, sizeof row->topic_id);
    return h ^ (h >> 32);
}

static bool matches(const struct tgr_chain *chain, const struct sti_produce_row *row, uint64_t hash)
{
    return chain->hash == hash && chain->partition == row->partition &&
           strcmp(chain->topic, row->topic) == 0 &&
           (row->topic[0] != '\0' ||
            memcmp(chain->topic_id, row->topic_id, sizeof row->topic_id) == 0);
}

/* Drop the chains that have nothing to say to a sender that has read all answers up to `answered`.
 */
static void sweep(struct tgr_chains *chains, uint64_t answered)
{
    for (size_t b = 0; b < chains->bucket_count; b++) {
        struct tgr_chain **at = &chains->buckets[b];
        while (*at != NULL) {
            struct tgr_chain *chain = *at;
            /* An id that no request has: refused, if any later one would be. */
            if (chain->rows == 0 &&
                !sti_produce_chain_refuses(&chain->chain, UINT64_MAX, answered)) {
                *at = chain->next;
                chains->count--;
                free(chain);
            } else {
                at = &chain->next;
            }
        }
    }
}

static bool grow(struct tgr_chains *chains)
{
    size_t count = chains->bucket_count == 0 ? BUCKETS_FIRST : chains->bucket_count * 2;
    struct tgr_chain **buckets = (struct tgr_chain **)calloc(count, sizeof(void *));
    if (buckets == NULL) {
        return false;
    }
    for (size_t b = 0; b < chains->bucket_count; b++) {
        while (chains->buckets[b] != NULL) {
            struct tgr_chain *chain = chains->buckets[b];
            chains->buckets[b] = chain->next;
            chain->next = buckets[chain->hash & (count - 1)];
            buckets[chain->hash & (count - 1)] = chain;
        }
    }
    free((void *)chains->buckets);
    chains->buckets = buckets;
    chains->bucket_count = count;
    return true;
}

static struct tgr_chain *find(const struct tgr_chains *chains, const struct sti_produce_row *row,
                              uint64_t hash)
{
    struct tgr_chain *chain =
        chains->bucket_count == 0 ? NULL : chains->buckets[hash & (chains->bucket_count - 1)];
    while (chain != NULL && !matches(chain, row, hash)) {
        chain = chain->next;
    }
    return chain;
}

static struct tgr_chain *add(struct tgr_chains *chains, const struct sti_produce_row *row,
                             uint64_t hash)
{
    size_t len = strlen(row->topic);
    if (chains->count >= chains->bucket_count && !grow(chains)) {
        return NULL;
    }
    struct tgr_chain *chain = calloc(1, sizeof *chain + len + 1);
    if (chain == NULL) {
        return NULL;
    }
    chain->hash = hash;
    chain->partition = row->partition;
    memcpy(chain->topic, row->topic, len + 1);
    if (len == 0) {
        memcpy(chain->topic_id, row->topic_id, sizeof chain->topic_id);
    }
    struct tgr_chain **bucket = &chains->buckets[hash & (chains->bucket_count - 1)];
    chain->next = *bucket;
    *bucket = chain;
    chains->count++;
    return chain;
}

int tgr_chains_take(struct tgr_chains *chains, struct tgr_produce *produce, size_t count_max,
                    struct sti_err *err)
{
    int rc = STI_OK;
    for (uint32_t i = 0; rc == STI_OK && i < produce->call.row_count; i++) {
        struct sti_produce_row *row = &produce->rows[i].row;
        uint64_t hash = row_hash(row);
        struct tgr_chain *chain = find(chains, row, hash);
        if (chain == NULL &&
            (chains->count >= chains->bucket_count || chains->count >= count_max)) {
            sweep(chains, produce->answered); /* before the table grows */
        }
        if (chain == NULL && chains->count >= count_max) {
            rc = sti_err_set(err, STI_E_RESOURCE_EXHAUSTED,
                             "ProduceStreamRequest.partitions: the stream has more than %zu "
                             "partitions whose order it keeps",
                             count_max);
        } else if (chain == NULL && (chain = add(chains, row, hash)) == NULL) {
            rc = sti_err_set(err, STI_E_NO_MEMORY, "no memory for the order of a stream");
        }
        if (rc == STI_OK) {
            chain->rows++;
            row->chain = &chain->chain;
            row->chain_id = produce->id;
            row->chain_answered = produce->answered;
        }
    }
    if (rc != STI_OK) {
        tgr_chains_drop(produce);
    }
    return rc;
}

void tgr_chains_drop(struct tgr_produce *produce)
{
    for (uint32_t i = 0; i < produce->call.row_count; i++) {
        struct sti_produce_row *row = &produce->rows[i].row;
        if (row->chain != NULL) {
            ((struct tgr_chain *)(void *)row->chain)->rows--;
            row->chain = NULL;
        }
    }
}

void tgr_chains_fini(struct tgr_chains *chains)
{
    for (size_t b = 0; b < chains->bucket_count; b++) {
        while (chains->buckets[b] != NULL) {
            struct tgr_chain *chain = chains->buckets[b];
            chains->buckets[b] = chain->next;
            free(chain);
        }
    }
    free((void *)chains->buckets);
    *chains = (struct tgr_chains){.buckets = NULL};
}
