/* layout_core.h -- numbers and layouts of the headers that all interfaces share, on a 64-bit
 * machine.
 *
 * A row that must be changed is a change of the ABI: it belongs into sdk/ABI_HISTORY.md, and a
 * frozen struct may only grow at its end. Both compilers of both languages check every row; see
 * layout.h.
 */
#ifndef STREAMIT_LAYOUT_CORE_H
#define STREAMIT_LAYOUT_CORE_H

#include "layout.h"

#include "streamit/command_log.h"
#include "streamit/log_files.h"
#include "streamit/option.h"
#include "streamit/plugin.h"
#include "streamit/record_batch.h"
#include "streamit/request.h"
#include "streamit/slice.h"
#include "streamit/status.h"

/* ---- status.h */

LAYOUT_VALUE(STI_TRAIT_RETRIABLE, 1);
LAYOUT_VALUE(STI_TRAIT_REFRESH, 2);
LAYOUT_VALUE(STI_TRAIT_FATAL, 4);
LAYOUT_VALUE(STI_TRAIT_INDEFINITE, 8);

LAYOUT_SIZE(sti_err, 256);
LAYOUT_FIELD(sti_err, code, 0, 4);
LAYOUT_FIELD(sti_err, traits, 4, 4);
LAYOUT_FIELD(sti_err, msg, 8, 248);

/* ---- slice.h */

LAYOUT_SIZE(sti_slice_owner, 16);
LAYOUT_FIELD(sti_slice_owner, ref, 0, 8);
LAYOUT_FIELD(sti_slice_owner, unref, 8, 8);

LAYOUT_SIZE(sti_slice, 40);
LAYOUT_FIELD(sti_slice, data, 0, 8);
LAYOUT_FIELD(sti_slice, len, 8, 8);
LAYOUT_FIELD(sti_slice, owner, 16, 8);
LAYOUT_FIELD(sti_slice, file_pos, 24, 8);
LAYOUT_FIELD(sti_slice, fd, 32, 4);
LAYOUT_FIELD(sti_slice, reserved, 36, 4);

/* ---- option.h */

LAYOUT_VALUE(STI_OPT_INT, 1);
LAYOUT_VALUE(STI_OPT_BOOL, 2);
LAYOUT_VALUE(STI_OPT_STRING, 3);
LAYOUT_VALUE(STI_OPT_ENUM, 4);
LAYOUT_VALUE(STI_OPT_STRINGS, 5);
LAYOUT_VALUE(STI_OPT_TABLE, 6);
LAYOUT_VALUE(STI_OPT_RELOADABLE, 1);
LAYOUT_VALUE(STI_OPT_REQUIRED, 2);
LAYOUT_VALUE(STI_OPT_SECRET, 4);

LAYOUT_SIZE(sti_option_strings, 16);
LAYOUT_FIELD(sti_option_strings, count, 0, 8);
LAYOUT_FIELD(sti_option_strings, items, 8, 8);

LAYOUT_SIZE(sti_option_rows, 16);
LAYOUT_FIELD(sti_option_rows, count, 0, 8);
LAYOUT_FIELD(sti_option_rows, rows, 8, 8);

LAYOUT_SIZE(sti_option, 104);
LAYOUT_FIELD(sti_option, struct_size, 0, 4);
LAYOUT_FIELD(sti_option, type, 4, 4);
LAYOUT_FIELD(sti_option, key, 8, 8);
LAYOUT_FIELD(sti_option, def, 16, 8);
LAYOUT_FIELD(sti_option, min, 24, 8);
LAYOUT_FIELD(sti_option, max, 32, 8);
LAYOUT_FIELD(sti_option, unit, 40, 8);
LAYOUT_FIELD(sti_option, help, 48, 8);
LAYOUT_FIELD(sti_option, flags, 56, 4);
LAYOUT_FIELD(sti_option, reserved, 60, 4);
LAYOUT_FIELD(sti_option, offset, 64, 8);
LAYOUT_FIELD(sti_option, choices, 72, 8);
LAYOUT_FIELD(sti_option, nested, 80, 8);
LAYOUT_FIELD(sti_option, nested_size, 88, 8);
LAYOUT_FIELD(sti_option, iface, 96, 8);

/* ---- request.h */

