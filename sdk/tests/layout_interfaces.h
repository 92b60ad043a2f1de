/* layout_interfaces.h -- numbers and layouts of the interfaces, on a 64-bit machine.
 *
 * A row that must be changed is a change of the ABI: it belongs into sdk/ABI_HISTORY.md, and a
 * frozen struct may only grow at its end. Both compilers of both languages check every row; see
 * layout.h.
 */
#ifndef STREAMIT_LAYOUT_INTERFACES_H
#define STREAMIT_LAYOUT_INTERFACES_H

#include "layout.h"

#include "streamit/assignment.h"
#include "streamit/auth.h"
#include "streamit/broker.h"
#include "streamit/metadata.h"
#include "streamit/metrics.h"
#include "streamit/peer.h"
#include "streamit/peer_sim.h"
#include "streamit/replication.h"
#include "streamit/storage.h"
#include "streamit/transport.h"

/* ---- storage.h */

LAYOUT_VALUE(STI_FLUSH_ONROLL, 0);
LAYOUT_VALUE(STI_FLUSH_INTERVAL, 1);
LAYOUT_VALUE(STI_FLUSH_COMMIT, 2);
LAYOUT_VALUE(STI_STORAGE_MAJOR, 0);
LAYOUT_VALUE(STI_STORAGE_MINOR, 3);
LAYOUT_VALUE(STI_STORAGE_DURABLE, 1);
LAYOUT_VALUE(STI_STORAGE_FILES, 2);
LAYOUT_VALUE(STI_STORAGE_BLOBS, 4);
LAYOUT_VALUE(STI_STORAGE_STATE_POISONED, 1);
LAYOUT_VALUE(STI_STORAGE_STATE_DAMAGED, 2);
LAYOUT_VALUE(STI_STORAGE_CREATE, 1);
LAYOUT_VALUE(STI_READ_MEMORY, 1);
LAYOUT_VALUE(STI_READ_NO_WAIT, 2);

LAYOUT_SIZE(sti_partition_id, 32);
LAYOUT_FIELD(sti_partition_id, struct_size, 0, 4);
LAYOUT_FIELD(sti_partition_id, partition, 4, 4);
LAYOUT_FIELD(sti_partition_id, topic, 8, 8);
LAYOUT_FIELD(sti_partition_id, topic_id, 16, 16);

LAYOUT_SIZE(sti_storage_settings, 40);
LAYOUT_FIELD(sti_storage_settings, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_settings, flush_policy, 4, 4);
LAYOUT_FIELD(sti_storage_settings, segment_bytes, 8, 8);
LAYOUT_FIELD(sti_storage_settings, segment_ms, 16, 8);
LAYOUT_FIELD(sti_storage_settings, flush_interval_ms, 24, 8);
LAYOUT_FIELD(sti_storage_settings, index_interval_bytes, 32, 8);

LAYOUT_SIZE(sti_storage_state, 72);
LAYOUT_FIELD(sti_storage_state, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_state, last_epoch, 4, 4);
LAYOUT_FIELD(sti_storage_state, log_start, 8, 8);
LAYOUT_FIELD(sti_storage_state, written_end, 16, 8);
LAYOUT_FIELD(sti_storage_state, synced_end, 24, 8);
LAYOUT_FIELD(sti_storage_state, max_timestamp, 32, 8);
LAYOUT_FIELD(sti_storage_state, bytes, 40, 8);
LAYOUT_FIELD(sti_storage_state, segment_count, 48, 4);
LAYOUT_FIELD(sti_storage_state, flags, 52, 4);
LAYOUT_FIELD(sti_storage_state, recovered_bytes, 56, 8);
LAYOUT_FIELD(sti_storage_state, truncated_bytes, 64, 8);

LAYOUT_SIZE(sti_storage_events, 48);
LAYOUT_FIELD(sti_storage_events, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_events, reserved, 4, 4);
LAYOUT_FIELD(sti_storage_events, recovered, 8, 8);
LAYOUT_FIELD(sti_storage_events, synced, 16, 8);
LAYOUT_FIELD(sti_storage_events, failed, 24, 8);
LAYOUT_FIELD(sti_storage_events, damaged, 32, 8);
LAYOUT_FIELD(sti_storage_events, recovering, 40, 8);

LAYOUT_SIZE(sti_storage_open, 40);
LAYOUT_FIELD(sti_storage_open, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_open, flags, 4, 4);
LAYOUT_FIELD(sti_storage_open, id, 8, 8);
LAYOUT_FIELD(sti_storage_open, settings, 16, 8);
LAYOUT_FIELD(sti_storage_open, events, 24, 8);
LAYOUT_FIELD(sti_storage_open, events_ctx, 32, 8);

