#include "module.h"

void bind_rasterize(nanobind::module_&) {}
