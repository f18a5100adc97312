// A small thread pool in which the caller works too.
//
// The caller takes pieces from the same counter as the helpers and, once none is left, waits only for pieces that a
// helper has begun: a helper that the operating system has not scheduled yet costs nothing. Results must not depend on
// who computes a piece; then they do not depend on the number of threads either.
#pragma once

#include <cstddef>
#include <type_traits>

namespace moegs {

using PieceFunction = void (*)(void* context, size_t piece);

// Calls function(context, 0 … pieces-1), each once, on the caller and up to threads-1 helpers. Safe to call from several
// threads at a time and after fork(). The function must not throw.
void parallel_for(size_t pieces, int threads, PieceFunction function, void* context);

// The same for a callable: parallel(pieces, threads, [&](size_t piece) { ... }).
template <class F>
void parallel(size_t pieces, int threads, F&& f) {
  parallel_for(
      pieces, threads, [](void* context, size_t piece) { (*static_cast<std::remove_reference_t<F>*>(context))(piece); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Wakes helpers for a parallel_for that is about to come; they fall asleep again if none does.
void rouse_helpers(int threads);

}  // namespace moegs
