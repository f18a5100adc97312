#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace moegs {
namespace {

bool supported(Isa isa) {
#if defined(MOEGS_X86)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
#endif
  return isa == Isa::portable;
}

Isa parse(const char* name) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (std::strcmp(name, isa_name(isa)) != 0) continue;
    if (supported(isa)) return isa;
    throw std::runtime_error(std::string("MOEGS_NATIVE_ISA: this processor lacks '") + name +
                             "'; leave the variable unset to use what it has.");
  }
  throw std::runtime_error(std::string("MOEGS_NATIVE_ISA: expected avx512, avx2 or portable, got '") + name + "'.");
}

Isa choose() {
  const char* forced = std::getenv("MOEGS_NATIVE_ISA");
  if (forced != nullptr && *forced != '\0') return parse(forced);
  for (Isa isa : {Isa::avx512, Isa::avx2})
    if (supported(isa)) return isa;
  return Isa::portable;
}

std::atomic<int> chosen{-1};

}  // namespace

Isa active_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa < 0) chosen.store(isa = static_cast<int>(choose()), std::memory_order_relaxed);
  return static_cast<Isa>(isa);
}

void set_isa(const char* name) { chosen.store(static_cast<int>(parse(name)), std::memory_order_relaxed); }

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

}  // namespace moegs