LAYOUT_SIZE(sti_request, 80);
LAYOUT_FIELD(sti_request, struct_size, 0, 4);
LAYOUT_FIELD(sti_request, flags, 4, 4);
LAYOUT_FIELD(sti_request, principal, 8, 8);
LAYOUT_FIELD(sti_request, client_id, 16, 8);
LAYOUT_FIELD(sti_request, peer, 24, 8);
LAYOUT_FIELD(sti_request, listener, 32, 8);
LAYOUT_FIELD(sti_request, trace_id, 40, 8);
LAYOUT_FIELD(sti_request, connection, 48, 8);
LAYOUT_FIELD(sti_request, received_us, 56, 8);
LAYOUT_FIELD(sti_request, deadline_us, 64, 8);
LAYOUT_FIELD(sti_request, retry_after_ms, 72, 8);

/* ---- plugin.h */

LAYOUT_VALUE(STI_LOG_DEBUG, 0);
LAYOUT_VALUE(STI_LOG_INFO, 1);
LAYOUT_VALUE(STI_LOG_WARN, 2);
LAYOUT_VALUE(STI_LOG_ERROR, 3);
LAYOUT_VALUE(STI_LOG_EVERY, 256);
LAYOUT_VALUE(STI_FIELD_STR, 1);
LAYOUT_VALUE(STI_FIELD_INT, 2);
LAYOUT_VALUE(STI_FIELD_UINT, 3);
LAYOUT_VALUE(STI_FIELD_DOUBLE, 4);
LAYOUT_VALUE(STI_FIELD_BOOL, 5);
LAYOUT_VALUE(STI_CLOCK_MONOTONIC, 0);
LAYOUT_VALUE(STI_CLOCK_REALTIME, 1);
LAYOUT_VALUE(STI_METRIC_COUNTER, 1);
LAYOUT_VALUE(STI_METRIC_GAUGE, 2);
LAYOUT_VALUE(STI_METRIC_HISTOGRAM, 3);
LAYOUT_VALUE(STI_NODE_STARTING, 0);
LAYOUT_VALUE(STI_NODE_READY, 1);
LAYOUT_VALUE(STI_NODE_DRAINING, 2);
LAYOUT_VALUE(STI_NODE_STOPPED, 3);
LAYOUT_VALUE(STI_HEALTH_OK, 0);
LAYOUT_VALUE(STI_HEALTH_DEGRADED, 1);
LAYOUT_VALUE(STI_HEALTH_NOT_READY, 2);
LAYOUT_VALUE(STI_PLUGIN_MAGIC, 0x49545331);
LAYOUT_VALUE(STI_ABI_MAJOR, 0);
LAYOUT_VALUE(STI_ABI_MINOR, 2);
LAYOUT_VALUE(STI_PLUGIN_RESIDENT, 1);
LAYOUT_VALUE(STI_PLUGIN_OPTIONAL, 2);
LAYOUT_VALUE(STI_PLUGIN_FLAGS, 3);
LAYOUT_VALUE(STI_NEED_OPTIONAL, 1);
LAYOUT_VALUE(STI_METRIC_SHARDS, 8);
LAYOUT_VALUE(STI_HISTOGRAM_BUCKETS, 28);

LAYOUT_SIZE(sti_iface, 24);
LAYOUT_FIELD(sti_iface, struct_size, 0, 4);
LAYOUT_FIELD(sti_iface, major, 4, 2);
LAYOUT_FIELD(sti_iface, minor, 6, 2);
LAYOUT_FIELD(sti_iface, id, 8, 8);
LAYOUT_FIELD(sti_iface, caps, 16, 8);

LAYOUT_SIZE(sti_binding, 32);
LAYOUT_FIELD(sti_binding, vtable, 0, 8);
LAYOUT_FIELD(sti_binding, self, 8, 8);
LAYOUT_FIELD(sti_binding, name, 16, 8);
LAYOUT_FIELD(sti_binding, generation, 24, 8);

LAYOUT_SIZE(sti_requirement, 32);
LAYOUT_FIELD(sti_requirement, struct_size, 0, 4);
LAYOUT_FIELD(sti_requirement, major, 4, 2);
LAYOUT_FIELD(sti_requirement, minor, 6, 2);
LAYOUT_FIELD(sti_requirement, iface, 8, 8);
LAYOUT_FIELD(sti_requirement, caps, 16, 8);
LAYOUT_FIELD(sti_requirement, flags, 24, 4);
LAYOUT_FIELD(sti_requirement, reserved, 28, 4);

LAYOUT_SIZE(sti_field, 24);
LAYOUT_FIELD(sti_field, key, 0, 8);
LAYOUT_FIELD(sti_field, type, 8, 4);
LAYOUT_FIELD(sti_field, reserved, 12, 4);
LAYOUT_FIELD(sti_field, value, 16, 8);

