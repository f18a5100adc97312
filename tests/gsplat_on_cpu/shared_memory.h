// The memory that the threads of a block share, by the name that gsplat's kernels declare; one block runs at a time.
#pragma once

#include "Common.h"
#include "cuda_on_cpu.h"

namespace gsplat {
alignas(16) int s[cuda_on_cpu::SHARED / sizeof(int)];
}
