// What the module consists of: every source registers its own functions.
#pragma once

#include <nanobind/nanobind.h>

void bind_rasterize(nanobind::module_& m);
void bind_ssim(nanobind::module_& m);
void bind_planes(nanobind::module_& m);
void bind_network(nanobind::module_& m);
void bind_gates(nanobind::module_& m);
void bind_rays(nanobind::module_& m);
void bind_splines(nanobind::module_& m);
void bind_clock(nanobind::module_& m);