LAYOUT_SIZE(sti_task, 16);
LAYOUT_FIELD(sti_task, next, 0, 8);
LAYOUT_FIELD(sti_task, run, 8, 8);

LAYOUT_SIZE(sti_strand, 80);
LAYOUT_FIELD(sti_strand, words, 0, 80);

LAYOUT_SIZE(sti_timer, 56);
LAYOUT_FIELD(sti_timer, task, 0, 16);
LAYOUT_FIELD(sti_timer, strand, 16, 8);
LAYOUT_FIELD(sti_timer, due_us, 24, 8);
LAYOUT_FIELD(sti_timer, words, 32, 24);

LAYOUT_SIZE(sti_metric_cell, 64);
LAYOUT_FIELD(sti_metric_cell, value, 0, 8);
LAYOUT_FIELD(sti_metric_cell, pad, 8, 56);

LAYOUT_SIZE(sti_metric, 512);
LAYOUT_FIELD(sti_metric, cells, 0, 512);

LAYOUT_SIZE(sti_histogram_cell, 256);
LAYOUT_FIELD(sti_histogram_cell, sum, 0, 8);
LAYOUT_FIELD(sti_histogram_cell, buckets, 8, 224);
LAYOUT_FIELD(sti_histogram_cell, pad, 232, 24);

LAYOUT_SIZE(sti_histogram, 2048);
LAYOUT_FIELD(sti_histogram, cells, 0, 2048);

LAYOUT_SIZE(sti_histogram_totals, 240);
LAYOUT_FIELD(sti_histogram_totals, count, 0, 8);
LAYOUT_FIELD(sti_histogram_totals, sum, 8, 8);
LAYOUT_FIELD(sti_histogram_totals, buckets, 16, 224);

LAYOUT_SIZE(sti_node, 48);
LAYOUT_FIELD(sti_node, struct_size, 0, 4);
LAYOUT_FIELD(sti_node, node_id, 4, 4);
LAYOUT_FIELD(sti_node, version, 8, 8);
LAYOUT_FIELD(sti_node, data_dir, 16, 8);
LAYOUT_FIELD(sti_node, cluster_id, 24, 8);
LAYOUT_FIELD(sti_node, commit, 32, 8);
LAYOUT_FIELD(sti_node, started_us, 40, 8);

LAYOUT_SIZE(sti_metrics_visitor, 24);
LAYOUT_FIELD(sti_metrics_visitor, struct_size, 0, 4);
LAYOUT_FIELD(sti_metrics_visitor, reserved, 4, 4);
LAYOUT_FIELD(sti_metrics_visitor, value, 8, 8);
LAYOUT_FIELD(sti_metrics_visitor, histogram, 16, 8);

LAYOUT_SIZE(sti_collector, 16);
LAYOUT_FIELD(sti_collector, next, 0, 8);
LAYOUT_FIELD(sti_collector, collect, 8, 8);

LAYOUT_SIZE(sti_host, 208);
LAYOUT_FIELD(sti_host, struct_size, 0, 4);
LAYOUT_FIELD(sti_host, abi_major, 4, 2);
LAYOUT_FIELD(sti_host, abi_minor, 6, 2);
LAYOUT_FIELD(sti_host, ctx, 8, 8);
LAYOUT_FIELD(sti_host, instance, 16, 8);
LAYOUT_FIELD(sti_host, node, 24, 8);
LAYOUT_FIELD(sti_host, log, 32, 8);
LAYOUT_FIELD(sti_host, log_enabled, 40, 8);
LAYOUT_FIELD(sti_host, clock_us, 48, 8);
LAYOUT_FIELD(sti_host, random, 56, 8);
LAYOUT_FIELD(sti_host, post, 64, 8);
LAYOUT_FIELD(sti_host, strand_init, 72, 8);
LAYOUT_FIELD(sti_host, strand_post, 80, 8);
LAYOUT_FIELD(sti_host, strand_fini, 88, 8);
LAYOUT_FIELD(sti_host, timer_arm, 96, 8);
LAYOUT_FIELD(sti_host, timer_cancel, 104, 8);
LAYOUT_FIELD(sti_host, metric, 112, 8);
LAYOUT_FIELD(sti_host, histogram, 120, 8);
LAYOUT_FIELD(sti_host, bind, 128, 8);
LAYOUT_FIELD(sti_host, each, 136, 8);
LAYOUT_FIELD(sti_host, announce, 144, 8);
LAYOUT_FIELD(sti_host, health, 152, 8);
LAYOUT_FIELD(sti_host, node_state, 160, 8);
LAYOUT_FIELD(sti_host, metrics_visit, 168, 8);
LAYOUT_FIELD(sti_host, health_visit, 176, 8);
LAYOUT_FIELD(sti_host, collector_add, 184, 8);
LAYOUT_FIELD(sti_host, collector_remove, 192, 8);
LAYOUT_FIELD(sti_host, strand_try_run, 200, 8);

