/* streamit/fault.h -- named points at which a fault build fails, waits or dies when it is told to.
 *
 *     int rc = STI_FAULT("segment.append.after_write");
 *     if (rc == 0 && fdatasync(fd) != 0) { rc = errno; }
 *
 * A point stands where an outside call could fail or a process could die: its value is an errno, 0
 * for none, and is treated as the failure of the call beside it. A point that only marks a moment
 * to die at is written STI_CRASH_POINT: nothing it returns could be answered there.
 *
 * In a build without STREAMIT_FAULTS=1 both are constants that the compiler drops: no branch, no
 * name, no symbol stays (tests/chaos checks that of every released file). In a fault build each
 * point's name stands in the section `sti_fault_points` of the file that contains it, from where
 * tools/fault_points.py lists all that there are, and two variables of the environment rule:
 *
 *     STREAMIT_FAULT      rules, separated by ';':   point:action[@when]
 *         point           a name, or the beginning of one and '*'
 *         action          kill (SIGKILL to oneself), sleep=<ms>, or an errno: EIO ENOSPC EDQUOT
 * EFBIG EMFILE ENFILE ENOMEM EROFS EACCES EINTR when            N    the Nth time that the rule is
 * met, once (the default: @1) N+   the Nth time and ever after pP   each time with probability P,
 * from 0 to 1 STREAMIT_FAULT_SEED the seed of probabilities, default 1 STREAMIT_FAULT_LOG  a file:
 * "<point> <action> <times met>\n" is appended before a rule acts
 *
 * A rule that cannot be understood ends the process with a sentence on stderr. Each shared library
 * has rules and counters of its own; a point's name stands in one library, so that this shows in
 * rules with '*' only.
 *
 * Names: <area>.<step>, lower case, where <step> says before or after what. A name stands once in
 * the source, and is never given to another place.
 *
 * Unit tests compile the code under test with STI_FAULT_TESTED and link the library streamit_fault:
 * then the function of sti_fault_set_hook, when there is one, decides instead of the environment.
 *
 * Threads: any. Never in a signal handler.
 */
#ifndef STREAMIT_FAULT_H
#define STREAMIT_FAULT_H

#ifndef STREAMIT_FAULTS
#define STREAMIT_FAULTS 0
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if STREAMIT_FAULTS || defined(STI_FAULT_TESTED)

/* Called at a point. @return an errno, or 0 */
int sti_fault_hit(const char *point);
/* The points of the library or program that this is linked into: NULL asks for the first, a point
 * for the one behind it. @return a static name, or NULL behind the last */
const char *sti_fault_next(const char *point);
/* What decides at a point from now on; NULL: the environment again. @return what did before */
int (*sti_fault_set_hook(int (*hook)(const char *point)))(const char *point);

#define STI_FAULT(point)                                                                           \
    (__extension__({                                                                               \
        static const char sti_fault_name_[] __attribute__((used, section("sti_fault_points"))) =   \
            point;                                                                                 \
        sti_fault_hit(sti_fault_name_);                                                            \
    }))

#else

#define STI_FAULT(point) 0

#endif

#define STI_CRASH_POINT(point) ((void)STI_FAULT(point))

#ifdef __cplusplus
}
#endif

#endif /* STREAMIT_FAULT_H */