LAYOUT_SIZE(sti_append_batch, 72);
LAYOUT_FIELD(sti_append_batch, struct_size, 0, 4);
LAYOUT_FIELD(sti_append_batch, slice_count, 4, 4);
LAYOUT_FIELD(sti_append_batch, slices, 8, 8);
LAYOUT_FIELD(sti_append_batch, len, 16, 8);
LAYOUT_FIELD(sti_append_batch, base_offset, 24, 8);
LAYOUT_FIELD(sti_append_batch, last_offset, 32, 8);
LAYOUT_FIELD(sti_append_batch, max_timestamp, 40, 8);
LAYOUT_FIELD(sti_append_batch, leader_epoch, 48, 4);
LAYOUT_FIELD(sti_append_batch, reserved, 52, 4);
LAYOUT_FIELD(sti_append_batch, head, 56, 16);

LAYOUT_SIZE(sti_storage_append, 48);
LAYOUT_FIELD(sti_storage_append, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_append, batch_count, 4, 4);
LAYOUT_FIELD(sti_storage_append, batches, 8, 8);
LAYOUT_FIELD(sti_storage_append, done, 16, 8);
LAYOUT_FIELD(sti_storage_append, written_end, 24, 8);
LAYOUT_FIELD(sti_storage_append, bytes_needed, 32, 8);
LAYOUT_FIELD(sti_storage_append, flags, 40, 4);
LAYOUT_FIELD(sti_storage_append, reserved, 44, 4);

LAYOUT_SIZE(sti_storage_read, 64);
LAYOUT_FIELD(sti_storage_read, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_read, flags, 4, 4);
LAYOUT_FIELD(sti_storage_read, offset, 8, 8);
LAYOUT_FIELD(sti_storage_read, end_offset, 16, 8);
LAYOUT_FIELD(sti_storage_read, max_bytes, 24, 8);
LAYOUT_FIELD(sti_storage_read, slices, 32, 8);
LAYOUT_FIELD(sti_storage_read, slice_max, 40, 4);
LAYOUT_FIELD(sti_storage_read, slice_count, 44, 4);
LAYOUT_FIELD(sti_storage_read, bytes, 48, 8);
LAYOUT_FIELD(sti_storage_read, done, 56, 8);

LAYOUT_SIZE(sti_storage_sync, 24);
LAYOUT_FIELD(sti_storage_sync, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_sync, reserved, 4, 4);
LAYOUT_FIELD(sti_storage_sync, done, 8, 8);
LAYOUT_FIELD(sti_storage_sync, synced_end, 16, 8);

LAYOUT_SIZE(sti_storage_usage, 48);
LAYOUT_FIELD(sti_storage_usage, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_usage, reserved, 4, 4);
LAYOUT_FIELD(sti_storage_usage, bytes, 8, 8);
LAYOUT_FIELD(sti_storage_usage, disk_bytes, 16, 8);
LAYOUT_FIELD(sti_storage_usage, memory_bytes, 24, 8);
LAYOUT_FIELD(sti_storage_usage, open_files, 32, 8);
LAYOUT_FIELD(sti_storage_usage, maps, 40, 8);

LAYOUT_SIZE(sti_storage_space, 24);
LAYOUT_FIELD(sti_storage_space, struct_size, 0, 4);
LAYOUT_FIELD(sti_storage_space, reserved, 4, 4);
LAYOUT_FIELD(sti_storage_space, total_bytes, 8, 8);
LAYOUT_FIELD(sti_storage_space, free_bytes, 16, 8);

LAYOUT_SIZE(sti_storage, 168);
LAYOUT_FIELD(sti_storage, iface, 0, 24);
LAYOUT_FIELD(sti_storage, open, 24, 8);
LAYOUT_FIELD(sti_storage, configure, 32, 8);
LAYOUT_FIELD(sti_storage, state, 40, 8);
LAYOUT_FIELD(sti_storage, append, 48, 8);
LAYOUT_FIELD(sti_storage, read, 56, 8);
LAYOUT_FIELD(sti_storage, sync, 64, 8);
LAYOUT_FIELD(sti_storage, offset_for_time, 72, 8);
LAYOUT_FIELD(sti_storage, truncate, 80, 8);
LAYOUT_FIELD(sti_storage, trim, 88, 8);
LAYOUT_FIELD(sti_storage, oldest_segment, 96, 8);
LAYOUT_FIELD(sti_storage, usage, 104, 8);
LAYOUT_FIELD(sti_storage, close, 112, 8);
LAYOUT_FIELD(sti_storage, remove, 120, 8);
LAYOUT_FIELD(sti_storage, list, 128, 8);
LAYOUT_FIELD(sti_storage, blob_put, 136, 8);
LAYOUT_FIELD(sti_storage, blob_get, 144, 8);
LAYOUT_FIELD(sti_storage, space, 152, 8);
LAYOUT_FIELD(sti_storage, discard, 160, 8);

/* ---- broker.h */