LAYOUT_SIZE(sti_lifecycle, 56);
LAYOUT_FIELD(sti_lifecycle, struct_size, 0, 4);
LAYOUT_FIELD(sti_lifecycle, reserved, 4, 4);
LAYOUT_FIELD(sti_lifecycle, create, 8, 8);
LAYOUT_FIELD(sti_lifecycle, start, 16, 8);
LAYOUT_FIELD(sti_lifecycle, reload, 24, 8);
LAYOUT_FIELD(sti_lifecycle, drain, 32, 8);
LAYOUT_FIELD(sti_lifecycle, stop, 40, 8);
LAYOUT_FIELD(sti_lifecycle, destroy, 48, 8);

LAYOUT_SIZE(sti_plugin, 88);
LAYOUT_FIELD(sti_plugin, magic, 0, 4);
LAYOUT_FIELD(sti_plugin, struct_size, 4, 4);
LAYOUT_FIELD(sti_plugin, abi_major, 8, 2);
LAYOUT_FIELD(sti_plugin, abi_minor, 10, 2);
LAYOUT_FIELD(sti_plugin, flags, 12, 4);
LAYOUT_FIELD(sti_plugin, name, 16, 8);
LAYOUT_FIELD(sti_plugin, version, 24, 8);
LAYOUT_FIELD(sti_plugin, license, 32, 8);
LAYOUT_FIELD(sti_plugin, summary, 40, 8);
LAYOUT_FIELD(sti_plugin, options, 48, 8);
LAYOUT_FIELD(sti_plugin, conf_size, 56, 8);
LAYOUT_FIELD(sti_plugin, provides, 64, 8);
LAYOUT_FIELD(sti_plugin, needs, 72, 8);
LAYOUT_FIELD(sti_plugin, life, 80, 8);

/* ---- record_batch.h */

LAYOUT_VALUE(STI_CODEC_NONE, 0);
LAYOUT_VALUE(STI_CODEC_GZIP, 1);
LAYOUT_VALUE(STI_CODEC_SNAPPY, 2);
LAYOUT_VALUE(STI_CODEC_LZ4, 3);
LAYOUT_VALUE(STI_CODEC_ZSTD, 4);
LAYOUT_VALUE(STI_BATCH_HEADER_LEN, 61);
LAYOUT_VALUE(STI_BATCH_PREFIX_LEN, 12);
LAYOUT_VALUE(STI_BATCH_PATCH_LEN, 16);
LAYOUT_VALUE(STI_BATCH_MAGIC, 2);
LAYOUT_VALUE(STI_BATCH_INFLATED_MAX, 134217728);
LAYOUT_VALUE(STI_BATCH_CODEC_MASK, 7);
LAYOUT_VALUE(STI_BATCH_LOG_APPEND_TIME, 8);
LAYOUT_VALUE(STI_BATCH_TRANSACTIONAL, 16);
LAYOUT_VALUE(STI_BATCH_CONTROL, 32);
LAYOUT_VALUE(STI_BATCH_DELETE_HORIZON, 64);
LAYOUT_VALUE(STI_CHECK_CRC, 1);
LAYOUT_VALUE(STI_CHECK_PRODUCER, 2);
LAYOUT_VALUE(STI_CHECK_RECORDS, 4);

LAYOUT_SIZE(sti_batch_header, 80);
LAYOUT_FIELD(sti_batch_header, base_offset, 0, 8);
LAYOUT_FIELD(sti_batch_header, batch_length, 8, 4);
LAYOUT_FIELD(sti_batch_header, leader_epoch, 12, 4);
LAYOUT_FIELD(sti_batch_header, magic, 16, 4);
LAYOUT_FIELD(sti_batch_header, crc, 20, 4);
LAYOUT_FIELD(sti_batch_header, attributes, 24, 4);
LAYOUT_FIELD(sti_batch_header, last_offset_delta, 28, 4);
LAYOUT_FIELD(sti_batch_header, base_timestamp, 32, 8);
LAYOUT_FIELD(sti_batch_header, max_timestamp, 40, 8);
LAYOUT_FIELD(sti_batch_header, producer_id, 48, 8);
LAYOUT_FIELD(sti_batch_header, producer_epoch, 56, 4);
LAYOUT_FIELD(sti_batch_header, base_sequence, 60, 4);
LAYOUT_FIELD(sti_batch_header, record_count, 64, 4);
LAYOUT_FIELD(sti_batch_header, reserved, 68, 4);
LAYOUT_FIELD(sti_batch_header, total_len, 72, 8);

