/* link.c -- one end of a simulated connection: what is on its way to it, in order, and when it is
 * there.
 *
 * Events wait in a list, each due no earlier than the one before. The end's timer is armed for the
 * first; its task delivers all that are due, alone: `delivering` keeps a second from beginning. A
 * cut holds events back, a break throws them away. Whatever drops references, frees, or calls the
 * core happens without the network's lock.
 */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

enum { PIECES_MAX = 3 };

/* A message that was copied: the sender has its memory back, as after a network. */
struct buffer {
    struct sti_slice_owner owner; /* first */
    atomic_uint refs;
    uint8_t bytes[];
};

static void buffer_ref(struct sti_slice_owner *owner)
{
    (void)atomic_fetch_add(&((struct buffer *)(void *)owner)->refs, 1);
}

static void buffer_unref(struct sti_slice_owner *owner)
{
    struct buffer *buffer = (struct buffer *)(void *)owner;
    if (atomic_fetch_sub(&buffer->refs, 1) == 1) {
        free(buffer);
    }
}

static bool buffer_of(const struct pco_message *message, struct sti_slice *out)
{
    struct buffer *buffer = malloc(sizeof *buffer + (size_t)message->len);
    if (buffer == NULL) {
        return false;
    }
    buffer->owner = (struct sti_slice_owner){.ref = buffer_ref, .unref = buffer_unref};
    atomic_init(&buffer->refs, 1);
    uint8_t *at = buffer->bytes;
    for (uint32_t i = 0; i < message->slice_count; i++) {
        memcpy(at, message->slices[i].data, (size_t)message->slices[i].len);
        at += message->slices[i].len;
    }
    *out = sti_slice_borrow(buffer->bytes, (size_t)message->len);
    out->owner = &buffer->owner;
    return true;
}

static struct psi_link *link_of(struct pco_link *base)
{
    return (struct psi_link *)(void *)base;
}

static struct psi_network *net_of(const struct psi_link *link)
{
    return link->node->network;
}

static uint64_t now_of(const struct psi_link *link)
{
    return sti_now_us(link->node->core.host);
}

/* ---- when -------------------------------------------------------------------------------- */

/* @locks network->mu held, as all of this section */
static uint64_t next_due_us(const struct psi_link *link)
{
    if (link->ended) {
        return UINT64_MAX;
    }
    if (link->broken != NULL) {
        return 0;
    }
    uint64_t due_us = link->break_us == 0 ? UINT64_MAX : link->break_us;
    const struct psi_event *first = link->events;
    if (first != NULL && !(first->kind == PSI_MESSAGE && link->paused) &&
        !psi_is_cut(net_of(link), link->to, link->node->address)) {
        due_us = first->due_us < due_us ? first->due_us : due_us;
    }
    return due_us;
}

void psi_link_arm(struct psi_link *link)
{
    const struct sti_host *host = link->node->core.host;
    uint64_t due_us = next_due_us(link);
    if (link->delivering || due_us == UINT64_MAX || (link->armed && link->timer.due_us <= due_us)) {
        return;
    }
    if (!link->armed) {
        pco_link_ref(&link->base);
    } else if (!host->timer_cancel(host->ctx, &link->timer)) {
        return; /* it is about to look */
    }
    link->armed = true;
    uint64_t now_us = now_of(link);
    host->timer_arm(host->ctx, &link->timer, due_us > now_us ? due_us : now_us);
}

static void break_link(struct psi_link *link, const char *why)
{
    if (link->broken == NULL && !link->ended) {
        link->broken = why;
        psi_link_arm(link);
    }
}

/* Send an event to the other end; it takes its time. False: there is none any more. */
static bool post(struct psi_link *link, struct psi_event *event)
{
    struct psi_link *other = link->other;
    if (other == NULL || other->ended || other->broken != NULL) {
        return false;
    }
    event->next = NULL;
    event->due_us = now_of(link) + psi_delay_us(net_of(link));
    event->due_us = event->due_us > other->last_due_us ? event->due_us : other->last_due_us;
    other->last_due_us = event->due_us;
    *other->events_end = event;
    other->events_end = &event->next;
    psi_link_arm(other);
    return true;
}

static void post_close(struct psi_link *link, const char *why)
{
    struct psi_event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        if (link->other != NULL) {
            break_link(link->other, why);
        }
        return;
    }
    *event = (struct psi_event){.kind = PSI_CLOSE, .why = why};
    if (!post(link, event)) {
        free(event);
    }
}

/* ---- delivery ------------------------------------------------------------------------------ */

static void event_free(struct psi_event *event)
{
    sti_slice_release(&event->message);
    if (event->sender != NULL) {
        pco_link_unref(&event->sender->base);
    }
    free(event);
}

