/* metrics.c -- figures of this listener, each labelled with its instance. */
#include <stdio.h>

#include "transport.h"

/* Find or make a counter. The kernel copies labels, so the buffer may go. */
static struct sti_metric *counter(struct tgr_transport *t, const char *name, const char *label,
                                  const char *value, const char *help)
{
    char labels[192];
    if (label != NULL) {
        (void)snprintf(labels, sizeof labels, "listener=\"%s\",%s=\"%s\"", t->host->instance, label,
                       value);
    } else {
        (void)snprintf(labels, sizeof labels, "listener=\"%s\"", t->host->instance);
    }
    return t->host->metric(t->host->ctx, STI_METRIC_COUNTER, name, labels, help);
}

void tgr_metrics_init(struct tgr_transport *t)
{
    char labels[192];
    for (int m = 0; m < TGR_METHODS; m++) {
        struct tgr_method_metrics *metrics = &t->metrics[m];
        const char *label = tgr_methods[m].label;
        metrics->received_bytes = counter(t, "streamit_grpc_received_bytes_total", "method", label,
                                          "Bytes of request messages.");
        bool record_stream = tgr_is_record_stream((enum tgr_method)m);
        if (record_stream || tgr_is_stream((enum tgr_method)m)) {
            (void)snprintf(labels, sizeof labels, "listener=\"%s\",method=\"%s\"",
                           t->host->instance, label);
            metrics->open =
                t->host->metric(t->host->ctx, STI_METRIC_GAUGE, "streamit_grpc_streams_open",
                                labels, "Streams that are open");
        }
        if (record_stream) {
            metrics->received_messages = counter(t, "streamit_grpc_received_messages_total",
                                                 "method", label, "Messages read from streams.");
            metrics->sent_messages = counter(t, "streamit_grpc_sent_messages_total", "method",
                                             label, "Messages written to streams.");
        }
        metrics->sent_bytes = counter(t, "streamit_grpc_sent_bytes_total", "method", label,
                                      "Bytes of response messages.");
        (void)snprintf(labels, sizeof labels, "listener=\"%s\",method=\"%s\"", t->host->instance,
                       label);
        metrics->latency_us =
            t->host->histogram(t->host->ctx, "streamit_grpc_request_duration_seconds", labels,
                               "Time from the arrival of a request to its answer.");
        metrics->send_us =
            tgr_is_stream((enum tgr_method)m) || tgr_is_record_stream((enum tgr_method)m)
                ? NULL
                : t->host->histogram(t->host->ctx, "streamit_grpc_send_seconds", labels,
                                     "Time from an answer until it has left, or its client has.");
    }
    t->copied_bytes = counter(t, "streamit_grpc_copied_bytes_total", NULL, NULL,
                              "Bytes of records copied to encode or decode them; batches are not "
                              "copied.");
    t->poller_loops = counter(t, "streamit_grpc_poller_events_total", NULL, NULL,
                              "Events that the poller threads took from gRPC.");
    t->malformed = counter(t, "streamit_grpc_malformed_requests_total", NULL, NULL,
                           "Requests that could not be decoded.");
    (void)snprintf(labels, sizeof labels, "listener=\"%s\"", t->host->instance);
    t->stream_requests = t->host->metric(
        t->host->ctx, STI_METRIC_GAUGE, "streamit_grpc_stream_requests_in_flight", labels,
        "Requests of produce streams that have been read and not yet answered in full.");
    t->calls_in_flight =
        t->host->metric(t->host->ctx, STI_METRIC_GAUGE, "streamit_grpc_calls_in_flight", labels,
                        "Calls that have arrived and are not yet answered in full.");
}

/* The counter of one method and code is made when the pair is first met: most never are. */
static struct sti_metric *requests_of(struct tgr_rpc *rpc, unsigned number)
{
    struct tgr_transport *t = rpc->t;
    struct sti_metric *metric =
        atomic_load_explicit(&t->metrics[rpc->method].requests[number], memory_order_acquire);
    if (metric == NULL) {
        char labels[192];
        (void)snprintf(labels, sizeof labels, "listener=\"%s\",method=\"%s\",code=\"%s\"",
                       t->host->instance, tgr_methods[rpc->method].label,
                       sti_status_name((int)number));
        metric = t->host->metric(t->host->ctx, STI_METRIC_COUNTER, "streamit_grpc_requests_total",
                                 labels, "Requests answered, by method and status code.");
        atomic_store_explicit(&t->metrics[rpc->method].requests[number], metric,
                              memory_order_release);
    }
    return metric;
}

void tgr_metrics_count(struct tgr_rpc *rpc, int code, size_t sent_bytes)
{
    unsigned number = code <= 0 ? 0u - (unsigned)code : (unsigned)code;
    struct tgr_method_metrics *metrics = &rpc->t->metrics[rpc->method];
    if (number >= TGR_CODES) {
        number = (unsigned)-STI_E_INTERNAL;
    }
    sti_metric_add(requests_of(rpc, number), 1);
    sti_metric_add(metrics->sent_bytes, sent_bytes);
    if (!tgr_is_stream(rpc->method) && !tgr_is_record_stream(rpc->method)) {
        rpc->answered_us = sti_now_us(rpc->t->host);
        sti_histogram_record(metrics->latency_us, rpc->answered_us - rpc->request.received_us);
    }
}

void tgr_metrics_sent(struct tgr_rpc *rpc)
{
    if (rpc->answered_us != 0) {
        sti_histogram_record(rpc->t->metrics[rpc->method].send_us,
                             sti_now_us(rpc->t->host) - rpc->answered_us);
    }
}
