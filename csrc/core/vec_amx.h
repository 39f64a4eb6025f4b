// vec.h for AMX, whose CPUs have AVX-512.
#pragma once

#include "core/vec_avx512.h"