/* Let go of the end. @locks none */
static void end(struct psi_link *link, const char *why)
{
    struct psi_network *net = net_of(link);
    struct sti_err err;
    pthread_mutex_lock(&net->mu);
    struct psi_event *dropped = link->events;
    struct psi_link *other = link->other;
    bool taken = link->accepted || !link->base.incoming;
    link->events = NULL;
    link->events_end = &link->events;
    link->other = NULL;
    link->ended = true;
    pthread_mutex_unlock(&net->mu);
    while (dropped != NULL) {
        struct psi_event *next = dropped->next;
        event_free(dropped);
        dropped = next;
    }
    if (other != NULL) {
        pco_link_unref(&other->base);
    }
    if (taken) {
        (void)sti_err_set(&err, STI_E_CONNECTION_LOST, "%s", why);
        pco_link_closed(&link->base, &err);
    } else {
        pco_link_unref(&link->base);
    }
}

static void deliver_message(struct psi_link *link, struct psi_event *event)
{
    struct psi_network *net = net_of(link);
    struct sti_slice pieces[PIECES_MAX];
    uint32_t count = 0;
    uint64_t pos = 0;
    pthread_mutex_lock(&net->mu);
    link->paused = true; /* until it is known; a resume that comes meanwhile counts */
    uint32_t wanted = 1 + psi_random(net) % PIECES_MAX;
    for (; count < wanted && pos < event->message.len; count++) {
        uint64_t left = event->message.len - pos;
        uint64_t len = count + 1 == wanted ? left : 1 + psi_random(net) % left;
        pieces[count] = event->message;
        pieces[count].data += pos;
        pieces[count].len = len;
        pos += len;
    }
    pthread_mutex_unlock(&net->mu);
    pco_link_sent(&event->sender->base, event->frame_len);
    bool ok = pco_link_received(&link->base, pieces, count);
    bool wants = pco_link_wants(&link->base);
    pthread_mutex_lock(&net->mu);
    if (wants) {
        link->paused = false;
    }
    if (!ok) {
        post_close(link, "the other side could not read a message");
        break_link(link, "a message could not be read");
    }
    pthread_mutex_unlock(&net->mu);
}

static void deliver(struct psi_link *link, struct psi_event *event)
{
    struct psi_network *net = net_of(link);
    if (event->kind == PSI_MESSAGE) {
        deliver_message(link, event);
    } else if (event->kind == PSI_CLOSE) {
        end(link, event->why);
    } else if (pco_link_accept(&link->base)) {
        pthread_mutex_lock(&net->mu);
        link->accepted = true;
        pthread_mutex_unlock(&net->mu);
    } else {
        pthread_mutex_lock(&net->mu);
        post_close(link, "the node takes no more connections");
        pthread_mutex_unlock(&net->mu);
        end(link, "");
    }
    event_free(event);
}

/* Take what is to be done now: an event, or the reason of a break. */
static bool take(struct psi_link *link, struct psi_event **event, const char **broken)
{
    struct psi_network *net = net_of(link);
    uint64_t now_us = now_of(link);
    *event = NULL;
    *broken = NULL;
    if (next_due_us(link) > now_us) {
        return false;
    }
    if (link->broken == NULL && link->break_us != 0 && link->break_us <= now_us) {
        link->broken = "nothing passes any more";
    }
    *broken = link->broken;
    if (link->broken != NULL) {
        psi_note(net, now_us, link->to, link->node->address, PSI_CLOSE, 0);
        return true;
    }
    *event = link->events;
    link->events = link->events->next;
    if (link->events == NULL) {
        link->events_end = &link->events;
    }
    psi_note(net, now_us, link->to, link->node->address, (*event)->kind, (*event)->message.len);
    return true;
}

static void on_timer(struct sti_task *task)
{
    struct psi_link *link =
        (struct psi_link *)(void *)((char *)task - offsetof(struct psi_link, timer.task));
    struct psi_network *net = net_of(link);
    struct psi_event *event;
    const char *broken;
    pthread_mutex_lock(&net->mu);
    link->armed = false;
    link->delivering = true;
    while (take(link, &event, &broken)) {
        pthread_mutex_unlock(&net->mu);
        if (event != NULL) {
            deliver(link, event);
        } else {
            end(link, broken);
        }
        pthread_mutex_lock(&net->mu);
    }
    link->delivering = false;
    psi_link_arm(link);
    pthread_mutex_unlock(&net->mu);
    pco_link_unref(&link->base);
}

/* ---- the engine ---------------------------------------------------------------------------- */

/* @locks network->mu held, unless nobody knows the node's network yet */
static struct psi_link *link_new(struct psi_node *node, const char *to)
{
    struct psi_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return NULL;
    }
    link->node = node;
    link->timer.task.run = on_timer;
    link->events_end = &link->events;
    (void)snprintf(link->to, sizeof link->to, "%s", to);
    link->next = node->network->links;
    link->at = &node->network->links;
    if (link->next != NULL) {
        link->next->at = &link->next;
    }
    node->network->links = link;
    node->live++;
    return link;
}

