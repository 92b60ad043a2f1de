/* fake_metadata.c -- a list of commands that outlives the broker; commits at once or when told. */
#include <stdlib.h>
#include <string.h>

#include "fakes.h"

struct fm_command {
    struct fm_command *next;
    size_t len;
    uint8_t bytes[];
};

static void command_keep(struct fake_metadata *fm, const void *bytes, size_t len)
{
    struct fm_command *command = malloc(sizeof *command + len), **at = &fm->commands;
    if (command == NULL) {
        abort();
    }
    command->next = NULL;
    command->len = len;
    memcpy(command->bytes, bytes, len);
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = command;
}

static int fake_open(void *self, const struct sti_metadata_fsm *fsm, void *ctx, struct sti_err *err)
{
    struct fake_metadata *fm = self;
    int rc = fm->open_status;
    if (rc != STI_OK) {
        return sti_err_set(err, rc, "metadata does not open");
    }
    fm->fsm = fsm;
    fm->fsm_ctx = ctx;
    if (fm->snapshot != NULL) {
        rc = fsm->restore(ctx, fm->index, fm->snapshot, fm->snapshot_len, err);
    }
    for (struct fm_command *c = fm->commands; rc == STI_OK && c != NULL; c = c->next) {
        struct sti_err verdict; /* of the command, not of the log */
        sti_err_clear(&verdict);
        int applied = fsm->apply(ctx, ++fm->index, c->bytes, c->len, &verdict);
        if (applied == STI_E_DATA_LOSS || applied == STI_E_UNSUPPORTED) {
            *err = verdict;
            rc = applied;
        }
    }
    fm->opened = rc == STI_OK;
    return rc;
}

static void commit(struct fake_metadata *fm, struct sti_proposal *proposal)
{
    struct sti_err err;
    sti_err_clear(&err);
    pthread_mutex_lock(&fm->mu);
    int rc = fm->commit_status;
    pthread_mutex_unlock(&fm->mu);
    if (rc != STI_OK) {
        sti_err_set(&err, rc, "metadata does not commit");
        proposal->done(proposal, rc, &err);
        return;
    }
    pthread_mutex_lock(&fm->apply_mu);
    command_keep(fm, proposal->command, (size_t)proposal->len);
    proposal->index = ++fm->index;
    rc = fm->fsm->apply(fm->fsm_ctx, proposal->index, proposal->command, (size_t)proposal->len,
                        &err);
    pthread_mutex_unlock(&fm->apply_mu);
    proposal->done(proposal, rc, &err);
}

static int fake_propose(void *self, struct sti_proposal *proposal, struct sti_err *err)
{
    struct fake_metadata *fm = self;
    pthread_mutex_lock(&fm->mu);
    int rc = fm->opened ? fm->propose_status : STI_E_UNAVAILABLE;
    bool hold = rc == STI_OK && fm->hold;
    if (hold) {
        if (fm->held_count == 64) {
            abort();
        }
        fm->held[fm->held_count++] = proposal;
    }
    fm->proposals++;
    pthread_mutex_unlock(&fm->mu);
    if (rc != STI_OK) {
        return sti_err_set(err, rc, "metadata takes no proposal");
    }
    if (!hold) {
        commit(fm, proposal);
    }
    return STI_OK;
}

static bool fake_is_leader(void *self, uint64_t *term, int32_t *leader)
{
    (void)self;
    *term = 1;
    *leader = 1;
    return true;
}

static void fake_close(void *self)
{
    struct fake_metadata *fm = self;
    pthread_mutex_lock(&fm->mu);
    fm->opened = false;
    pthread_mutex_unlock(&fm->mu);
}

struct fake_metadata *fm_new(void)
{
    struct fake_metadata *fm = calloc(1, sizeof *fm);
    if (fm == NULL) {
        abort();
    }
    fm->vtable = (struct sti_metadata){.iface = {.struct_size = sizeof fm->vtable,
                                                 .major = STI_METADATA_MAJOR,
                                                 .minor = STI_METADATA_MINOR,
                                                 .id = STI_METADATA_ID},
                                       .open = fake_open,
                                       .propose = fake_propose,
                                       .is_leader = fake_is_leader,
                                       .close = fake_close};
    pthread_mutex_init(&fm->mu, NULL);
    pthread_mutex_init(&fm->apply_mu, NULL);
    return fm;
}

static void commands_drop(struct fake_metadata *fm)
{
    while (fm->commands != NULL) {
        struct fm_command *command = fm->commands;
        fm->commands = command->next;
        free(command);
    }
}

void fm_free(struct fake_metadata *fm)
{
    commands_drop(fm);
    free(fm->snapshot);
    pthread_mutex_destroy(&fm->mu);
    pthread_mutex_destroy(&fm->apply_mu);
    free(fm);
}

unsigned fm_release(struct fake_metadata *fm)
{
    unsigned count = 0;
    pthread_mutex_lock(&fm->mu);
    fm->hold = false;
    while (fm->held_count > 0) {
        struct sti_proposal *proposal = fm->held[0];
        memmove(fm->held, fm->held + 1, --fm->held_count * sizeof fm->held[0]);
        pthread_mutex_unlock(&fm->mu);
        commit(fm, proposal);
        count++;
        pthread_mutex_lock(&fm->mu);
    }
    pthread_mutex_unlock(&fm->mu);
    return count;
}

static int snapshot_write(void *ctx, const void *data, size_t len, struct sti_err *err)
{
    struct fake_metadata *fm = ctx;
    void *grown = realloc(fm->snapshot, fm->snapshot_len + len + 1);
    if (grown == NULL) {
        return sti_err_set(err, STI_E_NO_MEMORY, "out of memory");
    }
    fm->snapshot = grown;
    memcpy((char *)grown + fm->snapshot_len, data, len);
    fm->snapshot_len += len;
    return STI_OK;
}

void fm_compact(struct fake_metadata *fm)
{
    const struct sti_metadata_sink sink = {.write = snapshot_write, .ctx = fm};
    struct sti_err err;
    pthread_mutex_lock(&fm->apply_mu);
    free(fm->snapshot);
    fm->snapshot = NULL;
    fm->snapshot_len = 0;
    if (fm->fsm->snapshot(fm->fsm_ctx, &sink, &err) != STI_OK) {
        abort();
    }
    commands_drop(fm);
    pthread_mutex_unlock(&fm->apply_mu);
}

void fm_append(struct fake_metadata *fm, const void *command, size_t len)
{
    command_keep(fm, command, len);
}

void fm_drop_last(struct fake_metadata *fm)
{
    struct fm_command **at = &fm->commands;
    while (*at != NULL && (*at)->next != NULL) {
        at = &(*at)->next;
    }
    free(*at);
    *at = NULL;
}