LAYOUT_VALUE(STI_ACKS_NONE, 0);
LAYOUT_VALUE(STI_ACKS_LEADER, 1);
LAYOUT_VALUE(STI_ACKS_QUORUM, 2);
LAYOUT_VALUE(STI_READ_UNCOMMITTED, 0);
LAYOUT_VALUE(STI_READ_COMMITTED, 1);
LAYOUT_VALUE(STI_CONFIG_DEFAULT, 0);
LAYOUT_VALUE(STI_CONFIG_NODE, 1);
LAYOUT_VALUE(STI_CONFIG_TOPIC, 2);
LAYOUT_VALUE(STI_BROKER_MAJOR, 0);
LAYOUT_VALUE(STI_BROKER_MINOR, 4);
LAYOUT_VALUE(STI_TOPIC_NAME_MAX, 249);
LAYOUT_VALUE(STI_FETCH_SLICES_MAX, 16);
LAYOUT_VALUE(STI_FETCH_MEMORY, 1);
LAYOUT_VALUE(STI_OFFSET_LATEST, (-1));
LAYOUT_VALUE(STI_OFFSET_EARLIEST, (-2));
LAYOUT_VALUE(STI_TOPIC_VALIDATE_ONLY, 1);

LAYOUT_SIZE(sti_produce_chain, 8);
LAYOUT_FIELD(sti_produce_chain, failed, 0, 8);

LAYOUT_SIZE(sti_produce_row, 384);
LAYOUT_FIELD(sti_produce_row, struct_size, 0, 4);
LAYOUT_FIELD(sti_produce_row, partition, 4, 4);
LAYOUT_FIELD(sti_produce_row, topic, 8, 8);
LAYOUT_FIELD(sti_produce_row, topic_id, 16, 16);
LAYOUT_FIELD(sti_produce_row, slices, 32, 8);
LAYOUT_FIELD(sti_produce_row, slice_count, 40, 4);
LAYOUT_FIELD(sti_produce_row, status, 44, 4);
LAYOUT_FIELD(sti_produce_row, base_offset, 48, 8);
LAYOUT_FIELD(sti_produce_row, log_start, 56, 8);
LAYOUT_FIELD(sti_produce_row, append_time_ms, 64, 8);
LAYOUT_FIELD(sti_produce_row, leader_epoch, 72, 4);
LAYOUT_FIELD(sti_produce_row, leader_hint, 76, 4);
LAYOUT_FIELD(sti_produce_row, replicas, 80, 4);
LAYOUT_FIELD(sti_produce_row, replicas_synced, 84, 4);
LAYOUT_FIELD(sti_produce_row, retry_after_ms, 88, 4);
LAYOUT_FIELD(sti_produce_row, reserved, 92, 4);
LAYOUT_FIELD(sti_produce_row, bytes_needed, 96, 8);
LAYOUT_FIELD(sti_produce_row, err, 104, 256);
LAYOUT_FIELD(sti_produce_row, chain, 360, 8);
LAYOUT_FIELD(sti_produce_row, chain_id, 368, 8);
LAYOUT_FIELD(sti_produce_row, chain_answered, 376, 8);

LAYOUT_SIZE(sti_produce, 56);
LAYOUT_FIELD(sti_produce, struct_size, 0, 4);
LAYOUT_FIELD(sti_produce, acks, 4, 4);
LAYOUT_FIELD(sti_produce, timeout_ms, 8, 4);
LAYOUT_FIELD(sti_produce, row_count, 12, 4);
LAYOUT_FIELD(sti_produce, request, 16, 8);
LAYOUT_FIELD(sti_produce, rows, 24, 8);
LAYOUT_FIELD(sti_produce, replicas_min, 32, 4);
LAYOUT_FIELD(sti_produce, replicas_synced_min, 36, 4);
LAYOUT_FIELD(sti_produce, done, 40, 8);
LAYOUT_FIELD(sti_produce, user, 48, 8);

LAYOUT_SIZE(sti_fetch_row, 1000);
LAYOUT_FIELD(sti_fetch_row, struct_size, 0, 4);
LAYOUT_FIELD(sti_fetch_row, partition, 4, 4);
LAYOUT_FIELD(sti_fetch_row, topic, 8, 8);
LAYOUT_FIELD(sti_fetch_row, topic_id, 16, 16);
LAYOUT_FIELD(sti_fetch_row, offset, 32, 8);
LAYOUT_FIELD(sti_fetch_row, max_bytes, 40, 4);
LAYOUT_FIELD(sti_fetch_row, leader_epoch, 44, 4);
LAYOUT_FIELD(sti_fetch_row, status, 48, 4);
LAYOUT_FIELD(sti_fetch_row, current_leader_epoch, 52, 4);
LAYOUT_FIELD(sti_fetch_row, leader_hint, 56, 4);
LAYOUT_FIELD(sti_fetch_row, slice_count, 60, 4);
LAYOUT_FIELD(sti_fetch_row, high_watermark, 64, 8);
LAYOUT_FIELD(sti_fetch_row, last_stable, 72, 8);
LAYOUT_FIELD(sti_fetch_row, log_start, 80, 8);
LAYOUT_FIELD(sti_fetch_row, bytes, 88, 8);
LAYOUT_FIELD(sti_fetch_row, slices, 96, 640);
LAYOUT_FIELD(sti_fetch_row, err, 736, 256);
LAYOUT_FIELD(sti_fetch_row, last_epoch, 992, 4);
LAYOUT_FIELD(sti_fetch_row, retry_after_ms, 996, 4);

