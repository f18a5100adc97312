// Compositing of one tile, forward and backward.
#pragma once

#include "dispatch.h"
#include "raster_types.h"

MOEGS_KERNEL(void forward_tile(const TileJob& job, size_t list))
MOEGS_KERNEL(void backward_tile(const TileJob& job, size_t list))
