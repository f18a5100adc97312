// Which instruction set the kernels run on, chosen once from what the processor offers.
//
// A file src/<x>_kernels.cpp is compiled once per instruction set, with MOEGS_ISA (portable, avx2 or avx512) naming the
// namespace to put its functions into and MOEGS_ISA_LEVEL (0, 1, 2) for the preprocessor:
//
//   x_kernels.h:    MOEGS_KERNEL(void blur(const float* in, float* out, int n))
//   x_kernels.cpp:  namespace moegs::MOEGS_ISA { void blur(const float* in, float* out, int n) { ... } }
//   x.cpp:          MOEGS_PICK(blur)(in, out, n);
//
// Kernel files must not use inline functions of the standard library (std::vector, std::max, ...): the linker keeps one
// copy of each, which may be the AVX-512 one. Plain pointers, builtins and anonymous namespaces only.
#pragma once

namespace moegs {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

// Honours MOEGS_NATIVE_ISA=avx512|avx2|portable; throws std::runtime_error for a set this processor lacks.
Isa active_isa();
void set_isa(const char* name);
const char* isa_name(Isa isa);

}  // namespace moegs

#define MOEGS_KERNEL(...)               \
  namespace moegs::portable {           \
  __VA_ARGS__;                          \
  }                                     \
  namespace moegs::avx2 {               \
  __VA_ARGS__;                          \
  }                                     \
  namespace moegs::avx512 {             \
  __VA_ARGS__;                          \
  }

#if defined(MOEGS_X86)
#define MOEGS_PICK(function)                                                      \
  (moegs::active_isa() == moegs::Isa::avx512 ? &moegs::avx512::function           \
   : moegs::active_isa() == moegs::Isa::avx2 ? &moegs::avx2::function             \
                                             : &moegs::portable::function)
#else
#define MOEGS_PICK(function) (&moegs::portable::function)
#endif
