/* fault.h -- named points at which a fault build can be told to fail or to die.
 *
 * A build with STREAMIT_FAULTS=1, and the library that the unit tests link, calls `smm_fault_hook`,
 * when a test has set it, at each point; what the hook returns is taken as an errno, 0 for none,
 * and the hook may also end the process. In any other build the macro is the constant 0, and the
 * compiler drops the branch.
 */
#ifndef STORAGE_MMAP_FAULT_H
#define STORAGE_MMAP_FAULT_H

#if STREAMIT_FAULTS || defined(STORAGE_MMAP_TESTED)
#define SMM_FAULTS 1
extern int (*smm_fault_hook)(const char *point);
#define STI_FAULT(point) (smm_fault_hook == NULL ? 0 : smm_fault_hook(point))
#else
#define SMM_FAULTS       0
#define STI_FAULT(point) 0
#endif

#endif /* STORAGE_MMAP_FAULT_H */