LAYOUT_SIZE(sti_fetch, 80);
LAYOUT_FIELD(sti_fetch, struct_size, 0, 4);
LAYOUT_FIELD(sti_fetch, flags, 4, 4);
LAYOUT_FIELD(sti_fetch, request, 8, 8);
LAYOUT_FIELD(sti_fetch, rows, 16, 8);
LAYOUT_FIELD(sti_fetch, row_count, 24, 4);
LAYOUT_FIELD(sti_fetch, max_bytes, 28, 4);
LAYOUT_FIELD(sti_fetch, min_bytes, 32, 4);
LAYOUT_FIELD(sti_fetch, max_wait_ms, 36, 4);
LAYOUT_FIELD(sti_fetch, isolation, 40, 4);
LAYOUT_FIELD(sti_fetch, reserved, 44, 4);
LAYOUT_FIELD(sti_fetch, done, 48, 8);
LAYOUT_FIELD(sti_fetch, user, 56, 8);
LAYOUT_FIELD(sti_fetch, state, 64, 16);

LAYOUT_SIZE(sti_list_offsets_row, 328);
LAYOUT_FIELD(sti_list_offsets_row, struct_size, 0, 4);
LAYOUT_FIELD(sti_list_offsets_row, partition, 4, 4);
LAYOUT_FIELD(sti_list_offsets_row, topic, 8, 8);
LAYOUT_FIELD(sti_list_offsets_row, topic_id, 16, 16);
LAYOUT_FIELD(sti_list_offsets_row, timestamp_ms, 32, 8);
LAYOUT_FIELD(sti_list_offsets_row, status, 40, 4);
LAYOUT_FIELD(sti_list_offsets_row, leader_epoch, 44, 4);
LAYOUT_FIELD(sti_list_offsets_row, offset, 48, 8);
LAYOUT_FIELD(sti_list_offsets_row, found_ms, 56, 8);
LAYOUT_FIELD(sti_list_offsets_row, err, 64, 256);
LAYOUT_FIELD(sti_list_offsets_row, retry_after_ms, 320, 4);
LAYOUT_FIELD(sti_list_offsets_row, reserved, 324, 4);

LAYOUT_SIZE(sti_list_offsets, 56);
LAYOUT_FIELD(sti_list_offsets, struct_size, 0, 4);
LAYOUT_FIELD(sti_list_offsets, row_count, 4, 4);
LAYOUT_FIELD(sti_list_offsets, request, 8, 8);
LAYOUT_FIELD(sti_list_offsets, rows, 16, 8);
LAYOUT_FIELD(sti_list_offsets, done, 24, 8);
LAYOUT_FIELD(sti_list_offsets, user, 32, 8);
LAYOUT_FIELD(sti_list_offsets, state, 40, 16);

LAYOUT_SIZE(sti_config_entry, 16);
LAYOUT_FIELD(sti_config_entry, key, 0, 8);
LAYOUT_FIELD(sti_config_entry, value, 8, 8);

LAYOUT_SIZE(sti_topic_change, 368);
LAYOUT_FIELD(sti_topic_change, struct_size, 0, 4);
LAYOUT_FIELD(sti_topic_change, partitions, 4, 4);
LAYOUT_FIELD(sti_topic_change, replication, 8, 4);
LAYOUT_FIELD(sti_topic_change, flags, 12, 4);
LAYOUT_FIELD(sti_topic_change, request, 16, 8);
LAYOUT_FIELD(sti_topic_change, name, 24, 8);
LAYOUT_FIELD(sti_topic_change, config, 32, 8);
LAYOUT_FIELD(sti_topic_change, config_count, 40, 4);
LAYOUT_FIELD(sti_topic_change, timeout_ms, 44, 4);
LAYOUT_FIELD(sti_topic_change, status, 48, 4);
LAYOUT_FIELD(sti_topic_change, partition_count, 52, 4);
LAYOUT_FIELD(sti_topic_change, replication_factor, 56, 4);
LAYOUT_FIELD(sti_topic_change, topic_id, 60, 16);
LAYOUT_FIELD(sti_topic_change, retry_after_ms, 76, 4);
LAYOUT_FIELD(sti_topic_change, err, 80, 256);
LAYOUT_FIELD(sti_topic_change, done, 336, 8);
LAYOUT_FIELD(sti_topic_change, user, 344, 8);
LAYOUT_FIELD(sti_topic_change, state, 352, 16);

