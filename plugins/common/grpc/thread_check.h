/* thread_check.h -- tells ThreadSanitizer that a tag passes from one thread to another through
 * gRPC, whose code it cannot see. Nothing in other builds. */
#ifndef GRPC_COMMON_THREAD_CHECK_H
#define GRPC_COMMON_THREAD_CHECK_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GCO_THREAD_CHECK 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define GCO_THREAD_CHECK 1
#endif

#ifdef GCO_THREAD_CHECK
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define gco_thread_release(tag) __tsan_release(tag)
#define gco_thread_acquire(tag) __tsan_acquire(tag)
#else
#define gco_thread_release(tag) ((void)(tag))
#define gco_thread_acquire(tag) ((void)(tag))
#endif

#endif /* GRPC_COMMON_THREAD_CHECK_H */
