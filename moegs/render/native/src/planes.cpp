#include "module.h"

void bind_planes(nanobind::module_&) {}