LAYOUT_SIZE(sti_partition_info, 80);
LAYOUT_FIELD(sti_partition_info, struct_size, 0, 4);
LAYOUT_FIELD(sti_partition_info, partition, 4, 4);
LAYOUT_FIELD(sti_partition_info, leader, 8, 4);
LAYOUT_FIELD(sti_partition_info, leader_epoch, 12, 4);
LAYOUT_FIELD(sti_partition_info, replicas, 16, 8);
LAYOUT_FIELD(sti_partition_info, isr, 24, 8);
LAYOUT_FIELD(sti_partition_info, replica_count, 32, 4);
LAYOUT_FIELD(sti_partition_info, isr_count, 36, 4);
LAYOUT_FIELD(sti_partition_info, log_start, 40, 8);
LAYOUT_FIELD(sti_partition_info, high_watermark, 48, 8);
LAYOUT_FIELD(sti_partition_info, log_end, 56, 8);
LAYOUT_FIELD(sti_partition_info, bytes, 64, 8);
LAYOUT_FIELD(sti_partition_info, status, 72, 4);
LAYOUT_FIELD(sti_partition_info, reserved, 76, 4);

LAYOUT_SIZE(sti_topic_config, 32);
LAYOUT_FIELD(sti_topic_config, struct_size, 0, 4);
LAYOUT_FIELD(sti_topic_config, source, 4, 4);
LAYOUT_FIELD(sti_topic_config, key, 8, 8);
LAYOUT_FIELD(sti_topic_config, value, 16, 8);
LAYOUT_FIELD(sti_topic_config, help, 24, 8);

LAYOUT_SIZE(sti_topic_info, 56);
LAYOUT_FIELD(sti_topic_info, struct_size, 0, 4);
LAYOUT_FIELD(sti_topic_info, replication, 4, 4);
LAYOUT_FIELD(sti_topic_info, name, 8, 8);
LAYOUT_FIELD(sti_topic_info, topic_id, 16, 16);
LAYOUT_FIELD(sti_topic_info, partition_count, 32, 4);
LAYOUT_FIELD(sti_topic_info, config_count, 36, 4);
LAYOUT_FIELD(sti_topic_info, partitions, 40, 8);
LAYOUT_FIELD(sti_topic_info, config, 48, 8);

LAYOUT_SIZE(sti_node_info, 24);
LAYOUT_FIELD(sti_node_info, struct_size, 0, 4);
LAYOUT_FIELD(sti_node_info, node_id, 4, 4);
LAYOUT_FIELD(sti_node_info, host, 8, 8);
LAYOUT_FIELD(sti_node_info, port, 16, 4);
LAYOUT_FIELD(sti_node_info, leader_epoch, 20, 4);

LAYOUT_SIZE(sti_await, 40);
LAYOUT_FIELD(sti_await, request, 8, 8);
LAYOUT_FIELD(sti_await, topic, 16, 8);
LAYOUT_FIELD(sti_await, done, 24, 8);
LAYOUT_FIELD(sti_await, user, 32, 8);

LAYOUT_SIZE(sti_admit, 32);
LAYOUT_FIELD(sti_admit, next, 0, 8);
LAYOUT_FIELD(sti_admit, bytes, 8, 8);
LAYOUT_FIELD(sti_admit, resume, 16, 8);
LAYOUT_FIELD(sti_admit, request, 24, 8);

LAYOUT_SIZE(sti_broker, 128);
LAYOUT_FIELD(sti_broker, iface, 0, 24);
LAYOUT_FIELD(sti_broker, produce, 24, 8);
LAYOUT_FIELD(sti_broker, fetch, 32, 8);
LAYOUT_FIELD(sti_broker, fetch_cancel, 40, 8);
LAYOUT_FIELD(sti_broker, list_offsets, 48, 8);
LAYOUT_FIELD(sti_broker, create_topic, 56, 8);
LAYOUT_FIELD(sti_broker, alter_topic, 64, 8);
LAYOUT_FIELD(sti_broker, delete_topic, 72, 8);
LAYOUT_FIELD(sti_broker, list_topics, 80, 8);
LAYOUT_FIELD(sti_broker, describe_topic, 88, 8);
LAYOUT_FIELD(sti_broker, find_leader, 96, 8);
LAYOUT_FIELD(sti_broker, admit, 104, 8);
LAYOUT_FIELD(sti_broker, await_topic, 112, 8);
LAYOUT_FIELD(sti_broker, authenticate, 120, 8);

/* ---- metadata.h */

LAYOUT_VALUE(STI_METADATA_MAJOR, 0);
LAYOUT_VALUE(STI_METADATA_MINOR, 1);
LAYOUT_VALUE(STI_METADATA_REPLICATED, 1);
LAYOUT_VALUE(STI_METADATA_COMMAND_MAX, 1048576);

LAYOUT_SIZE(sti_metadata_sink, 16);
LAYOUT_FIELD(sti_metadata_sink, write, 0, 8);
LAYOUT_FIELD(sti_metadata_sink, ctx, 8, 8);

