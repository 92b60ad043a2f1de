/* broker_plugin.h -- the broker as a built-in plugin: what the daemon hands to the kernel beside
 * the loaded ones. */
#ifndef STREAMIT_BROKER_PLUGIN_H
#define STREAMIT_BROKER_PLUGIN_H

#include "streamit/plugin.h"

/* Instance name "broker", configuration section `broker`. Provides "streamit.broker". */
extern const struct sti_plugin sti_broker_plugin;

#endif /* STREAMIT_BROKER_PLUGIN_H */
