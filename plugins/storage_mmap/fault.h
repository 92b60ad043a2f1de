/* fault.h -- the fault points of this plugin are those of streamit/fault.h; the older name of the
 * unit tests' hook. */
#ifndef STORAGE_MMAP_FAULT_H
#define STORAGE_MMAP_FAULT_H

#include "streamit/fault.h"

#define smm_fault_hook sti_fault_hook

#endif /* STORAGE_MMAP_FAULT_H */
