/* thread_check.h -- tells ThreadSanitizer that a tag passes from one thread to another through
 * gRPC, whose code it cannot see. Nothing in other builds. */
#ifndef TRANSPORT_GRPC_THREAD_CHECK_H
#define TRANSPORT_GRPC_THREAD_CHECK_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TGR_THREAD_CHECK 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TGR_THREAD_CHECK 1
#endif

#ifdef TGR_THREAD_CHECK
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define tgr_thread_release(tag) __tsan_release(tag)
#define tgr_thread_acquire(tag) __tsan_acquire(tag)
#else
#define tgr_thread_release(tag) ((void)(tag))
#define tgr_thread_acquire(tag) ((void)(tag))
#endif

#endif /* TRANSPORT_GRPC_THREAD_CHECK_H */