LAYOUT_SIZE(sti_metadata_fsm, 40);
LAYOUT_FIELD(sti_metadata_fsm, struct_size, 0, 4);
LAYOUT_FIELD(sti_metadata_fsm, reserved, 4, 4);
LAYOUT_FIELD(sti_metadata_fsm, apply, 8, 8);
LAYOUT_FIELD(sti_metadata_fsm, snapshot, 16, 8);
LAYOUT_FIELD(sti_metadata_fsm, restore, 24, 8);
LAYOUT_FIELD(sti_metadata_fsm, leadership, 32, 8);

LAYOUT_VALUE(STI_PROPOSAL_FREES_SPACE, 1);
LAYOUT_SIZE(sti_proposal, 40);
LAYOUT_FIELD(sti_proposal, struct_size, 0, 4);
LAYOUT_FIELD(sti_proposal, flags, 4, 4);
LAYOUT_FIELD(sti_proposal, command, 8, 8);
LAYOUT_FIELD(sti_proposal, len, 16, 8);
LAYOUT_FIELD(sti_proposal, done, 24, 8);
LAYOUT_FIELD(sti_proposal, index, 32, 8);

LAYOUT_SIZE(sti_metadata_member, 24);
LAYOUT_FIELD(sti_metadata_member, struct_size, 0, 4);
LAYOUT_FIELD(sti_metadata_member, node_id, 4, 4);
LAYOUT_FIELD(sti_metadata_member, address, 8, 8);
LAYOUT_FIELD(sti_metadata_member, voter, 16, 1);
LAYOUT_FIELD(sti_metadata_member, leader, 17, 1);

LAYOUT_SIZE(sti_metadata, 64);
LAYOUT_FIELD(sti_metadata, iface, 0, 24);
LAYOUT_FIELD(sti_metadata, open, 24, 8);
LAYOUT_FIELD(sti_metadata, propose, 32, 8);
LAYOUT_FIELD(sti_metadata, is_leader, 40, 8);
LAYOUT_FIELD(sti_metadata, close, 48, 8);
LAYOUT_FIELD(sti_metadata, members, 56, 8);

/* ---- replication.h */

LAYOUT_VALUE(STI_REPLICATION_MAJOR, 0);
LAYOUT_VALUE(STI_REPLICATION_MINOR, 1);
LAYOUT_VALUE(STI_REPLICATION_MANY, 1);

LAYOUT_SIZE(sti_replication_ops, 16);
LAYOUT_FIELD(sti_replication_ops, struct_size, 0, 4);
LAYOUT_FIELD(sti_replication_ops, reserved, 4, 4);
LAYOUT_FIELD(sti_replication_ops, set_high_watermark, 8, 8);

LAYOUT_SIZE(sti_replication_open, 88);
LAYOUT_FIELD(sti_replication_open, struct_size, 0, 4);
LAYOUT_FIELD(sti_replication_open, partition, 4, 4);
LAYOUT_FIELD(sti_replication_open, topic, 8, 8);
LAYOUT_FIELD(sti_replication_open, topic_id, 16, 16);
LAYOUT_FIELD(sti_replication_open, ops, 32, 8);
LAYOUT_FIELD(sti_replication_open, ctx, 40, 8);
LAYOUT_FIELD(sti_replication_open, replicas, 48, 8);
LAYOUT_FIELD(sti_replication_open, replica_count, 56, 4);
LAYOUT_FIELD(sti_replication_open, min_insync, 60, 4);
LAYOUT_FIELD(sti_replication_open, written_end, 64, 8);
LAYOUT_FIELD(sti_replication_open, synced_end, 72, 8);
LAYOUT_FIELD(sti_replication_open, durable_ends, 80, 1);

LAYOUT_SIZE(sti_replication, 64);
LAYOUT_FIELD(sti_replication, iface, 0, 24);
LAYOUT_FIELD(sti_replication, open, 24, 8);
LAYOUT_FIELD(sti_replication, progress, 32, 8);
LAYOUT_FIELD(sti_replication, configure, 40, 8);
LAYOUT_FIELD(sti_replication, in_sync, 48, 8);
LAYOUT_FIELD(sti_replication, close, 56, 8);

/* ---- transport.h */

LAYOUT_VALUE(STI_TRANSPORT_MAJOR, 0);
LAYOUT_VALUE(STI_TRANSPORT_MINOR, 1);

LAYOUT_SIZE(sti_endpoint, 16);
LAYOUT_FIELD(sti_endpoint, struct_size, 0, 4);
LAYOUT_FIELD(sti_endpoint, port, 4, 4);
LAYOUT_FIELD(sti_endpoint, host, 8, 8);

LAYOUT_SIZE(sti_transport, 32);
LAYOUT_FIELD(sti_transport, iface, 0, 24);
LAYOUT_FIELD(sti_transport, endpoint, 24, 8);

/* ---- peer.h */