LAYOUT_SIZE(sti_record, 56);
LAYOUT_FIELD(sti_record, offset, 0, 8);
LAYOUT_FIELD(sti_record, timestamp, 8, 8);
LAYOUT_FIELD(sti_record, key, 16, 8);
LAYOUT_FIELD(sti_record, value, 24, 8);
LAYOUT_FIELD(sti_record, headers, 32, 8);
LAYOUT_FIELD(sti_record, key_len, 40, 4);
LAYOUT_FIELD(sti_record, value_len, 44, 4);
LAYOUT_FIELD(sti_record, headers_len, 48, 4);
LAYOUT_FIELD(sti_record, header_count, 52, 4);

LAYOUT_SIZE(sti_batch_iter, 176);
LAYOUT_FIELD(sti_batch_iter, header, 0, 80);
LAYOUT_FIELD(sti_batch_iter, pos, 80, 8);
LAYOUT_FIELD(sti_batch_iter, end, 88, 8);
LAYOUT_FIELD(sti_batch_iter, inflated, 96, 8);
LAYOUT_FIELD(sti_batch_iter, inflated_capacity, 104, 8);
LAYOUT_FIELD(sti_batch_iter, inflater, 112, 8);
LAYOUT_FIELD(sti_batch_iter, delta_min, 120, 8);
LAYOUT_FIELD(sti_batch_iter, left, 128, 4);
LAYOUT_FIELD(sti_batch_iter, reserved, 132, 4);
LAYOUT_FIELD(sti_batch_iter, slices, 136, 8);
LAYOUT_FIELD(sti_batch_iter, behind, 144, 8);
LAYOUT_FIELD(sti_batch_iter, joined, 152, 8);
LAYOUT_FIELD(sti_batch_iter, joined_len, 160, 8);
LAYOUT_FIELD(sti_batch_iter, joined_capacity, 168, 8);

LAYOUT_SIZE(sti_record_header, 24);
LAYOUT_FIELD(sti_record_header, name, 0, 8);
LAYOUT_FIELD(sti_record_header, value, 8, 8);
LAYOUT_FIELD(sti_record_header, name_len, 16, 4);
LAYOUT_FIELD(sti_record_header, value_len, 20, 4);

/* ---- log_files.h */

LAYOUT_VALUE(STI_LOG_NAME_LEN, 48);
LAYOUT_VALUE(STI_LOG_POS_MAX, 2147483647);
LAYOUT_VALUE(STI_INDEX_ENTRY_LEN, 8);
LAYOUT_VALUE(STI_TIME_ENTRY_LEN, 12);
LAYOUT_VALUE(STI_SMALL_FILE_MAX, 4096);
LAYOUT_VALUE(STI_LOG_FILE_OTHER, 0);
LAYOUT_VALUE(STI_LOG_FILE_LOG, 1);
LAYOUT_VALUE(STI_LOG_FILE_INDEX, 2);
LAYOUT_VALUE(STI_LOG_FILE_TIME_INDEX, 3);
LAYOUT_VALUE(STI_LOG_FILE_SWAP, 4);
LAYOUT_VALUE(STI_LOG_FILE_META, 5);
LAYOUT_VALUE(STI_LOG_FILE_RECOVERY, 6);
LAYOUT_VALUE(STI_LOG_FILE_LOG_START, 7);
LAYOUT_VALUE(STI_LOG_FILE_TRUNCATION, 8);
LAYOUT_VALUE(STI_LOG_FILE_EPOCHS, 9);
LAYOUT_VALUE(STI_LOG_FILE_TEMPORARY, 10);
LAYOUT_VALUE(STI_LOG_FILE_DAMAGE, 11);
LAYOUT_VALUE(STI_DAMAGE_RANGES_MAX, 256);

