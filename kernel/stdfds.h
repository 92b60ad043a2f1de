/* stdfds.h -- descriptors 0, 1 and 2 belong to standard input, output and error, or to nothing.
 *
 * A program that is started with one of them closed would get that number for the next file that it
 * opens, and what it means to say to a person would land in that file: log lines in a segment.
 */
#ifndef STREAMIT_KERNEL_STDFDS_H
#define STREAMIT_KERNEL_STDFDS_H

/* Occupy each of the three that is closed, so that reading from or writing to it fails with EBADF,
 * as if it were closed still. A program that calls this has it done before anything else runs, also
 * before the constructors of its libraries, of which some open files; the call itself does no more.
 */
void krn_stdfds_init(void);

#endif /* STREAMIT_KERNEL_STDFDS_H */