LAYOUT_VALUE(STI_PEER_MAJOR, 0);
LAYOUT_VALUE(STI_PEER_MINOR, 2);
LAYOUT_VALUE(STI_PEER_REMOTE, 1);
LAYOUT_VALUE(STI_PEER_NAME_MAX, 63);
LAYOUT_VALUE(STI_PEER_SLICE_MAX, 1024);
LAYOUT_VALUE(STI_PEER_DOWN, 0);
LAYOUT_VALUE(STI_PEER_UP, 1);

LAYOUT_SIZE(sti_peer_incoming, 48);
LAYOUT_FIELD(sti_peer_incoming, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_incoming, from_node, 4, 4);
LAYOUT_FIELD(sti_peer_incoming, service, 8, 8);
LAYOUT_FIELD(sti_peer_incoming, method, 16, 8);
LAYOUT_FIELD(sti_peer_incoming, request, 24, 8);
LAYOUT_FIELD(sti_peer_incoming, request_count, 32, 4);
LAYOUT_FIELD(sti_peer_incoming, timeout_ms, 36, 4);
LAYOUT_FIELD(sti_peer_incoming, user, 40, 8);

LAYOUT_SIZE(sti_peer_service, 32);
LAYOUT_FIELD(sti_peer_service, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_service, reserved, 4, 4);
LAYOUT_FIELD(sti_peer_service, name, 8, 8);
LAYOUT_FIELD(sti_peer_service, handle, 16, 8);
LAYOUT_FIELD(sti_peer_service, ctx, 24, 8);

LAYOUT_SIZE(sti_peer_dial, 32);
LAYOUT_FIELD(sti_peer_dial, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_dial, node_id, 4, 4);
LAYOUT_FIELD(sti_peer_dial, address, 8, 8);
LAYOUT_FIELD(sti_peer_dial, state, 16, 8);
LAYOUT_FIELD(sti_peer_dial, ctx, 24, 8);

LAYOUT_SIZE(sti_peer_call, 64);
LAYOUT_FIELD(sti_peer_call, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_call, timeout_ms, 4, 4);
LAYOUT_FIELD(sti_peer_call, service, 8, 8);
LAYOUT_FIELD(sti_peer_call, method, 16, 8);
LAYOUT_FIELD(sti_peer_call, request, 24, 8);
LAYOUT_FIELD(sti_peer_call, request_count, 32, 4);
LAYOUT_FIELD(sti_peer_call, response_count, 36, 4);
LAYOUT_FIELD(sti_peer_call, response, 40, 8);
LAYOUT_FIELD(sti_peer_call, done, 48, 8);
LAYOUT_FIELD(sti_peer_call, user, 56, 8);

LAYOUT_SIZE(sti_peer_info, 32);
LAYOUT_FIELD(sti_peer_info, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_info, calls_max, 4, 4);
LAYOUT_FIELD(sti_peer_info, address, 8, 8);
LAYOUT_FIELD(sti_peer_info, message_bytes_max, 16, 8);
LAYOUT_FIELD(sti_peer_info, bytes_max, 24, 8);

LAYOUT_SIZE(sti_peer, 96);
LAYOUT_FIELD(sti_peer, iface, 0, 24);
LAYOUT_FIELD(sti_peer, serve, 24, 8);
LAYOUT_FIELD(sti_peer, withdraw, 32, 8);
LAYOUT_FIELD(sti_peer, respond, 40, 8);
LAYOUT_FIELD(sti_peer, dial, 48, 8);
LAYOUT_FIELD(sti_peer, call, 56, 8);
LAYOUT_FIELD(sti_peer, cancel, 64, 8);
LAYOUT_FIELD(sti_peer, sever, 72, 8);
LAYOUT_FIELD(sti_peer, hang_up, 80, 8);
LAYOUT_FIELD(sti_peer, info, 88, 8);

/* ---- peer_sim.h */

LAYOUT_VALUE(STI_PEER_SIM_MAJOR, 0);
LAYOUT_VALUE(STI_PEER_SIM_MINOR, 1);

LAYOUT_SIZE(sti_peer_sim_weather, 32);
LAYOUT_FIELD(sti_peer_sim_weather, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_sim_weather, lost_per_million, 4, 4);
LAYOUT_FIELD(sti_peer_sim_weather, delay_min_us, 8, 8);
LAYOUT_FIELD(sti_peer_sim_weather, delay_max_us, 16, 8);
LAYOUT_FIELD(sti_peer_sim_weather, detect_us, 24, 8);

LAYOUT_SIZE(sti_peer_sim_trace, 32);
LAYOUT_FIELD(sti_peer_sim_trace, struct_size, 0, 4);
LAYOUT_FIELD(sti_peer_sim_trace, reserved, 4, 4);
LAYOUT_FIELD(sti_peer_sim_trace, hash, 8, 8);
LAYOUT_FIELD(sti_peer_sim_trace, events, 16, 8);
LAYOUT_FIELD(sti_peer_sim_trace, broken, 24, 8);