LAYOUT_SIZE(sti_log_walk, 56);
LAYOUT_FIELD(sti_log_walk, read, 0, 8);
LAYOUT_FIELD(sti_log_walk, ctx, 8, 8);
LAYOUT_FIELD(sti_log_walk, buf, 16, 8);
LAYOUT_FIELD(sti_log_walk, buf_capacity, 24, 8);
LAYOUT_FIELD(sti_log_walk, limit, 32, 8);
LAYOUT_FIELD(sti_log_walk, buf_pos, 40, 8);
LAYOUT_FIELD(sti_log_walk, buf_len, 48, 8);

LAYOUT_SIZE(sti_index_entry, 8);
LAYOUT_FIELD(sti_index_entry, rel_offset, 0, 4);
LAYOUT_FIELD(sti_index_entry, pos, 4, 4);

LAYOUT_SIZE(sti_time_entry, 16);
LAYOUT_FIELD(sti_time_entry, timestamp, 0, 8);
LAYOUT_FIELD(sti_time_entry, rel_offset, 8, 4);
LAYOUT_FIELD(sti_time_entry, reserved, 12, 4);

LAYOUT_SIZE(sti_recovery_point, 104);
LAYOUT_FIELD(sti_recovery_point, recovery_point, 0, 8);
LAYOUT_FIELD(sti_recovery_point, clean, 8, 1);
LAYOUT_FIELD(sti_recovery_point, written_end, 16, 8);
LAYOUT_FIELD(sti_recovery_point, active_base, 24, 8);
LAYOUT_FIELD(sti_recovery_point, max_timestamp, 32, 8);
LAYOUT_FIELD(sti_recovery_point, active_size, 40, 4);
LAYOUT_FIELD(sti_recovery_point, last_epoch, 44, 4);
LAYOUT_FIELD(sti_recovery_point, boot_id, 48, 37);
LAYOUT_FIELD(sti_recovery_point, has_log, 85, 1);
LAYOUT_FIELD(sti_recovery_point, segment_count, 88, 4);
LAYOUT_FIELD(sti_recovery_point, log_start, 96, 8);

LAYOUT_SIZE(sti_epoch_entry, 16);
LAYOUT_FIELD(sti_epoch_entry, epoch, 0, 4);
LAYOUT_FIELD(sti_epoch_entry, reserved, 4, 4);
LAYOUT_FIELD(sti_epoch_entry, start_offset, 8, 8);

LAYOUT_SIZE(sti_damage_range, 40);
LAYOUT_FIELD(sti_damage_range, base_offset, 0, 8);
LAYOUT_FIELD(sti_damage_range, from_offset, 8, 8);
LAYOUT_FIELD(sti_damage_range, to_offset, 16, 8);
LAYOUT_FIELD(sti_damage_range, from_pos, 24, 4);
LAYOUT_FIELD(sti_damage_range, to_pos, 28, 4);
LAYOUT_FIELD(sti_damage_range, crc, 32, 4);
LAYOUT_FIELD(sti_damage_range, reserved, 36, 4);

/* ---- command_log.h */

LAYOUT_VALUE(STI_COMMAND_SECTOR, 512);
LAYOUT_VALUE(STI_COMMAND_FRAME_HEAD_LEN, 28);
LAYOUT_VALUE(STI_COMMAND_FRAME_OVERHEAD, 29);
LAYOUT_VALUE(STI_COMMAND_OVERHEAD, 4);
LAYOUT_VALUE(STI_COMMAND_FRAME_LEN_MAX, 4194304);
LAYOUT_VALUE(STI_COMMAND_COUNT_MAX, 256);
LAYOUT_VALUE(STI_COMMAND_SNAPSHOT_HEAD_LEN, 64);
LAYOUT_VALUE(STI_FRAME_SOUND, 0);
LAYOUT_VALUE(STI_FRAME_NONE, 1);
LAYOUT_VALUE(STI_FRAME_TAIL, 2);
LAYOUT_VALUE(STI_FRAME_BAD, 3);

LAYOUT_SIZE(sti_command_frame, 24);
LAYOUT_FIELD(sti_command_frame, len, 0, 4);
LAYOUT_FIELD(sti_command_frame, count, 4, 4);
LAYOUT_FIELD(sti_command_frame, payload_crc, 8, 4);
LAYOUT_FIELD(sti_command_frame, first, 16, 8);

LAYOUT_SIZE(sti_command_snapshot, 24);
LAYOUT_FIELD(sti_command_snapshot, index, 0, 8);
LAYOUT_FIELD(sti_command_snapshot, payload_len, 8, 8);
LAYOUT_FIELD(sti_command_snapshot, payload_crc, 16, 4);

#endif /* STREAMIT_LAYOUT_CORE_H */
