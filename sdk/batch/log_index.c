/* log_index.c -- entries of the two indexes of a segment. See log_files.h for the bytes. */
#include "batch.h"
#include "streamit/log_files.h"

void sti_index_entry_put(uint8_t out[STI_INDEX_ENTRY_LEN], uint32_t rel_offset, uint32_t pos)
{
    batch_store32(out, rel_offset);
    batch_store32(out + 4, pos);
}

struct sti_index_entry sti_index_entry_get(const uint8_t in[STI_INDEX_ENTRY_LEN])
{
    return (struct sti_index_entry){.rel_offset = batch_load32(in), .pos = batch_load32(in + 4)};
}

void sti_time_entry_put(uint8_t out[STI_TIME_ENTRY_LEN], int64_t timestamp, uint32_t rel_offset)
{
    batch_store64(out, (uint64_t)timestamp);
    batch_store32(out + 8, rel_offset);
}

struct sti_time_entry sti_time_entry_get(const uint8_t in[STI_TIME_ENTRY_LEN])
{
    return (struct sti_time_entry){.timestamp = (int64_t)batch_load64(in),
                                   .rel_offset = batch_load32(in + 8)};
}