LAYOUT_SIZE(sti_peer_sim, 56);
LAYOUT_FIELD(sti_peer_sim, iface, 0, 24);
LAYOUT_FIELD(sti_peer_sim, weather, 24, 8);
LAYOUT_FIELD(sti_peer_sim, cut, 32, 8);
LAYOUT_FIELD(sti_peer_sim, heal, 40, 8);
LAYOUT_FIELD(sti_peer_sim, trace, 48, 8);

/* ---- metrics.h */

LAYOUT_VALUE(STI_METRICS_MAJOR, 0);
LAYOUT_VALUE(STI_METRICS_MINOR, 2);

LAYOUT_SIZE(sti_metrics, 32);
LAYOUT_FIELD(sti_metrics, iface, 0, 24);
LAYOUT_FIELD(sti_metrics, export_now, 24, 8);

/* ---- auth.h */

LAYOUT_VALUE(STI_RESOURCE_CLUSTER, 1);
LAYOUT_VALUE(STI_RESOURCE_TOPIC, 2);
LAYOUT_VALUE(STI_RESOURCE_GROUP, 3);
LAYOUT_VALUE(STI_OP_READ, 1);
LAYOUT_VALUE(STI_OP_WRITE, 2);
LAYOUT_VALUE(STI_OP_CREATE, 3);
LAYOUT_VALUE(STI_OP_DELETE, 4);
LAYOUT_VALUE(STI_OP_ALTER, 5);
LAYOUT_VALUE(STI_OP_DESCRIBE, 6);
LAYOUT_VALUE(STI_OP_CLUSTER_ACTION, 7);
LAYOUT_VALUE(STI_AUTH_MAJOR, 0);
LAYOUT_VALUE(STI_AUTH_MINOR, 2);
LAYOUT_VALUE(STI_PRINCIPAL_MAX, 255);

LAYOUT_SIZE(sti_credentials, 56);
LAYOUT_FIELD(sti_credentials, struct_size, 0, 4);
LAYOUT_FIELD(sti_credentials, secret_len, 4, 4);
LAYOUT_FIELD(sti_credentials, mechanism, 8, 8);
LAYOUT_FIELD(sti_credentials, identity, 16, 8);
LAYOUT_FIELD(sti_credentials, secret, 24, 8);
LAYOUT_FIELD(sti_credentials, peer, 32, 8);
LAYOUT_FIELD(sti_credentials, listener, 40, 8);
LAYOUT_FIELD(sti_credentials, connection, 48, 8);

LAYOUT_SIZE(sti_auth, 40);
LAYOUT_FIELD(sti_auth, iface, 0, 24);
LAYOUT_FIELD(sti_auth, authenticate, 24, 8);
LAYOUT_FIELD(sti_auth, authorize, 32, 8);

/* ---- assignment.h */

LAYOUT_VALUE(STI_ASSIGNMENT_MAJOR, 0);
LAYOUT_VALUE(STI_ASSIGNMENT_MINOR, 1);

LAYOUT_SIZE(sti_assignment_topic, 32);
LAYOUT_FIELD(sti_assignment_topic, struct_size, 0, 4);
LAYOUT_FIELD(sti_assignment_topic, partition_count, 4, 4);
LAYOUT_FIELD(sti_assignment_topic, topic_id, 8, 16);
LAYOUT_FIELD(sti_assignment_topic, name, 24, 8);

LAYOUT_SIZE(sti_assignment_partition, 8);
LAYOUT_FIELD(sti_assignment_partition, topic, 0, 4);
LAYOUT_FIELD(sti_assignment_partition, partition, 4, 4);

LAYOUT_SIZE(sti_assignment_member, 48);
LAYOUT_FIELD(sti_assignment_member, struct_size, 0, 4);
LAYOUT_FIELD(sti_assignment_member, topic_count, 4, 4);
LAYOUT_FIELD(sti_assignment_member, member_id, 8, 8);
LAYOUT_FIELD(sti_assignment_member, rack, 16, 8);
LAYOUT_FIELD(sti_assignment_member, topics, 24, 8);
LAYOUT_FIELD(sti_assignment_member, current, 32, 8);
LAYOUT_FIELD(sti_assignment_member, current_count, 40, 4);
LAYOUT_FIELD(sti_assignment_member, reserved, 44, 4);

LAYOUT_SIZE(sti_assignment_input, 32);
LAYOUT_FIELD(sti_assignment_input, struct_size, 0, 4);
LAYOUT_FIELD(sti_assignment_input, member_count, 4, 4);
LAYOUT_FIELD(sti_assignment_input, members, 8, 8);
LAYOUT_FIELD(sti_assignment_input, topics, 16, 8);
LAYOUT_FIELD(sti_assignment_input, topic_count, 24, 4);
LAYOUT_FIELD(sti_assignment_input, reserved, 28, 4);

LAYOUT_SIZE(sti_assignment, 32);
LAYOUT_FIELD(sti_assignment, iface, 0, 24);
LAYOUT_FIELD(sti_assignment, assign, 24, 8);

#endif /* STREAMIT_LAYOUT_INTERFACES_H */