static struct pco_link *new_link(void *engine, const char *address)
{
    struct psi_node *node = engine;
    pthread_mutex_lock(&node->network->mu);
    struct psi_link *link = link_new(node, address);
    pthread_mutex_unlock(&node->network->mu);
    if (link == NULL) {
        return NULL;
    }
    pco_link_init(&link->base, &node->core, false);
    return &link->base;
}

/* Make the other end. @locks network->mu held. @return why it cannot be, or NULL */
static const char *connect_to(struct psi_link *link, struct psi_node *there)
{
    struct psi_event *event = calloc(1, sizeof *event);
    struct psi_link *other = event == NULL ? NULL : link_new(there, link->node->address);
    if (other == NULL) {
        free(event);
        return "no memory";
    }
    pco_link_init(&other->base, &there->core, true);
    pco_link_ref(&other->base);
    pco_link_ref(&link->base);
    link->other = other;
    other->other = link;
    if (psi_is_cut(net_of(link), link->node->address, link->to) ||
        psi_is_cut(net_of(link), link->to, link->node->address)) {
        link->break_us = other->break_us = now_of(link) + net_of(link)->weather.detect_us;
        psi_link_arm(link);
    }
    *event = (struct psi_event){.kind = PSI_OPEN};
    (void)post(link, event);
    return NULL;
}

static void open_link(struct pco_link *base)
{
    struct psi_link *link = link_of(base);
    struct psi_network *net = net_of(link);
    pthread_mutex_lock(&net->mu);
    struct psi_node *there = net->nodes;
    while (there != NULL && strcmp(there->address, link->to) != 0) {
        there = there->next;
    }
    const char *why = there == NULL ? "nobody is there" : connect_to(link, there);
    if (why != NULL) {
        break_link(link, why);
    }
    pthread_mutex_unlock(&net->mu);
}

static void queue(struct pco_link *base, struct pco_message *message)
{
    struct psi_link *link = link_of(base);
    struct psi_network *net = net_of(link);
    struct psi_event *event = calloc(1, sizeof *event);
    pthread_mutex_lock(&net->mu);
    bool lost = psi_random(net) % 1000000u < net->weather.lost_per_million;
    if (event == NULL || !buffer_of(message, &event->message)) {
        lost = true;
    }
    if (lost) {
        net->trace.broken++;
        break_link(link, "a message was lost");
        if (link->other != NULL) {
            break_link(link->other, "a message was lost");
        }
    } else {
        event->kind = PSI_MESSAGE;
        event->frame_len = message->len;
        event->sender = link;
        if (post(link, event)) {
            pco_link_ref(base); /* not the last to go while link->mu is held */
            event = NULL;
        }
    }
    pthread_mutex_unlock(&net->mu);
    if (event != NULL) {
        sti_slice_release(&event->message);
        free(event);
    }
    pco_message_free(message);
}

static void flush(struct pco_link *base)
{
    (void)base; /* it is on its way since it was queued */
}

static void close_link(struct pco_link *base)
{
    struct psi_link *link = link_of(base);
    struct psi_network *net = net_of(link);
    pthread_mutex_lock(&net->mu);
    if (link->broken == NULL && !link->ended) {
        post_close(link, "the other side closed it");
        break_link(link, "it was closed");
    }
    pthread_mutex_unlock(&net->mu);
}

static void resume(struct pco_link *base)
{
    struct psi_link *link = link_of(base);
    pthread_mutex_lock(&net_of(link)->mu);
    link->paused = false;
    psi_link_arm(link);
    pthread_mutex_unlock(&net_of(link)->mu);
}

static void free_link(struct pco_link *base)
{
    struct psi_link *link = link_of(base);
    struct psi_network *net = net_of(link);
    pthread_mutex_lock(&net->mu);
    *link->at = link->next;
    if (link->next != NULL) {
        link->next->at = link->at;
    }
    link->node->live--;
    pthread_cond_broadcast(&net->changed);
    pthread_mutex_unlock(&net->mu);
    free(link);
}

static uint32_t random_of(void *engine)
{
    struct psi_network *net = ((struct psi_node *)engine)->network;
    pthread_mutex_lock(&net->mu);
    uint32_t number = psi_random(net);
    pthread_mutex_unlock(&net->mu);
    return number;
}

void psi_links_refuse(struct psi_node *node)
{
    pthread_mutex_lock(&node->network->mu);
    for (struct psi_link *link = node->network->links; link != NULL; link = link->next) {
        if (link->node == node && link->base.incoming && !link->accepted) {
            break_link(link, "the node ends");
        }
    }
    pthread_mutex_unlock(&node->network->mu);
}

const struct pco_ops psi_ops = {.new_link = new_link,
                                .open = open_link,
                                .queue = queue,
                                .flush = flush,
                                .close = close_link,
                                .finish = close_link, /* what was sent is there before it */
                                .resume = resume,
                                .free = free_link,
                                .random = random_of};
