#include "module.h"

#include <nanobind/stl/string.h>

#include "dispatch.h"
#include "pool.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // a graph that is alive when the interpreter exits is no leak of ours
  m.doc() = "CPU kernels of moegs. Use moegs.render; nothing here is a public interface.";
  m.def("isa", [] { return std::string(moegs::isa_name(moegs::active_isa())); },
        "Instruction set the kernels run on: avx512, avx2 or portable.");
  m.def("set_isa", [](const std::string& name) { moegs::set_isa(name.c_str()); }, nb::arg("name"),
        "Choose the instruction set for all later calls (tests compare them).");
  m.def("rouse", &moegs::rouse_helpers, nb::arg("threads"), "Wake the pool's helpers for a call that is about to come.");
  bind_rasterize(m);
  bind_ssim(m);
  bind_planes(m);
  bind_network(m);
  bind_gates(m);
  bind_rays(m);
  bind_splines(m);
  bind_clock(m);
}
