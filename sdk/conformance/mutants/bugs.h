/* bugs.h -- the bugs that are planted, by name. The list stands once more in CMakeLists.txt, which
 * builds a plugin for each, and in test_mutants.py, which knows who must catch it.
 */
#ifndef STREAMIT_CONFORM_BUGS_H
#define STREAMIT_CONFORM_BUGS_H

enum bug {
    BUG_none,
    BUG_answer_lost_on_error,  /* `done` of a refused append never comes */
    BUG_answer_twice,          /* `done` of an append comes twice */
    BUG_blob_not_replaced,     /* the first blob of a name stays for ever */
    BUG_blob_put_in_two_steps, /* a blob is for a moment the half of it */
    BUG_close_loses_tail,      /* the last batch is gone after a close */
    BUG_configure_ignored,     /* settings stay what they were at open */
    BUG_epoch_stays,           /* the last epoch does not go back with a truncation */
    BUG_event_after_close,     /* a `synced` event comes late */
    BUG_gap_accepted,          /* a batch with a wrong base offset is stored at the end */
    BUG_list_visits_twice,     /* list shows a partition twice */
    BUG_lock_across_done,      /* a lock of the partition is held while `done` runs */
    BUG_no_wait_waits,         /* a read without waiting waits for the executor */
    BUG_read_skips_batch,      /* a read begins one batch late */
    BUG_recovery_cuts_more,    /* recovery cuts a sound batch off the end */
    BUG_refusal_appends_part,  /* a refused append leaves some of its batches */
    BUG_remove_by_name,        /* remove takes the partition of another topic of that name */
    BUG_remove_keeps_data,     /* remove does nothing */
    BUG_segment_too_long,      /* segments pass segment_bytes */
    BUG_short_read,            /* a read ends one byte early */
    BUG_slice_reused,          /* memory of a slice is used again while it is held */
    BUG_status_undocumented,   /* a read out of range ends with INTERNAL */
    BUG_sync_answers_old_end,  /* a sync answers with the synced end from before it */
    BUG_synced_too_far,        /* state tells a synced end behind the written one */
    BUG_time_one_batch_late,   /* offset_for_time leads behind the batch */
    BUG_topic_id_ignored,      /* open finds the partition of another topic of that name */
    BUG_trim_too_much,         /* trim drops one segment more */
    BUG_truncate_leaves_batch, /* truncate leaves one batch too many */
    BUG_would_block_always,    /* reads that may wait end with WOULD_BLOCK */

    BUG_peer_answer_short,        /* the last slice of an answer is missing */
    BUG_peer_cancel_ignored,      /* a cancelled call goes on */
    BUG_peer_cluster_ignored,     /* a node of another cluster is taken */
    BUG_peer_done_after_hang_up,  /* `done` of a cancelled call comes late */
    BUG_peer_done_twice,          /* `done` comes twice */
    BUG_peer_down_untold,         /* `state` is never told of DOWN */
    BUG_peer_lost_as_unavailable, /* a lost call says that nothing was sent */
    BUG_peer_node_ignored,        /* whoever is at the address is taken */
    BUG_peer_order_swapped,       /* a call now and then overtakes the one before it */
    BUG_peer_reference_dropped,   /* one reference of a request's slice is dropped once more */
    BUG_peer_reference_kept,      /* and one is never dropped */
    BUG_peer_sentence_lost,       /* a handler's sentence does not arrive */
    BUG_peer_timeout_early,       /* a timeout comes after half of its time */
    BUG_peer_timeout_ignored,     /* and it never does */
    BUG_peer_withdraw_early       /* withdraw does not wait for the handler that runs */
};

#endif /* STREAMIT_CONFORM_BUGS_H */
