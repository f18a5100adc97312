#include "module.h"

void bind_ssim(nanobind::module_&) {}
